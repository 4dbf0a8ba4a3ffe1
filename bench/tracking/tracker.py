"""Trackers, which are told when a cell finishes or fails. One writes the local record, one copies it to W&B.

W&B runs in a child process that reads the local record (`bench.tracking.wandb_child`). In this process, a failed
login, a dead network or a crash in W&B's library could block or end the run. In a child it costs a line of warning;
the cells that were not copied are tried again later, and `bench upload` sends what is missing in the end.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from bench.errors import ConfigError, listed, nearest
from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.privacy.border import check_server
from bench.results.cells import CellResult, read_cell
from bench.results.record import git_state, read_record, write_record
from bench.store.store import Store
from bench.tracking.marker import has_offline_copy, was_open
from bench.tracking.wandb_child import Child, server_of_wandb

Mode = Literal["offline", "online", "off"]
MODES: tuple[Mode, ...] = ("offline", "online", "off")
Say = Callable[[str], object]

_BATCH = 200  # cells for one child; their folders stay far below the system's limit on a command line
_WAIT_S = 60.0  # longest wait for the last child at the end of a matrix
_WAIT_PER_CELL_S = 10.0  # added to it for every cell that is still to be copied
_PAUSE_S, _LONGEST_PAUSE_S = 30.0, 900.0  # before cells that could not be copied are tried again; doubled each time
_LATE = "it did not finish in time"
_LOOK_S = 0.1  # between two looks at a child that we wait for


def make_tracker(
    mode: str, store: Store, matrix: Matrix, say: Say | None = None, share_with: str | None = None, upload: str = ""
) -> LocalTracker | WandbTracker:
    """Return the tracker for `--wandb MODE`: the local record, copied to W&B unless the mode is `off`.

    Args:
        mode: `offline` (run folders under `<store>/wandb`), `online` (needs a login) or `off`.
        store: holds the results, and gets the records.
        matrix: the matrix that runs.
        say: prints one line of warning; to standard error if None.
        share_with: host of a W&B server that gets everything, even if the data are credentialed.
        upload: the command that sends what is missing in the end; if empty, `bench upload` with the matrix's name.

    Raises:
        ConfigError: for an unknown mode, or a server that may not have the data (`bench.privacy.border.check_server`).
    """
    if mode not in MODES:
        raise ConfigError(f"--wandb {mode}: no such mode{nearest(mode, MODES)} (have: {', '.join(MODES)})")
    if share_with is not None:
        check_server(share_with, mode)
        check_server(share_with, mode, server_of_wandb(share_with))
    local = LocalTracker(store, matrix, say, share_with)
    return local if mode == "off" else WandbTracker(local, mode, upload or f"bench upload {matrix.name}")


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class LocalTracker:
    """Writes the record of every cell; see `bench.results.record`."""

    def __init__(self, store: Store, matrix: Matrix, say: Say | None = None, share_with: str | None = None) -> None:
        """Record the cells of `matrix` under `store`. The git state is read once, here."""
        self.store, self.matrix, self.say, self.share_with = store, matrix, say or _to_stderr, share_with
        self.git = git_state()
        self._warned = False

    def cell_ended(self, cell: Cell) -> None:
        """Write the cell's record."""
        self.record(cell, read_cell(cell, self.store))

    def record(self, cell: Cell, result: CellResult) -> Path | None:
        """Write the cell's record and return its folder, or None if the disk refuses; the first time, warn."""
        try:
            return write_record(self.store, self.matrix, cell, result, self.git, self.share_with)
        except OSError as error:  # the store has the results; the next run writes the record from them
            if not self._warned:
                place = f"{self.store.root}: {error.strerror}"
                self.say(f"warning: the record of {cell.name} cannot be written under {place}")
            self._warned = True
            return None

    def close(self) -> None:
        """Do nothing. Every record is complete when it is written."""


class WandbTracker:
    """Copies finished cells to W&B, one W&B run for each, in child processes. Only `close` waits for them.

    Attributes:
        sent: cells that were copied by this tracker.
        there: cells of which W&B had everything before.
        lacking: cells that W&B lacks, each with the reason.
    """

    def __init__(self, local: LocalTracker, mode: Literal["offline", "online"], upload: str) -> None:
        """Copy the records that `local` writes; `upload` is the command that sends what is missing in the end."""
        self.local, self.mode, self.upload = local, mode, upload
        self.sent: set[str] = set()
        self.there: set[str] = set()
        self.lacking: dict[str, str] = {}
        self._root = local.store.root.resolve()
        self._waiting: list[tuple[str, Path]] = []
        self._child: Child | None = None
        self._not_before, self._pause_s = 0.0, _PAUSE_S
        self._warned = self._closing = False
        self._were_open: list[str] = []

    def cell_ended(self, cell: Cell) -> None:
        """Write the local record, then queue the cell if it is finished and W&B may not have it yet."""
        self.add(cell)
        self._pump()

    def add(self, cell: Cell) -> bool:
        """Write a cell's record, queue the cell if W&B may not have it yet, and return whether the cell is finished."""
        result = read_cell(cell, self.local.store)
        folder = self.local.record(cell, result)
        record = read_record(folder) if folder and result.state == "done" else None
        if folder is None or record is None:
            return False
        if was_open(folder, record):
            self._were_open.append(cell.name)
        # Whether it was sent online is known by the child, which asks W&B where to.
        if self.mode == "offline" and has_offline_copy(folder, record, self.local.share_with):
            self.there.add(cell.name)
        else:
            self._waiting.append((cell.name, folder.resolve()))
        return True

    def close(self, wait: bool = False, on_progress: Callable[[], object] = lambda: None) -> None:
        """Copy the cells that are left, and say which W&B lacks. No process is left after this.

        Args:
            wait: wait for as long as it takes; otherwise about 10 seconds for each cell.
            on_progress: called now and then.
        """
        if self._were_open:
            self.local.say(
                f"warning: W&B was given pictures of {listed(self._were_open, 3)} while these data were said to be "
                f"open; delete them there, and their runs in {self._root / 'wandb'}"
            )
        n_left = len(self._waiting) + len(self._child.cells if self._child else ())
        limit = float("inf") if wait else time.monotonic() + _WAIT_S + _WAIT_PER_CELL_S * n_left
        self._not_before, self._closing = 0.0, True
        try:
            self._pump()
            while self._child is not None and time.monotonic() < limit:
                time.sleep(_LOOK_S)
                self._pump()
                on_progress()
            if self._child is not None:
                self._child.stop()
                self._collect(self._child, _LATE)
                self.lacking |= {name: _LATE for name, _ in self._waiting}
        finally:
            if self._child is not None:
                self._child.stop()
        self._say_lacking()

    def _pump(self) -> None:
        """Collect the child if it has ended, and start the next one if cells wait. Never blocks."""
        if self._child is not None:
            ended = self._child.has_ended()
            self._note(self._child)
            if not ended:
                return
            self._collect(self._child)
        if self._waiting and time.monotonic() >= self._not_before:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self._child = Child(self.mode, self._root, self.local.share_with, batch, is_last_try=self._closing)

    def _note(self, child: Child) -> None:
        """Take note of what a child has told about its cells so far."""
        told = child.told()
        self.sent |= {name for name, became in told.items() if became == "sent"}
        self.there |= {name for name, became in told.items() if became == "there"}

    def _collect(self, child: Child, reason: str = "") -> None:
        """Take note of what became of a child's cells. Those that W&B lacks wait for a later try, if there is one."""
        self._child = None
        self._note(child)
        lacking = child.lacking(reason)
        if not lacking:
            self._pause_s = _PAUSE_S
            child.remove_log()  # after a failure the log is kept: it says why
            return
        if child.is_last_try or reason:
            self.lacking |= lacking
            return
        self._waiting += [(name, folder) for name, folder in child.cells if name in lacking]
        self._not_before = time.monotonic() + (0.0 if self._closing else self._pause_s)
        self._pause_s = min(2 * self._pause_s, _LONGEST_PAUSE_S)
        if not self._warned and not self._closing:
            reason = next(iter(lacking.values()))
            self.local.say(f"warning: W&B ({self.mode}): {reason}; it is tried again later")
        self._warned = True

    def _say_lacking(self) -> None:
        if self.lacking:
            n = len(self.sent) + len(self.there) + len(self.lacking)
            names, reason = listed(sorted(self.lacking), 3), next(iter(self.lacking.values()))
            self.local.say(
                f"warning: W&B ({self.mode}) lacks {len(self.lacking)} of {n} cells ({names}): {reason}; the "
                f"local records are complete, and `{self.upload}` sends what is missing"
            )
