"""The confirmation of a sweep: fresh seeds, the untuned setting beside, and what was left of the gain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.cli.show_sweep import tables_of
from bench.errors import ConfigError
from bench.matrix.load import load_matrix
from bench.store.store import Store
from bench.store.work import Execution
from sweeps import confirmation, study
from sweeps.confirmation import confirmed
from sweeps.outcome import SweepResult, TrialRow
from sweeps.result_files import write_outcome
from sweeps.settings import load_sweep
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.unit.sweeps.test_sweep_settings import sweep_file

pytestmark = pytest.mark.usefixtures("methods")

LEVEL = "settings.copies.noise.level"
RATE = "classifier.learning_rate"
PER_CLASS = "augment.per_class"


def result_of(values: dict[int, tuple[dict[str, Any], float]], pareto: tuple[int, ...] = ()) -> SweepResult:
    trials = tuple(
        TrialRow(n, "done", {"val_map_tail": value}, params, 1.0, False, None) for n, (params, value) in values.items()
    )
    best = max(values, key=lambda n: values[n][1])
    return SweepResult("study", {"val_map_tail": "maximize"}, trials, best, pareto or (best,), {})


def test_each_of_the_best_is_a_row_with_all_that_it_changes(tmp_path: Path) -> None:
    search = {LEVEL: {"type": "int", "low": 0, "high": 9}, RATE: {"type": "float", "low": 1e-5, "high": 1e-2}}
    sweep = load_sweep(sweep_file(tmp_path, search=search, confirm={"best": 2, "n_seeds": 3}, seeds=[4, 9]))
    found = result_of({n: ({LEVEL: n, RATE: 10.0**-n / 2}, value) for n, value in ((2, 0.3), (3, 0.5), (4, 0.4))})
    write_outcome(found, sweep, tmp_path)
    matrix = load_matrix(tmp_path / "study.best.yaml")
    assert list(dict.fromkeys(c.label for c in matrix.cells)) == [
        "baseline", "copies@1", "copies@1 trial 3", "copies@1 trial 4",
    ]  # fmt: skip
    assert sorted({c.seed for c in matrix.cells}) == [10, 11, 12]
    for n in (3, 4):
        cell = matrix.cell(f"copies@1 trial {n}/s10")
        method: Any = cell.method
        assert (method.noise.level, cell.classifier.settings.learning_rate) == (n, 10.0**-n / 2)


def test_a_setting_that_all_rows_share_leaves_one_tuned_row_under_its_trials_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    search = {PER_CLASS: {"type": "int", "low": 1, "high": 9}, LEVEL: {"type": "int", "low": 0, "high": 9}}
    sweep = load_sweep(sweep_file(tmp_path, search=search))
    found = result_of({2: ({PER_CLASS: 2, LEVEL: 4}, 0.20), 5: ({PER_CLASS: 5, LEVEL: 7}, 0.26)})  # 2 is the base's own
    write_outcome(found, sweep, tmp_path)
    matrix = load_matrix(tmp_path / "study.best.yaml")
    assert list(dict.fromkeys(c.label for c in matrix.cells)) == ["baseline", "copies@1 trial 5"]
    tuned: Any = matrix.cell("copies@1 trial 5/s1").method
    assert (matrix.settings.augment.per_class, tuned.noise.level) == (5, 7)
    monkeypatch.setattr(Store, "has", lambda self, stage: True)
    monkeypatch.setattr(confirmation, "read_metric", lambda cell, metric, store: 0.24)
    told = confirmed(found, sweep, matrix, Store(tmp_path / "store"))
    assert told is not None
    assert [r.shown()[:3] for r in told.rows] == [["baseline", "–", "0.2400"], ["copies@1 trial 5", "0.2600", "0.2400"]]
    assert told.line() == (
        "Best on val with fresh seeds: copies@1 trial 5. Its gain is not known: augment.per_class belongs to the whole "
        "matrix, so no untuned row can stand beside it. In the search, the best trial was +0.0600 against the untuned one."
    )


def test_the_untuned_setting_that_is_the_best_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = load_sweep(sweep_file(tmp_path, search={PER_CLASS: {"type": "int", "low": 1, "high": 9}}))
    found = result_of({2: ({PER_CLASS: 2}, 0.26), 5: ({PER_CLASS: 5}, 0.20)})
    write_outcome(found, sweep, tmp_path)
    matrix = load_matrix(tmp_path / "study.best.yaml")
    monkeypatch.setattr(Store, "has", lambda self, stage: True)
    monkeypatch.setattr(confirmation, "read_metric", lambda cell, metric, store: 0.24)
    told = confirmed(found, sweep, matrix, Store(tmp_path / "store"))
    assert told is not None
    assert [(r.row, r.searched) for r in told.rows] == [("baseline", None), ("copies@1", 0.26)]
    assert told.line() == "No row of the confirmation is tuned: the best trial is the untuned setting."


def test_the_untuned_row_is_there_if_the_best_shares_what_all_rows_share(tmp_path: Path) -> None:
    search = {PER_CLASS: {"type": "int", "low": 1, "high": 9}, LEVEL: {"type": "int", "low": 0, "high": 9}}
    sweep = load_sweep(sweep_file(tmp_path, search=search))
    tried = {2: (2, 4, 0.20), 5: (5, 7, 0.25), 6: (2, 7, 0.26), 8: (2, 9, 0.24)}  # of the base: 2, 4
    write_outcome(result_of({n: ({PER_CLASS: k, LEVEL: v}, m) for n, (k, v, m) in tried.items()}), sweep, tmp_path)
    labels = dict.fromkeys(c.label for c in load_matrix(tmp_path / "study.best.yaml").cells)
    assert list(labels) == ["baseline", "copies@1", "copies@1 trial 6", "copies@1 trial 8"]


def test_controls_are_checked_before_the_search(tmp_path: Path) -> None:
    path = sweep_file(tmp_path, controls=["baselin"])
    with pytest.raises(ConfigError, match=r"study\.yaml\.controls.*baselin"):
        study.run_sweep(path, Store(tmp_path / "store"), execution=Execution("cpu"))
    assert not (tmp_path / "store" / "studies").exists()


def test_choosing_among_rows_that_are_alike_gains_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of three rows at the seeds that it was chosen by would gain +0.0054 on average, with this spread."""
    level = tiny()["settings"]["copies"]["noise"]["level"]
    sweep = load_sweep(sweep_file(tmp_path, search={LEVEL: {"type": "int", "low": 0, "high": 9}}))
    trials = {n: ({LEVEL: (level + n) % 10}, 0.2 + n / 100) for n in range(4)}
    found = result_of(trials)
    write_outcome(found, sweep, tmp_path)
    matrix = load_matrix(tmp_path / "study.best.yaml")
    monkeypatch.setattr(Store, "has", lambda self, stage: True)
    rng, gains = np.random.default_rng(1), []
    for _ in range(400):
        drawn = {c.name: float(rng.normal(0.15, 0.016)) for c in matrix.cells}
        monkeypatch.setattr(confirmation, "read_metric", lambda cell, metric, store, drawn=drawn: drawn[cell.name])
        told = confirmed(found, sweep, matrix, Store(tmp_path / "store"))
        assert told is not None
        gains.append(told.gain_confirmed)
    error = np.std(gains) / np.sqrt(len(gains))
    assert abs(np.mean(gains)) < 3 * error
    assert 3 * error < 0.0027  # so a gain of +0.0054 would have shown


def test_the_gain_that_stays_is_paired_by_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = tiny()
    level = base["settings"]["copies"]["noise"]["level"]
    sweep = load_sweep(sweep_file(tmp_path, search={LEVEL: {"type": "int", "low": 0, "high": 9}}))
    other = (level + 1) % 10
    found = result_of({0: ({LEVEL: level}, 0.20), 1: ({LEVEL: other}, 0.26), 2: ({LEVEL: (level + 2) % 10}, 0.25)})
    write_outcome(found, sweep, tmp_path)
    matrix = load_matrix(tmp_path / "study.best.yaml")
    rng = np.random.default_rng(0)
    drawn = {c.name: float(rng.normal({"copies@1 trial 2": 0.24}.get(c.label, 0.2), 0.01)) for c in matrix.cells}
    monkeypatch.setattr(Store, "has", lambda self, stage: True)
    monkeypatch.setattr(confirmation, "read_metric", lambda cell, metric, store: drawn[cell.name])
    told = confirmed(found, sweep, matrix, Store(tmp_path / "store"))
    assert told is not None
    pairs = [drawn[f"phantom/copies@1 trial 2/s{s}"] - drawn[f"phantom/copies@1/s{s}"] for s in range(1, 7)]
    assert told.chosen == "copies@1 trial 2"  # not the trial that was the best in the search
    assert told.gain_searched == pytest.approx(0.06)
    assert told.gain_confirmed == pytest.approx(np.mean(pairs))
    assert told.sd == pytest.approx(np.std(pairs, ddof=1))
    assert told.n == 6
    assert {r.row: r.searched for r in told.rows} == {
        "baseline": None, "copies@1": 0.20, "copies@1 trial 1": 0.26, "copies@1 trial 2": 0.25,
    }  # fmt: skip
    assert "In the search, the best trial was +0.0600 against the untuned one." in told.line()
    assert "no gain" not in told.line()
    drawn |= {name: 0.9 for name in drawn if "/copies@1/" in name}
    worse = confirmed(found, sweep, matrix, Store(tmp_path / "store"))
    assert worse is not None
    assert worse.line().endswith("That is no gain: keep the untuned setting.")


def test_a_trial_whose_process_stopped_and_its_repetition_count_once() -> None:
    found = result_of({n: ({LEVEL: n}, n / 10) for n in (1, 2)})
    stopped = TrialRow(0, "failed", {}, {LEVEL: 1}, None, False, "its process stopped", retried_as=1)
    told = replace(found, trials=(stopped, *found.trials)).standing(2)
    assert told == "2 of 2 ended, best: trial 2 with val_map_tail 0.2000"


def test_rows_whose_names_look_like_ids_have_none_in_tables_that_leave(tmp_path: Path) -> None:
    sweep = load_sweep(sweep_file(tmp_path, search={LEVEL: {"type": "int", "low": 0, "high": 9}}))
    result = result_of({0: ({LEVEL: 3}, 0.5)})
    rows = tuple(confirmation.ConfirmedRow(name, None, 0.25, None, 1) for name in ("of p10000032", "plain"))
    found = confirmation.Confirmed("val_map_tail", rows, "of p10000032", None, 0.1, None, 1, True)
    text = tables_of(result, sweep, found, all_words=False)
    assert "10000032" not in text
    assert "| row 1 |" in text
    assert "Best on val with fresh seeds: row 1." in text
    assert "| plain |" in text
    assert "| of p10000032 |" in tables_of(result, sweep, found, all_words=True)
