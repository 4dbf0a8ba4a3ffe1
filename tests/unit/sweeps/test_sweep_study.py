"""Studies: resumable, shared, honest about failures, and blind to test."""

from __future__ import annotations

import csv
import io
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bench.errors import ConfigError
from bench.matrix.load import load_matrix
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage
from bench.run.inline import Inline
from bench.run.placement import ChosenExecutor
from bench.store.store import Store
from bench.store.work import Execution
from sweeps import study, trials
from sweeps.outcome import SweepResult
from sweeps.settings import load_sweep
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.unit.sweeps.test_sweep_settings import sweep_file

pytestmark = pytest.mark.usefixtures("methods")

LEVEL, GAIN, FAILS = "settings.copies.noise.level", "settings.copies.gain", "settings.copies.fails"
FREE = {LEVEL: {"type": "int", "low": 0, "high": 50}, GAIN: {"type": "float", "low": 0.5, "high": 2.0, "log": True}}


def sweep(path: Path, store: Store, **options: Any) -> SweepResult:
    return study.run_sweep(path, store, execution=Execution("cpu"), **options)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Measure a trial by a formula instead of training; the list receives the noise level of each."""
    seen: list[int] = []

    def values(self: trials.Trials, matrix: Matrix, metrics: list[str]) -> list[float]:
        method: Any = matrix.cells[0].method
        seen.append(method.noise.level)
        return [1 - (method.noise.level - 20) ** 2 / 1000 - abs(method.gain - 1)]

    monkeypatch.setattr(study, "run_stages", lambda targets, store, **options: None)
    monkeypatch.setattr(trials.Trials, "values", values)
    return seen


def on_run(monkeypatch: pytest.MonkeyPatch, action: Callable[[], None]) -> None:
    def run_stages(targets: Iterable[Stage], store: Store, **options: Any) -> None:
        action()

    monkeypatch.setattr(study, "run_stages", run_stages)


def params(result: SweepResult) -> list[dict[str, Any]]:
    return [t.params for t in result.trials]


def test_a_sweep_trains_and_looks_at_val_only(tmp_path: Path) -> None:
    search = {LEVEL: {"type": "int", "low": 0, "high": 9}, FAILS: {"type": "categorical", "choices": [False, True]}}
    objectives = [{"metric": "val_map_tail", "direction": "maximize"}, {"metric": "fid_tail", "direction": "minimize"}]
    first = [{LEVEL: 3, FAILS: False}, {LEVEL: 4, FAILS: True}, {LEVEL: 5, FAILS: False}]
    path = sweep_file(tmp_path, search=search, objectives=objectives, enqueue=first)
    store, said = Store(tmp_path / "store"), []
    result = sweep(path, store, say=said.append)

    assert [t.state for t in result.trials] == ["done", "failed", "done"]
    assert params(result) == first
    assert "asked to fail" in result.trials[1].reason
    assert [line.partition(":")[0] for line in said] == [
        "trial 0 of 3", "trial 0", "trial 1 of 3", "trial 1 failed", "trial 2 of 3", "trial 2",
    ]  # fmt: skip
    assert said[2] == "trial 1 of 3: fails True, level 4"
    assert "; 3 of 3 ended, best: trial " in said[-1]
    assert not (store.root / "scores").exists()  # the stage that reads test
    manifests = {m["stage"]: m for m in store.manifests()}
    assert manifests["fidelity"]["identity"]["settings"]["reference"] == "val"
    for trial in (result.trials[0], result.trials[2]):
        cell = load_sweep(path).matrix(trial.params).cells[0]
        record = cell.classifier.open(store.folder(cell.classifier)).record
        fidelity = cell.fidelity.open(store.folder(cell.fidelity))
        assert trial.values == {"val_map_tail": record["val_map_tail"], "fid_tail": fidelity["fid_tail"]}
    assert result.best == max((0, 2), key=lambda n: (result.trials[n].values["val_map_tail"], -n))
    assert set(result.pareto) <= {0, 2}

    again = sweep(path, store)
    assert again == result  # it has its total: nothing runs

    found = load_matrix(result.best_path)
    tuned = {f"copies@1 trial {n}": (result.trials[n].params[LEVEL], False) for n in (0, 2)}
    seeds = range(1, 7)  # no trial has used them
    assert {c.name for c in found.cells} == {
        f"phantom/{row}/s{s}" for row in ("baseline", "copies@1", *tuned) for s in seeds
    }
    for row, wanted in tuned.items():
        method: Any = found.cell(f"phantom/{row}/s3").method
        assert (method.noise.level, method.fails) == wanted
        assert found.cell(f"phantom/{row}/s3").against == ("copies@1",)
    assert found.settings.fidelity.reference == "held_out"  # `bench run` measures it as the base does
    rows = list(csv.DictReader(Path(result.files["csv"]).read_text().splitlines()))
    assert [r["state"] for r in rows] == ["done", "failed", "done"]
    assert json.loads(Path(result.files["json"]).read_text()) == result.as_dict()


def test_a_trial_with_bad_images_gets_no_classifier(tmp_path: Path) -> None:
    search = {LEVEL: {"type": "int", "low": 0, "high": 50}}
    objectives = [{"metric": "val_map_tail", "direction": "maximize"}, {"metric": "fid_tail", "direction": "minimize"}]
    first = [{LEVEL: level} for level in (2, 20, 50, 1, 30)]
    gate = {"metric": "fid_tail", "keep": 0.4, "after": 2}
    path = sweep_file(tmp_path, search=search, objectives=objectives, enqueue=first, gate=gate, n_trials=5)
    store, said = Store(tmp_path / "store"), []
    result = sweep(path, store, say=said.append)
    fids = [t.values["fid_tail"] for t in result.trials]
    passed = [k < 2 or fid <= np.quantile(fids[:k], 0.4) for k, fid in enumerate(fids)]
    assert [t.state for t in result.trials] == ["done" if good else "pruned" for good in passed]
    pruned = result.trials[passed.index(False)]  # some are
    assert list(pruned.values) == ["fid_tail"]
    assert "is not among the best 40% so far; its classifier was left out" in str(pruned.reason)
    assert any(line.startswith(f"trial {pruned.number} pruned: fid_tail ") for line in said)
    n_trained = sum(t.state == "done" for t in result.trials)
    assert sum(m["stage"] == "classifier" for m in store.manifests()) == n_trained
    assert result.best in [t.number for t in result.trials if t.state == "done"]
    assert sweep(path, store) == result  # nothing runs again
    rows = list(csv.DictReader(Path(result.files["csv"]).read_text().splitlines()))
    assert [r["pareto"] == "True" for r in rows] == [t.number in result.pareto for t in result.trials]


def test_a_method_that_declines_and_settings_that_clash_are_failed_trials(tmp_path: Path) -> None:
    search = {
        "settings.copies.declines": {"type": "categorical", "choices": [True]},
        "classifier.epochs": {"type": "categorical", "choices": [1]},
    }
    first = [{"settings.copies.declines": True}]
    path = sweep_file(tmp_path, search={"settings.copies.declines": search["settings.copies.declines"]}, enqueue=first)
    result = sweep(path, Store(tmp_path / "a"), n_trials=1)
    assert result.trials[0].reason == "phantom/copies@1/s0: the method declines: declines on request"
    assert result.best is None
    assert result.best_path is None
    with pytest.raises(ConfigError, match="give epochs or steps, not both"):
        sweep(sweep_file(tmp_path, search=search), Store(tmp_path / "b"))


@pytest.mark.parametrize(
    "name", ["TPESampler", "RandomSampler", "QMCSampler", "NSGAIISampler", "NSGAIIISampler", "GPSampler"]
)
def test_a_study_in_pieces_proposes_what_it_would_have_proposed_at_once(
    tmp_path: Path, fake: list[int], name: str
) -> None:
    options = {"n_startup_trials": 4, "multivariate": True} if name == "TPESampler" else {}
    path = sweep_file(tmp_path, search=FREE, sampler={"name": name, "seed": 5, "options": options})
    whole = sweep(path, Store(tmp_path / "whole"), n_trials=10)
    pieces = [sweep(path, Store(tmp_path / "pieces"), n_trials=n) for n in (2, 5, 10)]
    assert [len(p.trials) for p in pieces] == [2, 5, 10]
    assert params(pieces[-1]) == params(whole)
    assert len({json.dumps(p) for p in params(whole)}) > 7  # and not the same points over and over
    other = sweep_file(tmp_path, search=FREE, sampler={"name": name, "seed": 6, "options": options})
    assert params(sweep(other, Store(tmp_path / "other"), n_trials=10)) != params(whole)


def test_options_that_fail_only_when_a_trial_is_proposed_leave_no_study_behind(tmp_path: Path, fake: list[int]) -> None:
    options = {"n_startup_trials": "many"}
    path = sweep_file(tmp_path, search=FREE, sampler={"name": "TPESampler", "seed": 0, "options": options})
    with pytest.raises(ConfigError, match=r"sampler\.options: Optuna cannot use them \('<' not supported"):
        sweep(path, Store(tmp_path / "store"))
    assert not list(tmp_path.rglob("*.journal"))


def test_the_best_is_the_best(tmp_path: Path, fake: list[int]) -> None:
    path = sweep_file(tmp_path, search=FREE)
    up = sweep(path, Store(tmp_path / "up"), n_trials=12)
    values = [t.values["val_map_tail"] for t in up.trials]
    assert up.best == values.index(max(values))
    down = [{"metric": "fid_tail", "direction": "minimize"}]
    result = sweep(sweep_file(tmp_path, search=FREE, objectives=down), Store(tmp_path / "down"), n_trials=12)
    values = [t.values["fid_tail"] for t in result.trials]
    assert result.best == values.index(min(values))


def test_a_grid_is_tried_whole_and_once(tmp_path: Path, fake: list[int]) -> None:
    search = {
        LEVEL: {"type": "int", "low": 0, "high": 10, "step": 5},
        FAILS: {"type": "categorical", "choices": [False, True]},
    }
    sampler = {"name": "GridSampler", "seed": 0}
    path = sweep_file(tmp_path, search=search, sampler=sampler, enqueue=[{LEVEL: 5, FAILS: True}])
    for n in (4, 50):
        result = sweep(path, Store(tmp_path / "store"), n_trials=n)
    assert params(result)[0] == {LEVEL: 5, FAILS: True}
    assert sorted((p[LEVEL], p[FAILS]) for p in params(result)) == [(v, f) for v in (0, 5, 10) for f in (False, True)]


def test_an_interrupted_trial_comes_first_next_time(
    tmp_path: Path, fake: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    sweep(path, store, n_trials=2)
    with monkeypatch.context() as patch:

        def interrupt() -> None:
            raise KeyboardInterrupt

        on_run(patch, interrupt)
        for _ in range(5):  # however often
            with pytest.raises(KeyboardInterrupt):
                sweep(path, store, n_trials=4)
    result = sweep(path, store, n_trials=4)
    done = [t for t in result.trials if t.state == "done"]
    stopped = [t for t in result.trials if t.state == "failed"]
    assert (len(done), len(stopped)) == (4, 5)
    assert {json.dumps(t.params) for t in stopped} == {json.dumps(done[2].params)}
    assert stopped[0].reason == f"its process stopped: again as trial {stopped[1].number}"


def in_child(action: Callable[[], Any]) -> int:
    """Run in a forked process; return its exit code."""
    process = multiprocessing.get_context("fork").Process(target=action)
    process.start()
    process.join(60)
    return process.exitcode


def test_a_trial_whose_process_was_killed_is_tried_again_with_the_same_settings_but_not_for_ever(
    tmp_path: Path, fake: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    with monkeypatch.context() as patch:
        on_run(patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
        for _ in range(3):
            assert in_child(lambda: sweep(path, store, n_trials=2)) == -signal.SIGKILL
    result = sweep(path, store, n_trials=2)
    assert [t.state for t in result.trials] == ["failed"] * 3 + ["done"]  # given up after three; it counts as one
    assert len({json.dumps(t.params) for t in result.trials[:3]}) == 1
    assert result.trials[0].reason == "its process stopped: again as trial 1"
    assert result.trials[2].reason == "its process stopped: not tried again, it stopped too often"
    assert not list((store.root / "studies").glob("*.lock.*"))


def test_a_living_driver_keeps_its_trials(tmp_path: Path, fake: list[int]) -> None:
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    other = study.Driver(load_sweep(path), store)
    with other.alive():
        other.prepare(3)
        held = other.ask(3, 1)
        assert held is not None
        result = sweep(path, store, n_trials=3)
        assert [t.state for t in result.trials] == ["running", "done", "done"]
        other.tell(held, [0.5])
    assert [t.state for t in other.outcome().trials] == ["done"] * 3


def test_two_drivers_share_a_study(tmp_path: Path, fake: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    on_run(monkeypatch, lambda: time.sleep(0.05))
    context = multiprocessing.get_context("fork")
    drivers = [context.Process(target=lambda: sweep(path, store, n_trials=9)) for _ in range(3)]
    for driver in drivers:
        driver.start()
    for driver in drivers:
        driver.join(60)
    assert [d.exitcode for d in drivers] == [0, 0, 0]
    result = sweep(path, store, n_trials=9)
    assert [t.state for t in result.trials] == ["done"] * 9
    assert len({json.dumps(t.params) for t in result.trials}) == 9


def test_trials_measured_differently_are_never_mixed(tmp_path: Path, fake: list[int]) -> None:
    store = Store(tmp_path / "store")
    sweep(sweep_file(tmp_path, search=FREE), store, n_trials=1)
    assert len(sweep(sweep_file(tmp_path, search=FREE, n_trials=2), store).trials) == 2  # more of the same
    wider = FREE | {LEVEL: {"type": "int", "low": 0, "high": 40}}
    with pytest.raises(ConfigError, match="was made with other settings or another version of the code"):
        sweep(sweep_file(tmp_path, search=wider), store)
    with pytest.raises(ConfigError, match="was made with other settings"):
        sweep(sweep_file(tmp_path, search=FREE), store, overrides=["classifier.steps=3"])
    with pytest.raises(ConfigError, match="was made with other settings"):
        sweep(sweep_file(tmp_path, search=FREE, matrix=tiny(seeds=[0]), seeds=[0, 1]), store)


def test_options_that_the_sampler_refuses_leave_no_journal(tmp_path: Path) -> None:
    sampler = {"name": "TPESampler", "seed": 0, "options": {"startup": 3}}
    with pytest.raises(ConfigError, match=r"study\.yaml\.sampler\.options: .*'startup'"):
        sweep(sweep_file(tmp_path, sampler=sampler), Store(tmp_path / "store"))
    assert not list((tmp_path / "store").glob("studies/*.journal"))


def test_many_jobs_measure_a_quarter_of_the_study_together(
    tmp_path: Path, fake: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches: list[int] = []
    monkeypatch.setattr(study, "run_stages", lambda targets, store, **options: batches.append(len(list(targets))))
    result = sweep(
        sweep_file(tmp_path, search=FREE), Store(tmp_path / "store"), n_trials=8, placement=ChosenExecutor(Inline(), 16)
    )
    assert batches == [2, 2, 2, 2]
    assert [t.state for t in result.trials] == ["done"] * 8


def test_a_new_trial_is_proposed_as_soon_as_one_has_ended(
    tmp_path: Path, fake: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def run_stages(targets: Iterable[Stage], store: Store, **options: Any) -> None:
        queue = list(targets)
        while queue:  # stages end in the order in which they were asked for
            options["on_outcome"](queue.pop(0))
            queue += options["more"]()

    monkeypatch.setattr(study, "run_stages", run_stages)
    said: list[str] = []
    path, store = sweep_file(tmp_path, search=FREE), Store(tmp_path / "store")
    sweep(path, store, n_trials=12, placement=ChosenExecutor(Inline(), 16), say=said.append)
    steps = [line.partition(":")[0].replace(" of 12", " begins") for line in said]
    first = ["trial 0 begins", "trial 1 begins", "trial 2 begins"]
    between = [step for k in range(9) for step in (f"trial {k}", f"trial {k + 3} begins")]
    assert steps == [*first, *between, "trial 9", "trial 10", "trial 11"]


def test_the_study_names_its_objectives(tmp_path: Path, fake: list[int]) -> None:
    import optuna

    result = sweep(sweep_file(tmp_path, search=FREE), Store(tmp_path / "store"), n_trials=1)
    backend = optuna.storages.journal.JournalFileBackend(result.files["journal"])
    found = optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend))
    assert found.metric_names == ["val_map_tail"]


def test_the_table_shows_every_trial(tmp_path: Path, fake: list[int]) -> None:
    result = sweep(sweep_file(tmp_path, search=FREE, enqueue=[{LEVEL: 21}]), Store(tmp_path / "store"), n_trials=3)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(result.table())
    text = console.export_text()
    assert "maximize val_map_tail on val" in text
    assert "tried first" in text
    for trial in result.trials:
        assert f"{trial.values['val_map_tail']:.4f}" in text
