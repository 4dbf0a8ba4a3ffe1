"""What clean-up keeps for a sweep: everything that its trials were measured on."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench.errors import ConfigError
from bench.pipeline.stage import walk
from bench.store.cleanup import remove, unwanted
from bench.store.store import Store
from bench.store.work import Execution
from sweeps.references import stages_of
from sweeps.settings import load_sweep
from sweeps.study import run_sweep
from tests.tiny_cells import methods  # noqa: F401 - a fixture
from tests.unit.sweeps.test_sweep_settings import sweep_file
from tests.unit.sweeps.test_sweep_study import FAILS, LEVEL

pytestmark = pytest.mark.usefixtures("methods")


def test_a_cleaned_store_still_has_every_trial_of_a_named_sweep(tmp_path: Path) -> None:
    search = {LEVEL: {"type": "int", "low": 0, "high": 9}, FAILS: {"type": "categorical", "choices": [False, True]}}
    first = [{LEVEL: 3, FAILS: False}, {LEVEL: 4, FAILS: True}]
    path = sweep_file(tmp_path, search=search, enqueue=first, n_trials=2)
    store = Store(tmp_path / "store")
    run_sweep(path, store, execution=Execution("cpu"))
    journal = next((store.root / "studies").glob("*.journal"))
    before = journal.read_bytes()
    for path_ in store.root.rglob("*"):
        os.utime(path_, (0, 0))

    sweep = load_sweep(path)
    wanted = {s.key for s in walk(stages_of(path, store))}
    cell = sweep.matrix(first[0]).cells[0]
    assert {s.key for s in walk([cell.classifier])} <= wanted
    assert sweep.matrix(first[1]).cells[0].augmented.key not in wanted, "a failed trial has nothing to keep"
    gone = remove(store, unwanted(store, wanted, grace_s=0), wanted)
    assert {e.what for e in gone} <= {"work", "failure", "lock"}
    assert all(store.has(s) for s in stages_of(path, store))
    assert journal.read_bytes() == before


def test_a_study_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no study"):
        stages_of(sweep_file(tmp_path), Store(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
