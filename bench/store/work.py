"""What a stage is given while it computes, and where it is computed."""

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
from bench.store.heap import keep_freed_memory


@dataclass(frozen=True)
class Execution:
    """Where a computation runs. This is never part of a key.

    Attributes:
        device: a torch device, or `auto`.
        threads: CPU threads of torch. The default is one, because sums over several threads round differently, and
            results would depend on how many jobs share the machine.
        on_progress: called with the stage, the work done, the work in all, and a note.
    """

    device: str = "auto"
    threads: int = 1
    on_progress: Callable[[Stage, float, float, str], None] | None = field(default=None, compare=False)

    def apply(self) -> str:
        """Set torch's threads, memory and float32, and return the device to use; `auto` becomes `cuda` or `cpu`."""
        import torch

        keep_freed_memory()
        torch.set_num_threads(self.threads)
        # Else PyTorch rounds what a GPU convolves to TF32, which has 10 bits of the 23 after the point.
        torch.backends.fp32_precision = "ieee"  # type: ignore[attr-defined]
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


class Results(Protocol):
    """Where the inputs of a stage come from. The store is one; this protocol keeps `work` from importing it."""

    def get(self, stage: Stage, execution: Execution | None = None) -> Any:
        """Return the result of `stage`. It is computed if it is not there."""


@dataclass
class Work:
    """What a stage is given while it computes. It implements the protocol `bench.pipeline.stage.Work`."""

    store: Results
    stage: Stage
    out: Path
    ckpt: Path
    execution: Execution
    used_device: str | None = None
    claim: Claim | None = None
    _reported_at: float = field(default=0.0, repr=False)

    def get(self, stage: Stage) -> Any:
        """Return the result of an input stage. It is computed first if it is not there."""
        return self.store.get(stage, self.execution)

    @property
    def device(self) -> str:
        """The torch device to compute on. Reading it also sets the number of threads."""
        self.used_device = self.execution.apply()
        return self.used_device

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Report how far the computation is. It is cheap enough for every step: it writes at most twice a second.

        Raises:
            TakenOver: if another process has taken over our claim, because going on would be wasted work.
        """
        if self.execution.on_progress:
            self.execution.on_progress(self.stage, done, total, note)
        now = time.monotonic()
        if now - self._reported_at >= 0.5 or done >= total:
            self._reported_at = now
            # A process that was suspended past the end of its lease finds out here, and stops before it wastes hours.
            if self.claim and self.claim.lost():
                raise TakenOver
            write_json(self.out.parent / "progress.json", {"done": done, "total": total, "note": note})


class TakenOver(StageError):
    """Raised when our lease ran out while we computed, and another process has the stage now."""
