"""The verb `sweep`: what it prints can be acted on, and its exit code tells whether anything was found."""

from __future__ import annotations

import datetime
import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from bench.matrix.matrix import Matrix
from bench.store.store import Store
from sweeps import trials
from tests.e2e.conftest import bench  # noqa: F401 - a fixture
from tests.e2e.driver import Bench, Said
from tests.tiny_cells import methods  # noqa: F401 - a fixture
from tests.unit.sweeps.test_sweep_settings import sweep_file
from tests.unit.sweeps.test_sweep_study import FREE, fake, on_run, sweep  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("methods")


def ran(bench: Bench, path: Path, *more: object) -> Said:  # noqa: F811
    return bench("sweep", path, "--store", path.parent / "my store", "--quiet", "--wandb", "off", "-j", 1, *more)


def test_brackets_in_the_reason_of_a_failure_are_no_markup(
    bench: Bench,  # noqa: F811
    tmp_path: Path,
    fake: list[int],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trials.Trials, "values", lambda *asked: "no image [/data/7.png]")
    said = ran(bench, sweep_file(tmp_path, search=FREE), "--trials", 1)
    assert "no image [/data/7.png]" in said.out


def test_a_search_of_which_every_trial_failed_ends_with_1(
    bench: Bench,  # noqa: F811
    tmp_path: Path,
    fake: list[int],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, well = sweep_file(tmp_path, search=FREE), trials.Trials.values

    def values(self: trials.Trials, matrix: Matrix, metrics: list[str]) -> list[float] | str:
        return "no memory" if self.total == 2 else well(self, matrix, metrics)

    monkeypatch.setattr(trials.Trials, "values", values)
    said = ran(bench, path, "--trials", 2)
    assert said.code == 1
    assert said.out.endswith("no trial finished\n")
    looked = bench("sweep", path, "--store", tmp_path / "my store", "--status", "--json")
    assert looked.code == 0  # looking at it did not fail
    assert [trial["state"] for trial in json.loads(looked.out)["trials"]] == ["failed", "failed"]
    assert ran(bench, path, "--trials", 3).code == 0


def test_the_command_that_comes_next_can_be_pasted(bench: Bench, tmp_path: Path, fake: list[int]) -> None:  # noqa: F811
    path = sweep_file(tmp_path, search=FREE)
    said = ran(bench, path, "--trials", 2)
    command = shlex.split(said.out.splitlines()[-1].partition("new seeds: ")[2])
    assert command == ["bench", "sweep", str(path), "--confirm", "--store", str(tmp_path / "my store")]


def test_a_search_without_its_matrix_of_the_best_can_be_looked_at(
    bench: Bench,  # noqa: F811
    tmp_path: Path,
    fake: list[int],  # noqa: F811
) -> None:
    path = sweep_file(tmp_path, search=FREE)
    ran(bench, path, "--trials", 1)
    (best,) = (tmp_path / "my store" / "studies").glob("*.best.yaml")
    best.unlink()  # as if its driver had been killed before it wrote it
    looked = bench("sweep", path, "--store", tmp_path / "my store", "--status")
    assert looked.code == 0
    assert " --confirm" in looked.out.splitlines()[-1]  # which writes it


@pytest.mark.parametrize("fails", [False, True])
def test_a_change_of_the_clock_is_no_part_of_a_trials_seconds(
    tmp_path: Path,
    fake: list[int],  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    fails: bool,
) -> None:
    later = datetime.timedelta()

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: Any = None) -> datetime.datetime:
            return datetime.datetime.now(tz) + later

    def an_hour_passes() -> None:
        nonlocal later
        later = datetime.timedelta(hours=1)

    monkeypatch.setattr("optuna.storages.journal._storage.datetime", Clock)
    on_run(monkeypatch, an_hour_passes)
    if fails:
        monkeypatch.setattr(trials.Trials, "values", lambda *asked: "no memory")
    (trial,) = sweep(sweep_file(tmp_path, search=FREE), Store(tmp_path / "store"), n_trials=1).trials
    assert trial.seconds is not None
    assert 0 <= trial.seconds < 60
