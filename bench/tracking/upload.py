"""Send to W&B what it lacks of a matrix. Nothing is computed: the store has the results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.matrix.matrix import Matrix
from bench.results.cells import cell_state
from bench.tracking.sender import Sender
from bench.tracking.tracker import WandbTracker


@dataclass(frozen=True)
class Uploaded:
    """What became of the runs of a matrix, or of the trials of a study.

    Attributes:
        sent: number of those that were sent now.
        there: number of those of which W&B had everything before.
        lacking: those that W&B lacks, each with the reason.
        unfinished: number of cells or trials that have no results yet.
        stages: how many of the runs are trainings that cells share, and no cells.
    """

    sent: int
    there: int
    lacking: dict[str, str]
    unfinished: int
    stages: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values, for `--json`."""
        return asdict(self)

    def in_words(self, what: str = "cell") -> str:
        """Return it as one line; `what` is what was sent."""
        n = self.sent + self.there + len(self.lacking)
        if not n:
            return f"no {what} is finished, so there is nothing to send"
        of = f"{n} finished {what}s"
        if self.stages:
            shared = f"{self.stages} training{'s'[: self.stages > 1]} that cells share"
            of = f"{n} runs, of {n - self.stages} finished {what}s and {shared}"
        rest = f"; {self.unfinished} more {what}s are not finished, and have nothing to send" if self.unfinished else ""
        if self.lacking:
            return f"sent {self.sent}; W&B has {self.sent + self.there} of {of}{rest}"
        if self.sent:
            return f"sent {self.sent}; W&B has all {of}{rest}"
        return f"nothing is missing: W&B has all {of}{rest}"


def upload(tracker: WandbTracker, matrix: Matrix, on_progress: Callable[[int, int], object]) -> Uploaded:
    """Send the finished cells that W&B lacks, and wait until it has them or has refused them.

    Args:
        tracker: sends them.
        matrix: the matrix; the tracker was made for it.
        on_progress: called now and then with the number of runs that W&B has, and that of all that it is to have.

    Raises:
        StoreError: if the store cannot be written, since it could not be remembered what was sent.
    """
    store = tracker.local.store
    finished = [cell for cell in matrix.cells if cell_state(cell, store)[0] == "done"]
    if finished:  # else nothing is written, not even the folder of the store
        store.require_writable()
    n = sum(tracker.add(cell) for cell in finished)
    found = finish(tracker, n + len(tracker.stages), len(matrix.cells) - n, on_progress)
    return replace(found, stages=len(tracker.stages))


def finish(sender: Sender, n: int, n_unfinished: int, on_progress: Callable[[int, int], object]) -> Uploaded:
    """Wait until W&B has the `n` records that were offered to a sender, or has refused them.

    Args:
        sender: sends them.
        n: number of the records.
        n_unfinished: number of those that have nothing to send yet.
        on_progress: called now and then with the number of records that W&B has, and `n`.
    """
    sender.close(wait=True, on_progress=lambda: on_progress(len(sender.sent) + len(sender.there), n))
    return Uploaded(len(sender.sent), len(sender.there), sender.lacking, n_unfinished)
