"""What runs inside a SLURM job: one stage, read from a file by its key."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from bench.run.log import compute_logged
from bench.run.slurm.recipe import read_recipe
from bench.store.claims import slurm_job
from bench.store.store import StageBusy, Store
from bench.store.work import Execution

_WAIT_S = 300.0  # for a predecessor that was cancelled or preempted and is still dying, or whose lease must run out


@dataclasses.dataclass(frozen=True)
class StageJob:
    """Computes one stage. It holds strings and numbers: what it means is read, and checked, when it runs."""

    root: str
    name: str
    key: str
    device: str
    threads: int
    gpus: int = 0

    def __call__(self) -> str:
        """Compute the stage if its inputs are there; never wait for another job, which may wait for this one's place.

        What the computation raises is recorded in the store and passed on, so that SLURM calls the job failed.
        """
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
        """Refuse a node whose GPU does not work: it would compute on its CPU until the time limit."""
        if self.gpus and not self.device.startswith("cpu"):
            import torch

            if not torch.cuda.is_available():
                raise OSError(f"{socket.gethostname()}: {self.gpus} GPUs were asked for, torch sees none that works")

    def checkpoint(self, *args: Any) -> Any:
        """Return what to run after a requeue (called by submitit at preemption or a time limit): the same.

        The stage's own checkpoints are in the store, and any moment is good enough to be stopped at.
        """
        import submitit

        return submitit.helpers.DelayedSubmission(self)


def recipe_path(store: Store, key: str) -> Path:
    """Return where a submitted stage is written down."""
    return store.root / "slurm" / "stages" / f"{key}.json"


def _leave_at_once_when_requeued() -> None:
    """Make submitit's handler of the signal to stop end this process, after it has put the job back into the queue.

    It would raise SystemExit wherever the computation is, which must not be taken for the stage's own fault.
    """
    import submitit

    signum = getattr(signal, f"SIG{os.environ.get('SUBMITIT_PREEMPT_SIGNAL', 'USR2')}")
    requeue = signal.getsignal(signum)
    if not callable(requeue):
        return

    def stop(number: int, frame: FrameType | None) -> None:
        try:
            requeue(number, frame)
        except submitit.core.utils.UncompletedJobError as error:
            raise TimeoutError(str(error)) from error  # the machine's fault: the next run goes on
        except SystemExit:
            os._exit(1)

    signal.signal(signum, stop)


def _say(line: str) -> str:
    print(line, file=sys.stderr)
    return line
