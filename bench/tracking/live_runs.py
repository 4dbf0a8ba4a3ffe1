"""Show cells at W&B while their classifiers are trained, in the mirror's process.

The store is all that is looked at: a training writes its history beside its checkpoints (`history.json`), whichever
process or job trains it. The run has the id that it will keep. When the cell has ended, the mirror sends the rest to
the same run. No marker is written here: a cell counts as sent when W&B has all of it.
"""

from __future__ import annotations

import json
import os
import select
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import finite, read_json
from bench.privacy.border import payload
from bench.results.record import LIVE_FILE
from bench.store.attempt import written_so_far
from bench.store.claims import Claim
from bench.store.store import Store
from bench.tracking.marker import ids, lock_of, run_id
from bench.tracking.wandb_run import (
    DeletedError,
    begin_run,
    end_badly,
    pinned_settings,
    remove_logs,
    remove_service_logs,
)
from bench.tracking.wandb_server import Server, in_one_line

if TYPE_CHECKING:
    from wandb import Run

EVERY_S = 15.0  # between two looks at the store
BEGUN, ENDED, FAILED = "begun", "ended", "failed"  # then the folder of a cell's record, one a line on stdin
NOT_SHOWN = "not shown: "  # then what failed, on stdout
_LONGEST_PAUSE_S = 900.0  # before a cell is tried again that could not be shown; doubled each time


@dataclass
class _Shown:
    """A cell that is shown, or will be when its training has written a row."""

    folder: Path
    record: dict[str, Any]
    claim: Claim | None = None
    run: Run | None = None
    name: str = ""
    n_sent: int = 0
    not_before: float = 0.0
    pause_s: float = 0.0


class LiveRuns:
    """The runs of the cells that are being trained."""

    def __init__(self, root: Path, server: str | None) -> None:
        """Show cells of the store in `root`; `server` is the host that may have everything, or None."""
        self.root, self.server, self.store = root, server, Store(root)
        self._shown: dict[Path, _Shown] = {}
        self._asked: Server | None = None
        self.has_failed = False

    def begun(self, folder: Path) -> None:
        """Show a cell as soon as its training has written a row."""
        if record := read_json(folder / LIVE_FILE):
            self._shown[folder] = _Shown(folder, record)

    def ended(self, folder: Path, well: bool) -> None:
        """Send the last rows of a cell, and leave its run to the mirror."""
        if one := self._shown.pop(folder, None):
            if one.run is not None and well:
                self._try(one)
            self._leave(one, well)

    def look(self) -> None:
        """Send the rows that trainings have written since the last look."""
        for one in list(self._shown.values()):
            if time.monotonic() >= one.not_before:
                self._try(one)

    def close(self) -> None:
        """Leave all runs. The server shows them as failed, until a training goes on."""
        for folder in list(self._shown):
            self.ended(folder, well=False)
        if self._asked and not self.has_failed:  # after a failure the logs say why
            remove_service_logs(self.root)

    def _try(self, one: _Shown) -> None:
        try:
            self._show(one)
            one.pause_s = 0.0
        except Exception as error:  # W&B can fail in any way; the mirror sends the cell in the end
            self._say(one, error)
            self._leave(one, well=False)
            self._asked = None  # a login or a network may have come back by then
            one.pause_s = min(2 * one.pause_s or EVERY_S, _LONGEST_PAUSE_S)
            one.not_before = time.monotonic() + one.pause_s

    def _show(self, one: _Shown) -> None:
        history = self._history(one)
        if len(history) <= one.n_sent or (one.run is None and not self._begin(one, history)):
            return
        if one.run is None:
            return
        sent = payload(one.record | {"history": history}, self.root, self.server).of_training()
        for i, row in enumerate(sent.rows()):
            if i >= one.n_sent:
                one.run.log(row, step=i, commit=True)  # else W&B waits for the next row
                one.n_sent = i + 1

    def _history(self, one: _Shown) -> list[dict[str, Any]]:
        """Return the rows that the training has written so far."""
        live = one.record["live"]
        path = written_so_far(self.root / live["stage"], live["key"], "history.json")
        try:
            found = json.loads(path.read_text(encoding="utf-8")) if path else []
        except (OSError, ValueError):  # it was published at this moment; the next look finds it
            return []
        return finite(found) if isinstance(found, list) else []

    def _begin(self, one: _Shown, history: list[dict[str, Any]]) -> bool:
        """Begin a cell's run, or go on with it, if it is trained now. Return whether there is a run to write to."""
        if self.store.locks.holder(one.record["live"]["key"]) is None:
            return False
        one.claim = self.store.locks.try_claim(lock_of(one.folder, self.root), {})
        if one.claim is None:  # another command shows it
            return False
        pinned = pinned_settings(one.record, self.server)  # before anything is asked there
        self._asked = self._asked or Server()
        sent = payload(one.record | {"history": history}, self.root, self.server).of_training()
        for name in ids(run_id(one.record, self.server)):
            n_there = self._asked.rows_of_live(name)
            if n_there is None:  # a whole run, or one of an earlier version; the mirror knows what to do with it
                break
            try:
                one.run = begin_run(sent, name, self.root, "online", self._asked.to, pinned)
            except DeletedError:
                continue
            one.name, one.n_sent = name, n_there
            return True
        del self._shown[one.folder]
        self._leave(one, well=False)
        return False

    def _leave(self, one: _Shown, well: bool) -> None:
        """End a run, and let others write to it."""
        if one.run is not None and well:
            try:
                one.run.finish()
            except Exception as error:
                self._say(one, error)
        elif one.run is not None:
            end_badly(one.run)
        if one.name and not self.has_failed:
            remove_logs(self.root, one.name)
        if one.claim is not None:
            one.claim.release()
        one.run, one.claim, one.n_sent = None, None, 0

    def _say(self, one: _Shown, error: Exception) -> None:
        print(f"{NOT_SHOWN}{one.record['cell']}: {in_one_line(error)}", flush=True)
        self.has_failed = True


def watch(stdin: int, runs: LiveRuns) -> None:
    """Do what the lines on `stdin` say, and look at the store now and then, until it is closed."""
    text, next_look = b"", time.monotonic()
    while True:
        ready, _, _ = select.select([stdin], [], [], max(0.0, next_look - time.monotonic()))
        if ready:
            if not (new := os.read(stdin, 1 << 16)):
                break
            *lines, text = (text + new).split(b"\n")
            for line in lines:
                what, _, folder = os.fsdecode(line).partition(" ")
                if what == BEGUN:
                    runs.begun(Path(folder))
                else:
                    runs.ended(Path(folder), well=what == ENDED)
        if time.monotonic() >= next_look:
            runs.look()
            next_look = time.monotonic() + EVERY_S
    runs.close()
