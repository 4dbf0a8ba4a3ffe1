"""Trackers, which are told when a cell finishes or fails. One writes the local record, one copies it to W&B.

W&B runs in a child process that reads the local record (`bench.tracking.wandb_mirror`). In this process, a failed
login, a dead network or a crash in W&B's library could block or end the run. In a child it costs one line of warning,
and the cells that were not copied are tried again when the matrix runs next.
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
Say = Callable[[str], object]

_BATCH = 200  # cells for one child; their folders stay far below the system's limit on a command line
_WAIT_S = 60.0  # longest wait for the last child at the end of a matrix
_WAIT_PER_CELL_S = 10.0  # added to it for every cell that is still to be copied


def make_tracker(
    mode: str, store: Store, matrix: Matrix, say: Say | None = None, share_with: str | None = None
) -> LocalTracker | WandbTracker:
    """Return the tracker for `--wandb MODE`: the local record, copied to W&B unless the mode is `off`.

    Args:
        mode: `offline` (run folders under `<store>/wandb`, for `wandb sync`), `online` (needs a login) or `off`.
        store: holds the results, and gets the records.
        matrix: the matrix that runs.
        say: prints one line of warning; to standard error if None.
        share_with: host of a W&B server that gets everything, even if the data are credentialed.

    Raises:
        ConfigError: for an unknown mode, or a server that may not have the data (`bench.privacy.border.check_server`).
    """
    if mode not in MODES:
        raise ConfigError(f"--wandb {mode}: no such mode{nearest(mode, MODES)} (have: {', '.join(MODES)})")
    if share_with is not None:
        check_server(share_with, mode)
        check_server(share_with, mode, _server_of_wandb(share_with))
    local = LocalTracker(store, matrix, say, share_with)
    return local if mode == "off" else WandbTracker(local, mode)


def _server_of_wandb(share_with: str) -> str:
    """Return the address of the server that W&B would use, as a child process of the same kind finds it.

    Raises:
        ConfigError: if W&B does not say.
    """
    try:
        with tempfile.TemporaryDirectory() as root:  # W&B writes files of its own, and the store must stay untouched
            command = [sys.executable, "-P", "-m", "bench.tracking.wandb_mirror", "where", root, NO_SERVER]
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
    """Return the working folder and the variables of a child."""
    # W&B reads a settings file in the working folder. The user's own could send data elsewhere, so a child works in
    # `/`, and the paths that it imports from are made absolute.
    given = (p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
    search = os.pathsep.join([str(Path(__file__).parents[2]), *map(os.path.abspath, given)])
    return {"cwd": os.sep, "env": os.environ | {"PYTHONPATH": search}}


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
    """Copies finished cells to W&B, one W&B run for each, in child processes. Only `close` waits for them."""

    def __init__(self, local: LocalTracker, mode: Literal["offline", "online"]) -> None:
        """Copy the records that `local` writes."""
        self.local, self.mode = local, mode
        self._root = local.store.root.resolve()
        self._log = self._root / "wandb" / f"mirror-{os.getpid()}.log"
        self._waiting: list[Path] = []
        self._child: subprocess.Popen[bytes] | None = None
        self._n_given = 0
        self._gave_up = False
        self._were_open: list[str] = []

    def cell_ended(self, cell: Cell) -> None:
        """Write the local record, then queue the cell if it is finished and W&B does not have it yet."""
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
        """Copy the cells that are left and wait for the last child, but not for ever; no process is left after this."""
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
            "-P",
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
                # In a session of its own the child gets no Ctrl-C from the terminal, and can finish the cell that it
                # copies. At the deadline, W&B's helper processes can be killed with it as one group.
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
            self._log.unlink(missing_ok=True)  # after a failure the log is kept: it says why
