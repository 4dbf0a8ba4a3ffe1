"""Trackers: what hears of every cell that ends. The local record always; Weights & Biases mirrors it if wanted.

W&B runs in a child process that reads the local record (`bench.tracking.wandb_mirror`), so that a missing package, a
failed login, a dead network or a crash in it costs the benchmark nothing but one line of warning. What could not be
mirrored is tried again the next time that the matrix runs.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from bench.errors import ConfigError, listed, nearest
from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.privacy.border import check_server
from bench.results.cells import CellResult, read_cell
from bench.results.record import git_state, read_record, write_record
from bench.store.store import Store
from bench.tracking.wandb_mirror import FAILED, NO_SERVER, SERVER, is_mirrored, was_open

Mode = Literal["offline", "online", "off"]
MODES: tuple[Mode, ...] = ("offline", "online", "off")
Say = Callable[[str], Any]

_BATCH = 200  # cells a child is given: far below the system's limit on a command line
_WAIT_S = 60.0  # at the end of a matrix, for the last child, and so much more for every cell that it still has
_WAIT_PER_CELL_S = 10.0


def make_tracker(
    mode: str, store: Store, matrix: Matrix, say: Say | None = None, share_with: str | None = None
) -> LocalTracker | WandbTracker:
    """Return the tracker for `--wandb MODE`: the local record, mirrored to W&B unless the mode is `off`.

    Args:
        mode: `offline` (run folders under `<store>/wandb`, for `wandb sync`), `online` (needs a login) or `off`.
        store: where results are and records go.
        matrix: what is being run.
        say: takes a line of warning; standard error when None.
        share_with: host of a W&B server that is given everything of data that are not open, too.

    Raises:
        ConfigError: for another mode, or a server that may not have that; see `bench.privacy.border.check_server`.
    """
    if mode not in MODES:
        raise ConfigError(f"--wandb {mode}: no such mode{nearest(mode, MODES)} (have: {', '.join(MODES)})")
    if share_with is not None:
        check_server(share_with, mode)
        check_server(share_with, mode, _server_of_wandb(share_with))
    local = LocalTracker(store, matrix, say, share_with)
    return local if mode == "off" else WandbTracker(local, mode)


def _server_of_wandb(share_with: str) -> str:
    """Return the address that W&B would talk to: asked in a process of its own, as it runs in one."""
    try:
        with tempfile.TemporaryDirectory() as root:  # W&B leaves notes of its own, and nothing is to be written yet
            command = [sys.executable, "-m", "bench.tracking.wandb_mirror", "where", root, NO_SERVER]
            quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
            done = subprocess.run(command, timeout=_WAIT_S, **quiet, **_surroundings())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"--share-with {share_with}: W&B does not say which server it talks to ({error})") from error
    lines = done.stdout.splitlines()
    found = [line.removeprefix(SERVER) for line in lines if line.startswith(SERVER)]
    if not found:
        told = [line.removeprefix(FAILED) for line in lines if line.startswith(FAILED)] or ["its process ended"]
        raise ConfigError(f"--share-with {share_with}: W&B does not say which server it talks to ({told[-1]})")
    return found[-1]


def _surroundings() -> dict[str, Any]:
    """Return folder and variables of a child: none that the user works in, for W&B reads settings lying there."""
    given = (p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
    search = os.pathsep.join([str(Path(__file__).parents[2]), *map(os.path.abspath, given)])
    return {"cwd": os.sep, "env": os.environ | {"PYTHONPATH": search}}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)


class LocalTracker:
    """Writes the record of every cell; see `bench.results.record`."""

    def __init__(self, store: Store, matrix: Matrix, say: Say | None = None, share_with: str | None = None) -> None:
        """Record cells of `matrix` under `store`; the checkout's state is read once, now."""
        self.store, self.matrix, self.say, self.share_with = store, matrix, say or _to_stderr, share_with
        self.git = git_state()
        self._warned = False

    def cell_ended(self, cell: Cell) -> None:
        """Write the cell's record."""
        self.record(cell, read_cell(cell, self.store))

    def record(self, cell: Cell, result: CellResult) -> Path | None:
        """Write the cell's record and return its folder; None (and one warning a run) if the disk refuses."""
        try:
            return write_record(self.store, self.matrix, cell, result, self.git, self.share_with)
        except OSError as error:  # the results are in the store; a record can be written again from them
            if not self._warned:
                place = f"{self.store.root}: {error.strerror}"
                self.say(f"warning: the record of {cell.name} cannot be written under {place}")
            self._warned = True
            return None

    def close(self) -> None:
        """Do nothing: every record is complete when it is written."""


class WandbTracker:
    """Mirrors finished cells to W&B, one run a cell, from a child process that nothing waits for until the end."""

    def __init__(self, local: LocalTracker, mode: Literal["offline", "online"]) -> None:
        """Mirror what `local` records."""
        self.local, self.mode = local, mode
        self._root = local.store.root.resolve()
        self._log = self._root / "wandb" / f"mirror-{os.getpid()}.log"
        self._waiting: list[Path] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._n_given = 0
        self._gave_up = False
        self._were_open: list[str] = []

    def cell_ended(self, cell: Cell) -> None:
        """Write the local record, then queue a finished cell that W&B does not have yet."""
        result = read_cell(cell, self.local.store)
        folder = self.local.record(cell, result)
        if folder is None or result.state != "done" or self._gave_up:
            return
        record = read_record(folder)
        if record and was_open(folder, record):
            self._were_open.append(cell.name)
        if record and not is_mirrored(folder, record, self.mode, self.local.share_with):
            self._waiting.append(folder.resolve())
        self._pump()

    def close(self) -> None:
        """Wait for the last child, within limits; then there is no process left."""
        if self._were_open:
            self.local.say(
                f"warning: W&B was given pictures of {listed(self._were_open, 3)} while these data were said to be "
                f"open; delete them there, and their runs in {self._root / 'wandb'} before any `wandb sync`"
            )
        limit = time.monotonic() + _WAIT_S + _WAIT_PER_CELL_S * (len(self._waiting) + self._n_given)
        try:
            self._pump()
            while self._child is not None:
                self._child.wait(timeout=max(0.0, limit - time.monotonic()))
                self._pump()
        except subprocess.TimeoutExpired:
            self._give_up("it did not finish in time")
        finally:
            self._stop()

    def _pump(self) -> None:
        """Collect the child if it has ended, and start the next one if cells wait. Never blocks."""
        if self._child is not None:
            if self._child.poll() is None:
                return
            code, self._child = self._child.returncode, None
            if code:
                self._give_up(self._reason() or f"its process ended with code {code}")
        if self._waiting and not self._gave_up:
            batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
            self._start(batch)

    def _start(self, batch: list[Path]) -> None:
        server = self.local.share_with or NO_SERVER
        command = [
            sys.executable,
            "-m",
            "bench.tracking.wandb_mirror",
            self.mode,
            str(self._root),
            server,
            *map(str, batch),
        ]
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "wb") as log:
                # its own session: Ctrl-C is for the benchmark, and the whole group can be ended at the deadline
                self._child = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    **_surroundings(),
                    start_new_session=True,
                )
            self._n_given = len(batch)
        except OSError as error:
            self._give_up(f"its process cannot be started: {error.strerror}")

    def _reason(self) -> str | None:
        try:
            lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return None
        told = [line.removeprefix(FAILED).rstrip(".") for line in lines if line.startswith(FAILED)]
        return told[-1] if told else None

    def _give_up(self, reason: str) -> None:
        if not self._gave_up:
            self.local.say(
                f"warning: W&B ({self.mode}) is left out of this run: {reason}; the local records are complete, "
                "run the same command again to mirror them, or use --wandb off"
            )
        self._gave_up = True
        self._waiting.clear()

    def _stop(self) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._child.pid, signal.SIGKILL)
            self._child.wait()
            self._child = None
        elif not self._gave_up:
            self._log.unlink(missing_ok=True)  # kept where it explains a failure
