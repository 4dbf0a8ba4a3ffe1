"""A small but whole matrix, killed at random moments: `python -m tests.reliability` does it at length."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.reliability.helpers import found, group_is_gone, until
from tests.reliability.judge import Reference
from tests.reliability.moments import WATCHED, labels_of
from tests.reliability.scenarios import killed, two_drivers, worker_killed
from tests.reliability.trial import Trial
from tests.reliability.warm import MATRIX, start


def trial(reference: Reference, tmp_path: Path, seed: str, jobs: int | None = None) -> Trial:
    return Trial(seed, tmp_path / "trial", reference, random.Random(seed), jobs, print)


def test_the_matrix_has_every_kind_of_stage_and_of_moment(reference: Reference) -> None:
    kinds = {name.partition("/")[0] for name in reference.stages}
    assert kinds >= {
        "dataset-phantom", "split", "train", "latents", "codec", "fused", "augmented", "labelled", "classifier",
        "scores", "fidelity", "diagnostics",
    }  # fmt: skip
    assert labels_of(reference.events).keys() >= {
        f"op: {name}" for name in ("begin", "locks", "result file", "manifest", "commit", "clean-up", "cells")
    }
    assert len(reference.rows) == 3


def test_killed_again_and_again(reference: Reference, tmp_path: Path) -> None:
    it = trial(reference, tmp_path, "again")
    killed(it, 5)
    assert it.finish() == []


def test_killed_inside_a_training_a_large_write_and_a_commit(reference: Reference, tmp_path: Path) -> None:
    it = trial(reference, tmp_path, "each", jobs=2)
    for kind in ("training", "large file", "commit"):
        assert kind in WATCHED
        it.strike(kind)
    assert len(it.strikes) >= 2  # a commit is over in milliseconds: it may be missed
    assert it.finish() == []


@pytest.mark.parametrize("which", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_stop(reference: Reference, tmp_path: Path, which: signal.Signals) -> None:
    it = trial(reference, tmp_path, which.name)
    it.strike("any stage", which, grace_s=10)
    assert it.finish() == []


def test_ctrl_c_twice_is_one_line_and_leaves_no_process(reference: Reference, tmp_path: Path) -> None:
    store = tmp_path / "store"
    run = start(["run", str(MATRIX), "--jobs", "2", "--wandb", "off", "--store", str(store)], tmp_path / "run")
    assert until(lambda: found(store, "*/*.work"))
    for _ in range(2):
        run.signal(signal.SIGINT)
        time.sleep(0.05)
    assert run.wait(20) == 130
    assert group_is_gone(run.group)
    *progress, last = run.said.splitlines()
    assert last.startswith("stopped; finished stages and checkpoints are kept. Go on with: bench run ")
    assert "Traceback" not in run.said
    assert not any("stopped" in line for line in progress)


def test_a_killed_worker_costs_one_attempt(reference: Reference, tmp_path: Path) -> None:
    it = trial(reference, tmp_path, "worker")
    worker_killed(it)
    assert it.strikes == ["a worker"]
    assert it.verdict.faults == []


def test_two_drivers_of_one_matrix(reference: Reference, tmp_path: Path) -> None:
    it = trial(reference, tmp_path, "two")
    two_drivers(it, rounds=1)
    assert it.verdict.faults == []
