"""Trackers, which are told when a cell finishes or fails. One writes the local record, one also copies it to W&B."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.privacy.border import is_open
from bench.results.cells import CellResult, read_cell
from bench.results.record import (
    LIVE_FILE,
    git_state,
    read_record,
    record_folder,
    shared_trainings,
    write_live_record,
    write_record,
)
from bench.results.shown import write_shown
from bench.results.stage_record import write_stage_record
from bench.store.store import Store
from bench.tracking.figures import shown_no_longer
from bench.tracking.marker import sent_as
from bench.tracking.sender import Say, Sender, check_mode, to_stderr
from bench.tracking.wandb_child import LiveChild


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
    check_mode(mode, share_with)
    local = LocalTracker(store, matrix, say, share_with)
    return local if mode == "off" else WandbTracker(local, mode, upload or f"bench upload {matrix.name}")


class LocalTracker:
    """Writes the record of every cell; see `bench.results.record`."""

    def __init__(self, store: Store, matrix: Matrix, say: Say | None = None, share_with: str | None = None) -> None:
        """Record the cells of `matrix` under `store`. The git state is read once, here."""
        self.store, self.matrix, self.say, self.share_with = store, matrix, say or to_stderr, share_with
        self.git = git_state()
        self.finished: dict[str, CellResult] = {}  # name → what was read of a finished cell
        self._warned = False

    def begun(self, cells: Sequence[Cell]) -> None:
        """Do nothing: a record is written when a cell has ended."""

    def cell_ended(self, cell: Cell) -> None:
        """Write the cell's record."""
        self.record(cell, read_cell(cell, self.store))

    def record(self, cell: Cell, result: CellResult) -> Path | None:
        """Write the cell's record and return its folder, or None if the disk refuses; the first time, warn."""
        if result.state == "done":
            self.finished[cell.name] = result
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


class WandbTracker(Sender):
    """Copies finished cells to W&B, one W&B run for each, in child processes. Only `close` waits for them.

    A training that cells share, such as that of a codec, is a run of its own, and the cells name it.
    """

    def __init__(self, local: LocalTracker, mode: str, upload: str) -> None:
        """Copy the records that `local` writes; `upload` is the command that sends what is missing in the end."""
        super().__init__(local.store.root, mode, local.share_with, local.say, upload, "runs")
        self.local = local
        self.stages: set[str] = set()  # names of the shared trainings that were queued
        self._live: LiveChild | None = None

    @property
    def finished(self) -> dict[str, CellResult]:
        """What was read of finished cells, by their names."""
        return self.local.finished

    def begun(self, cells: Sequence[Cell]) -> None:
        """Let W&B show the cells while they are trained, if it is online. An offline run cannot be continued."""
        if self.mode != "online" or not cells:
            return
        local = self.local
        self._live = LiveChild(self._root, local.share_with, all(cell.sharing == "open" for cell in cells))
        for cell in cells:
            try:
                folder = write_live_record(local.store, local.matrix, cell, local.git, local.share_with)
            except (OSError, StoreError):  # told about when the record is written
                continue
            self._live.begun(folder.resolve())

    def cell_ended(self, cell: Cell) -> None:
        """Write the local record, then queue the cell if it is finished and W&B may not have it yet."""
        well = self.add(cell)
        folder = record_folder(self.local.store, cell).resolve()
        if self._live is not None:
            self._live.ended(folder, well)
        with contextlib.suppress(OSError):  # a folder that cannot be written was told about with the record
            (folder / LIVE_FILE).unlink()
        self.pump()

    def close(self, wait: bool = False, on_progress: Callable[[], object] = lambda: None) -> None:
        """End the runs of cells that are not finished, and say what W&B should not have; then see `Sender.close`."""
        if self._live is not None:
            self._live.close()
        if told := shown_no_longer(self._root, self.local.matrix):
            self.say(told)
        super().close(wait, on_progress)

    def add(self, cell: Cell) -> bool:
        """Write a cell's record, queue the cell if W&B may not have it yet, and return whether the cell is finished."""
        result = read_cell(cell, self.local.store)
        folder = self.local.record(cell, result)
        record = read_record(folder) if folder and result.state == "done" else None
        if folder is None or record is None:
            return False
        self._pick(result, folder, record)
        self.offer(cell.name, folder, record)
        self._offer_shared(cell, set(record.get("shared_trainings", {}).values()) - self.stages)
        return True

    def _offer_shared(self, cell: Cell, names: set[str]) -> None:
        """Queue the trainings of these names, which the cell shares with others."""
        if not names:
            return
        local = self.local
        for name, stage in shared_trainings(local.store, cell).items():
            if name in names:
                self.stages.add(name)
                try:
                    record = write_stage_record(local.store, cell, name, stage, local.git, local.share_with)
                except OSError as error:
                    self.say(f"warning: the record of {name} cannot be written: {error.strerror}")
                else:
                    self.offer(name, *record)

    def _pick(self, result: CellResult, folder: Path, record: dict[str, Any]) -> None:
        """Pick what W&B shows of a cell's images, if they may leave; see `bench.results.shown`."""
        server = self.local.share_with
        # What was sent before stays as it is. Picking now would give panels names that those runs do not have.
        if not (is_open(record["sharing"]) or server) or sent_as(folder, record, server):
            return
        try:
            write_shown(self.local.store, result, folder)
        except (OSError, StoreError) as error:
            self.say(f"warning: W&B gets no curves and no pairs of {result.cell.name}: {error}")
