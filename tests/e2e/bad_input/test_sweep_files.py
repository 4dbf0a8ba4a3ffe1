"""Sweep files that cannot be run: refused before the store has a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bad_input.matrices import GOOD, changed, write
from tests.e2e.driver import Bench, refused

SWEEP: dict[str, Any] = {
    "name": "small",
    "base": "m.yaml",
    "method": "smote",
    "search": {"settings.smote.k_neighbors": {"type": "int", "low": 1, "high": 5}},
    "objectives": [{"metric": "val_map_tail", "direction": "maximize"}],
    "sampler": {"name": "RandomSampler", "seed": 0},
    "n_trials": 1,
}
K, RATE = "search/settings.smote.k_neighbors", "search/classifier.learning_rate"
HERE = ".search.settings.smote.k_neighbors"
GRID = {"name": "GridSampler", "seed": 0}

# what is changed, and how the line goes on after `error: s.yaml`
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "key": ({"serach": 1}, ".serach: unknown setting; did you mean 'search'?"),
    "name": ({"name": "A B"}, ".name: want text that matches ^[a-z0-9][a-z0-9_-]*$, got 'A B'"),
    "long name": ({"name": "a" * 300}, ".name: want 100 or fewer characters"),
    "base": ({"base": "toi"}, ".base: matrix 'toi': no such file and no shipped matrix of that name; did you mean 'toy'?"),
    "base that is a folder": ({"base": "/"}, ".base: matrix '/': is a folder"),
    "base of a number": ({"base": 3}, ".base: want text"),
    "set to what cannot be": ({"set": {"classifier.steps": 0}}, ".base.classifier.steps: want 1 or more, got 0"),
    "set through a word": ({"set": {"name.x": 1}}, ".set: name.x=1: nothing to set at 'x': there is 'small', not a mapp"),
    "set of a list": ({"set": [1]}, ".set: want a mapping (lines `key: value`), got [1]"),
    "method": ({"method": "smite"}, ".method: no method 'smite'; did you mean 'smote'?"),
    "method with a value": ({"method": "smote@3"}, "'smote@3': method 'smote' takes no '@' value"),
    "nothing to search": ({"search": {}}, ".search: want 1 or more items, got {}"),
    "what to search": (
        {"search": {"settings.smote.k_neighbor": {"type": "int", "low": 1, "high": 2}}},
        ".search: no setting 'settings.smote.k_neighbor' to vary; did you mean 'settings.smote.k_neighbors'?",
    ),
    "another ruler": (
        {"search": {"split.val": {"type": "float", "low": 0.1, "high": 0.2}}},
        ".search: no setting 'split.val' to vary",
    ),
    "bounds reversed": ({f"{K}/low": 9}, f"{HERE}: low 9 is above high 5"),
    "bound in words": ({f"{K}/low": "few"}, f"{HERE}.low: want a whole number, got 'few'"),
    "bound of a yes": ({f"{K}/low": True}, f"{HERE}.low: want a number, got true"),
    "bound that is refused": ({f"{K}/low": 0}, f"{HERE}: 0 is refused: s.yaml.methods.0: smote.k_neighbors: want 1 or m"),
    "no step": ({f"{K}/step": 0}, f"{HERE}.step: want 1 or more, got 0"),
    "key of a range": ({f"{K}/hi": 3}, f"{HERE}.hi: unknown setting; did you mean 'high'? (have: high, log, low, step, ty"),
    "kind of range": ({f"{K}/type": "integer"}, f"{HERE}: no type 'integer'; did you mean 'int'? (have: categorical, fl"),
    "range without a kind": ({K: {"low": 1, "high": 2}}, f"{HERE}: want a mapping with 'type', got {{"),
    "range in words": ({K: "1..5"}, f"{HERE}: want a mapping (lines `key: value`), got '1..5'"),
    "endless range": ({RATE: {"type": "float", "low": 0, "high": float("inf")}}, ".high: want a finite number, got inf"),
    "logarithm of nothing": (
        {RATE: {"type": "float", "low": 0, "high": 1, "log": True}},
        ".search.classifier.learning_rate: log needs low above 0, got 0.0",
    ),
    "logarithm with steps": (
        {RATE: {"type": "float", "low": 0.1, "high": 1, "log": True, "step": 0.1}},
        ".search.classifier.learning_rate: log and step exclude each other; give one of them",
    ),
    "no choices": ({K: {"type": "categorical", "choices": []}}, f"{HERE}.choices: want 1 or more items, got []"),
    "a choice twice": ({K: {"type": "categorical", "choices": [1, 2, 1]}}, f"{HERE}: the choice 1 is there twice; give it"),
    "a choice of nothing": ({K: {"type": "categorical", "choices": [None]}}, f"{HERE}.choices.0: want true or false, a who"),
    "a choice that is refused": (
        {K: {"type": "categorical", "choices": [1, "many"]}},
        f"{HERE}: 'many' is refused: s.yaml.methods.0: smote.k_neighbors: want a whole number, got 'many'",
    ),
    "metric": ({"objectives/0/metric": "val_map_tial"}, ".objectives.0: no metric 'val_map_tial'; did you mean 'val_map_t"),
    "metric of test": ({"objectives/0/metric": "map_tail"}, ".objectives.0: 'map_tail' is read on test, a sweep selects on"),
    "direction": ({"objectives/0/direction": "max"}, ".direction: want 'maximize' or 'minimize', got 'max'; did you mean"),
    "no objective": ({"objectives": []}, ".objectives: want 1 or more items, got []"),
    "sampler": ({"sampler/name": "TPE"}, ".sampler.name: want 'TPESampler', 'RandomSampler', "),
    "sampler without a seed": ({"sampler": {"name": "RandomSampler"}}, ".sampler.seed: is not given; it has no default"),
    "sampler's option": ({"sampler/options": {"startups": 1}}, ".sampler.options: RandomSampler.__init__() got an unexpec"),
    "no trials": ({"n_trials": 0}, ".n_trials: want 1 or more, got 0"),
    "seeds twice": ({"seeds": [0, 0]}, ": the cell phantom/smote/s0 is there twice"),
    "negative seed": ({"seeds": [-1]}, ".seeds.0: want 0 or more, got -1"),
    "queued setting": (
        {"enqueue": [{"settings.smote.k": 1}]},
        ".enqueue.0: 'settings.smote.k' is not searched; did you mean 'settings.smote.k_neighbors'?",
    ),
    "queued value": (
        {"enqueue": [{"settings.smote.k_neighbors": 9}]},
        ".enqueue.0.settings.smote.k_neighbors: 9 is outside of what `search` allows; widen the range",
    ),
    "grid of no steps": (
        {"sampler": GRID, RATE: {"type": "float", "low": 0.1, "high": 0.2}},
        ".search.classifier.learning_rate: GridSampler needs a step for a float range",
    ),
    "grid without end": (
        {"sampler": GRID, f"{K}/high": 10**12},
        f"{HERE}: want 10000 values or fewer for GridSampler, got 1000000000000; give a larger step",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_faulty_sweep_is_refused(bench: Bench, tmp_path: Path, case: str) -> None:
    changes, said = CASES[case]
    write(tmp_path, changed({"methods": ["baseline", "smote"]}, GOOD))
    path = write(tmp_path, changed(changes, SWEEP), "s.yaml")
    line = refused(bench, "sweep", path, "--store", tmp_path / "store", "--jobs", 1, "--quiet", folder=tmp_path)
    assert line.startswith("s.yaml")
    assert said in line


def test_a_sweep_of_a_faulty_matrix_names_the_base(bench: Bench, tmp_path: Path) -> None:
    write(tmp_path, "a: 1\n")
    path = write(tmp_path, changed({}, SWEEP), "s.yaml")
    line = refused(bench, "sweep", path, "--store", tmp_path / "store", folder=tmp_path)
    assert line.startswith("s.yaml.base.a: unknown setting")
