"""Compute one stage inside a SLURM job."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from bench.run.log import compute_logged
from bench.run.slurm.recipe import read_recipe
from bench.store.claims import slurm_job
from bench.store.store import StageBusy, Store
from bench.store.work import Execution

if TYPE_CHECKING:
    import submitit

_WAIT_S = 300.0  # for the claim of an earlier job that is still being killed, or whose lease has to expire


@dataclasses.dataclass(frozen=True)
class StageJob:
    """Computes one stage; submitit pickles this object and calls it on a node.

    It holds only strings and numbers. A pickled stage would be unpickled by whatever code is there when the job starts,
    maybe days later, and an edit in between would go unnoticed. So the job reads a recipe, and checks its key.
    """

    root: str
    name: str
    key: str
    device: str
    threads: int
    gpus: int = 0

    def __call__(self) -> str:
        """Compute the stage if its inputs are finished, and return what was done, in words.

        What the computation raises is recorded in the store and passed on, so that SLURM counts the job as failed.
        """
        # A job never waits for missing inputs, nor computes them: the job that makes them may itself be waiting for the
        # place that this one takes. The driver submits the stage again.
        store = Store(Path(self.root))
        stage = read_recipe(recipe_path(store, self.key), self.key)
        lacking = [s for s in stage.inputs() if not store.has(s)]
        if not store.has(stage) and lacking:
            return _say(f"not begun: {lacking[0].stage_name()} {lacking[0].key[:8]}, which it needs, is not finished")
        execution = Execution(self.device, self.threads)
        self._require_gpu()
        _leave_at_once_when_requeued()
        try:
            compute_logged(store, stage, execution, job=slurm_job(), wait_s=_WAIT_S)
        except StageBusy as busy:
            return _say(str(busy))
        return _say("done")

    def _require_gpu(self) -> None:
        """Refuse a node whose GPU does not work. The stage would run on the CPU until the time limit."""
        if self.gpus and not self.device.startswith("cpu"):
            import torch

            if not torch.cuda.is_available():
                raise OSError(f"{socket.gethostname()}: {self.gpus} GPUs were asked for, torch sees none that works")

    def checkpoint(self, *args: object) -> submitit.helpers.DelayedSubmission:
        """Return what runs after a requeue: this object. submitit calls it at preemption and near the time limit."""
        # Nothing needs saving here. Stages write their checkpoints into the store as they go and can be killed at any
        # moment, and the requeued job finds them there. Without this method submitit would not requeue at a time limit.
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def recipe_path(store: Store, key: str) -> Path:
    """Return the path of a submitted stage's recipe."""
    return store.root / "slurm" / "stages" / f"{key}.json"


def _leave_at_once_when_requeued() -> None:
    """Make submitit's signal handler end this process at once after it has requeued the job."""
    # submitit's handler raises SystemExit in the middle of the computation. The store would record it as a failure of
    # the stage, and the requeued job would find a failed stage instead of one to go on with.
    import submitit

    signum = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
    requeue = signal.getsignal(signum)
    if not callable(requeue):
        return

    def stop(number: int, frame: FrameType | None) -> None:
        try:
            requeue(number, frame)
        except submitit.core.utils.UncompletedJobError as error:
            raise TimeoutError(str(error)) from error  # not sticky: the next run tries again
        except SystemExit:
            os._exit(1)

    signal.signal(signum, stop)


def _say(line: str) -> str:
    print(line, file=sys.stderr)
    return line
