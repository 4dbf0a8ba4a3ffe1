"""The order of the stages: what is ready and what is blocked, whatever happens, and how much the store is asked."""

from __future__ import annotations

import os
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bench.pipeline.stage import Resources, Stage
from bench.run.machine_file import Machine
from bench.run.progress import Silent
from bench.run.slurm.executor import Slurm
from bench.run.workload import Outcome, Workload
from bench.store.store import Store
from bench.store.work import Execution


class Piece(Stage):
    """A stage that is never computed."""

    value: int
    below: tuple[Stage, ...] = ()


class Long(Piece):
    """A stage that takes longer."""

    resources = Resources(minutes=9)


class Plain:
    """The same, by a look at every stage at every question."""

    def __init__(self) -> None:
        self.stages: list[Stage] = []
        self.ended: dict[str, Outcome] = {}

    def ready(self) -> list[Stage]:
        """Return the stages whose inputs are done, the longest critical path first, then in the order of the plan."""

        def minutes(stage: Stage) -> float:
            above = [s for s in self.stages if stage in s.inputs()]
            return stage.resources.minutes + max(map(minutes, above), default=0)

        free = [
            s
            for s in self.stages
            if s.key not in self.ended and all(self.ended.get(b.key) == "done" for b in s.inputs())
        ]
        return sorted(free, key=lambda s: -minutes(s))

    def fail(self, stage: Stage) -> None:
        """Let a stage fail, and block all that need it."""
        self.ended[stage.key] = "failed"
        for above in self.stages:
            if above.key not in self.ended and any(
                self.ended.get(b.key) in ("failed", "blocked") for b in above.inputs()
            ):
                self.ended[above.key] = "blocked"


def some_stages(rng: random.Random, n: int, below: list[Stage]) -> list[Stage]:
    made: list[Stage] = []
    for _ in range(n):
        known = [*below, *made]
        inputs = tuple(rng.sample(known, min(len(known), rng.choice([0, 1, 1, 2, 3]))))
        made.append(rng.choice([Piece, Long])(value=rng.randrange(1 << 30), below=inputs))
    return made


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_same_as_by_a_look_at_every_stage(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    first = some_stages(rng, 14, [])
    later = some_stages(rng, 8, first)
    work = Workload.plan(first, Store(tmp_path), Execution(device="cpu"), Silent())
    plain = Plain()
    plain.stages = list(work.stages.values())
    for step in range(len(first) + len(later)):
        if step == 6:  # targets that come later
            work.add(later)
            plain.stages = list(work.stages.values())
            for stage in [s for s in plain.stages if plain.ended.get(s.key) == "failed"]:
                plain.fail(stage)
        assert list(work.ready()) == work.free() == plain.ready()
        assert work.free(at_most=2) == plain.ready()[:2]
        if ready := plain.ready():
            stage = rng.choice(ready)
            if rng.random() < 0.15:
                work.record_outcome(stage, "failed")
                plain.fail(stage)
            else:
                work.record_outcome(stage, "done")
                plain.ended[stage.key] = "done"
        assert work.outcomes == plain.ended
    assert work.finished


class Asked(Store):
    """An empty store that counts the questions."""

    n = 0

    def has(self, stage: Stage) -> bool:
        """Count, and say no."""
        self.n += 1
        return False

    def holder(self, stage: Stage) -> dict[str, Any] | None:
        """Count, and name nobody."""
        self.n += 1
        return None


def test_a_start_does_not_ask_the_store_about_all_stages(tmp_path: Path) -> None:
    store, n = Asked(tmp_path), 400
    work = Workload.plan([Piece(value=v) for v in range(n)], store, Execution(device="cpu"), Silent())
    store.n = 0
    while not work.finished:
        work.record_outcome(work.free(at_most=1)[0], "done")
    assert store.n == 2 * n


@pytest.mark.parametrize(("n", "first"), [(60, "scores"), (40, "training")])
def test_with_many_stages_a_cell_is_ended_before_the_next_one_is_begun(n: int, first: str, tmp_path: Path) -> None:
    trainings = [Long(value=v) for v in range(n)]
    scores = [Piece(value=n + v, below=(training,)) for v, training in enumerate(trainings)]
    work = Workload.plan(scores, Store(tmp_path), Execution(device="cpu"), Silent())
    assert next(iter(work.ready())) == trainings[0]
    work.record_outcome(trainings[0], "done")
    assert next(iter(work.ready())) == (scores[0] if first == "scores" else trainings[1])


def test_what_other_processes_have_finished_or_hold_is_passed_over(tmp_path: Path) -> None:
    theirs, held, ours = stages = [Piece(value=v) for v in range(3)]
    above = Long(value=9, below=(theirs,))

    class Shared(Store):
        def has(self, stage: Stage) -> bool:
            return stage == theirs and bool(work)

        def holder(self, stage: Stage) -> dict[str, Any] | None:
            return {"host": "h"} if stage == held else None

    work: list[Workload] = []
    work.append(Workload.plan([*stages, above], Shared(tmp_path), Execution(device="cpu"), Silent()))
    assert work[0].free(at_most=1) == [above]
    assert work[0].free({above.key}, at_most=3) == [ours]
    assert work[0].outcomes == {theirs.key: "done"}


def test_a_slurm_that_does_not_answer_is_told_with_its_reason_and_no_job_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    squeue = tmp_path / "bin" / "squeue"
    squeue.parent.mkdir()
    squeue.write_text(
        f"#!/bin/sh\necho 'slurm_load_jobs error:' >&2\necho '  {'x' * 400}' >&2\nexit 1\n", encoding="utf-8"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")

    def stop(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bench.run.slurm.executor.time", SimpleNamespace(sleep=stop))  # `subprocess` sleeps, too
    executor = Slurm(Machine())
    with pytest.raises(KeyboardInterrupt):
        executor.run(Workload.plan([Piece(value=1)], Store(tmp_path / "store"), Execution(), Silent()))
    said = capsys.readouterr().err
    assert said.startswith("SLURM does not answer (slurm_load_jobs error: xxx")
    assert said.endswith("x); asking again in a while\n")
    assert said.count("\n") == 1
    assert len(said) < 400
    assert not executor.goes_on_alone
