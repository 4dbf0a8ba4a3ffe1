"""A driver that is killed in the middle of a study, for every sampler: the next one completes the study."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, get_args

import pytest

from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage
from bench.run.inline import Inline
from bench.run.placement import ChosenExecutor
from bench.store.store import Store
from sweeps import study, trials
from sweeps.outcome import SweepResult
from sweeps.records import trial_folder
from sweeps.settings import SamplerSettings
from tests.tiny_cells import methods  # noqa: F401 - a fixture
from tests.unit.sweeps.test_sweep_settings import sweep_file
from tests.unit.sweeps.test_sweep_study import FREE, GAIN, LEVEL, in_child, params, sweep

pytestmark = pytest.mark.usefixtures("methods")

SAMPLERS = get_args(SamplerSettings.model_fields["name"].annotation)
OPTIONS = {
    "TPESampler": {"n_startup_trials": 4, "multivariate": True},
    "GPSampler": {"n_startup_trials": 4},
    "NSGAIISampler": {"population_size": 4},
    "NSGAIIISampler": {"population_size": 4},
}
STEPS = {  # a grid needs steps
    LEVEL: {"type": "int", "low": 0, "high": 50, "step": 10},
    GAIN: {"type": "float", "low": 0.5, "high": 2.0, "step": 0.5},
}
OBJECTIVES = [{"metric": "val_map_tail", "direction": "maximize"}, {"metric": "fid_tail", "direction": "minimize"}]
N_TRIALS, TOGETHER = 12, 3


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Counter[str]]:
    """Measure trials by a formula; return how often which settings were measured, by all processes together."""
    log = tmp_path / "measured"

    def values(self: trials.Trials, matrix: Matrix, metrics: list[str]) -> list[float]:
        method: Any = matrix.cells[0].method
        with open(log, "a", encoding="utf-8") as lines:
            lines.write(f"{method.noise.level} {method.gain}\n")
        return [1 - (method.noise.level - 20) ** 2 / 1000 - abs(method.gain - 1), method.gain * method.noise.level]

    monkeypatch.setattr(study, "run_stages", lambda targets, store, **options: None)
    monkeypatch.setattr(trials.Trials, "values", values)
    return lambda: Counter(log.read_text().splitlines())


def killed_at(call: int) -> Callable[..., None]:
    """Return a `run_stages` that kills its process when it is called for the n-th time."""
    calls: list[int] = []

    def run_stages(targets: Iterable[Stage], store: Store, **options: Any) -> None:
        calls.append(1)
        if len(calls) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    return run_stages


def a_sweep(folder: Path, name: str) -> Path:
    search = STEPS if name == "GridSampler" else FREE
    sampler = {"name": name, "seed": 5, "options": OPTIONS.get(name, {})}
    return sweep_file(folder, search=search, sampler=sampler, objectives=OBJECTIVES)


def check_whole(result: SweepResult, store: Store, n_killed: int, measured: Counter[str]) -> None:
    """No number is lost, every trial of the dead has a successor, and no trial was measured twice."""
    assert [t.number for t in result.trials] == list(range(N_TRIALS + n_killed))
    assert Counter(t.state for t in result.trials) == {"done": N_TRIALS, "failed": n_killed}
    for trial in (t for t in result.trials if t.state == "failed"):
        assert trial.retried_as is not None
        assert result.trial(trial.retried_as).params == trial.params
    assert sum(measured.values()) == N_TRIALS
    for trial in result.trials:
        assert (trial_folder(store, "study", trial.number) / "record.json").exists()


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_driver_that_is_killed_while_it_measures_several_trials(
    tmp_path: Path, measured: Callable[[], Counter[str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, store = a_sweep(tmp_path, name), Store(tmp_path / "store")
    options: dict[str, Any] = {"n_trials": N_TRIALS, "placement": ChosenExecutor(Inline(), TOGETHER)}
    with monkeypatch.context() as patch:
        patch.setattr(study, "run_stages", killed_at(3))
        assert in_child(lambda: sweep(path, store, **options)) == -signal.SIGKILL
    before = measured()
    assert sum(before.values()) == 2 * TOGETHER
    result = sweep(path, store, **options)
    check_whole(result, store, TOGETHER, measured())
    assert before <= measured()
    assert sweep(path, store, **options) == result


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_after_the_other_the_same_settings_come_as_without_the_kill(
    tmp_path: Path, measured: Callable[[], Counter[str]], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path, store = a_sweep(tmp_path, name), Store(tmp_path / "store")
    for call in (3, 5):  # two drivers die, the second while it goes on
        with monkeypatch.context() as patch:
            patch.setattr(study, "run_stages", killed_at(call))
            assert in_child(lambda: sweep(path, store, n_trials=N_TRIALS)) == -signal.SIGKILL
    result = sweep(path, store, n_trials=N_TRIALS)
    check_whole(result, store, 2, measured())
    whole = sweep(path, Store(tmp_path / "whole"), n_trials=N_TRIALS)
    found, expected = [json.dumps(t.params) for t in result.trials if t.state == "done"], params(whole)
    if name == "GridSampler":  # its points were queued before; those of the dead come last
        found, expected = sorted(found), sorted(expected, key=json.dumps)
    assert found == [json.dumps(p) for p in expected]
