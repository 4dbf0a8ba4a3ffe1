"""What a stage is given while it computes, and where it computes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bench.errors import StageError
from bench.files import write_json
from bench.pipeline.stage import Stage
from bench.store.claims import Claim


@dataclass(frozen=True)
class Execution:
    """Where a computation runs: never part of a key. One thread by default, so that results do not depend on jobs."""

    device: str = "auto"
    threads: int = 1
    on_progress: Callable[[Stage, float, float, str], None] | None = field(default=None, compare=False)

    def apply(self) -> str:
        """Set torch's threads and return the device to use: `cuda`, `mps` or `cpu`."""
        import torch

        torch.set_num_threads(self.threads)
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


class Results(Protocol):
    """Where a stage's inputs come from: the store."""

    def get(self, stage: Stage, execution: Execution | None = None) -> Any:
        """Return the result of `stage`, computing it if it is not there."""


@dataclass
class Work:
    """What a stage is given while it computes; see `bench.pipeline.stage.Work`, which this satisfies."""

    store: Results
    stage: Stage
    out: Path
    ckpt: Path
    execution: Execution
    used_device: str | None = None
    claim: Claim | None = None
    _reported_at: float = field(default=0.0, repr=False)

    def get(self, stage: Stage) -> Any:
        """Return an input's result, computing it first if it is not there."""
        return self.store.get(stage, self.execution)

    @property
    def device(self) -> str:
        """The torch device to compute on (also applies the number of threads)."""
        self.used_device = self.execution.apply()
        return self.used_device

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Report how far the computation is. It is cheap to call at every step: it writes twice a second at most.

        An attempt that another process has taken over ends here.
        """
        if self.execution.on_progress:
            self.execution.on_progress(self.stage, done, total, note)
        now = time.monotonic()
        if now - self._reported_at >= 0.5 or done >= total:
            self._reported_at = now
            if self.claim and self.claim.lost():
                raise TakenOver
            write_json(self.out.parent / "progress.json", {"done": done, "total": total, "note": note})


class TakenOver(StageError):
    """Our lease ran out while we computed, and another process has the stage now."""
