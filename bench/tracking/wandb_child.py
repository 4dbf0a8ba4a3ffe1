"""A child process that copies cells to W&B, seen from the benchmark's process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from bench.tracking.live_runs import BEGUN, ENDED, NOT_SHOWN
from bench.tracking.live_runs import FAILED as GIVEN_UP
from bench.tracking.wandb_mirror import ALL_OPEN, CELL, FAILED, NO_SERVER, SERVER

_CLOSE_S = 30.0  # longest wait for a child that shows cells, after it was told to end
_WAIT_S = 60.0  # longest wait for a child that only says which server W&B uses


def server_of_wandb(share_with: str) -> str:
    """Return the address of the server that W&B would use, as a child process of the same kind finds it.

    Raises:
        ConfigError: if W&B does not say.
    """
    try:
        with tempfile.TemporaryDirectory() as root:  # W&B writes files of its own, and the store must stay untouched
            command = [sys.executable, "-P", "-m", "bench.tracking.wandb_mirror", "where", root, NO_SERVER]
            quiet: dict[str, Any] = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True}
            done = subprocess.run(command, timeout=_WAIT_S, **quiet, **surroundings())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"--share-with {share_with}: W&B does not say which server it talks to ({error})") from error
    found = after(SERVER, done.stdout)
    if not found:
        told = after(FAILED, done.stdout) or ["its process ended"]
        raise ConfigError(f"--share-with {share_with}: W&B does not say which server it talks to ({told[-1]})")
    return found[-1]


def after(word: str, text: str) -> list[str]:
    """Return the lines that begin with a word, without it."""
    return [line.removeprefix(word) for line in text.splitlines() if line.startswith(word)]


def surroundings() -> dict[str, Any]:
    """Return the working folder and the variables of a child."""
    # W&B reads a settings file in the working folder. The user's own could send data elsewhere, so a child works in
    # `/`, and the paths that it imports from are made absolute.
    given = (p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
    search = os.pathsep.join([str(Path(__file__).parents[2]), *map(os.path.abspath, given)])
    return {"cwd": os.sep, "env": os.environ | {"PYTHONPATH": search}}


def _start(arguments: list[str], log: Path, stdin: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
    """Start a mirror that prints into a file.

    Raises:
        OSError: if it cannot be started.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-P", "-m", "bench.tracking.wandb_mirror", *arguments]
    with open(log, "wb") as out:
        # In a session of its own the child gets no Ctrl-C from the terminal, and can finish the cell that it copies. At
        # the deadline, W&B's helper processes can be killed with it as one group.
        return subprocess.Popen(command, stdin=stdin, stdout=out, stderr=out, **surroundings(), start_new_session=True)


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and its helpers, if it has not ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class LiveChild:
    """A process that shows cells at W&B while they are trained; see `bench.tracking.live_runs`."""

    def __init__(self, root: Path, share_with: str | None, all_open: bool) -> None:
        """Prepare it. It starts with the first cell."""
        said = ALL_OPEN if all_open else "-"
        self._command = ["live", str(root), share_with or NO_SERVER, said]
        self._log = root / "wandb" / f"live-{os.getpid()}.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._folders: list[Path] = []

    def begun(self, folder: Path) -> None:
        """Show a cell; what is needed of it is in its folder."""
        self._folders.append(folder)
        self._tell(f"{BEGUN} {folder}")

    def ended(self, folder: Path, well: bool) -> None:
        """Leave the run of a cell to the mirror."""
        if folder in self._folders:
            self._folders.remove(folder)
            self._tell(f"{ENDED if well else GIVEN_UP} {folder}")

    def close(self) -> None:
        """Let it end its runs, and wait for that; if it does not end in time, kill it with its helpers."""
        if self._process is None or self._process.stdin is None:
            return
        with suppress(OSError):
            self._process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_CLOSE_S)
        _kill(self._process)
        with suppress(OSError):
            if not after(NOT_SHOWN, self._log.read_text(encoding="utf-8", errors="replace")):
                self._log.unlink()

    def _tell(self, line: str) -> None:
        """Write a line to the process. One that was killed is started again; one that ended by itself is not."""
        lines = [line]
        if self._process is not None and (self._process.poll() or 0) < 0:
            self._process, lines = None, [f"{BEGUN} {folder}" for folder in self._folders]
        try:
            if self._process is None:
                self._process = _start(self._command, self._log, subprocess.PIPE)
            if self._process.stdin is not None:
                self._process.stdin.write(b"".join(os.fsencode(one) + b"\n" for one in lines))
                self._process.stdin.flush()
        except OSError:  # what is not shown is sent by the mirror, which also says what fails
            return


class Child:
    """A process that copies some records.

    Attributes:
        records: name and folder of each.
        is_last_try: whether what fails now is not tried again.
    """

    def __init__(
        self,
        mode: str,
        root: Path,
        share_with: str | None,
        records: Sequence[tuple[str, Path]],
        is_last_try: bool = False,
    ) -> None:
        """Start it. A process that cannot be started is one that has ended, with the reason."""
        self.records, self.is_last_try = list(records), is_last_try
        self._log = root / "wandb" / f"mirror-{os.getpid()}.log"
        self._problem: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        folders = (str(folder) for _, folder in records)
        try:
            self._process = _start([mode, str(root), share_with or NO_SERVER, *folders], self._log)
        except OSError as error:
            self._problem = f"its process cannot be started: {error.strerror}"

    def has_ended(self) -> bool:
        """Tell whether the process has ended; never wait for it."""
        return self._process is None or self._process.poll() is not None

    def told(self) -> dict[str, str]:
        """Return what became of the records so far, by name: `sent`, `there`, or `lacks` and the reason."""
        found: dict[str, str] = {}
        for line in after(CELL, self._text()):
            number, _, became = line.partition(" ")
            if number.isdigit() and int(number) < len(self.records) and became:
                found[self.records[int(number)][0]] = became
        return found

    def lacking(self, reason: str = "") -> dict[str, str]:
        """Return the records that W&B lacks after the end of the process, each with the reason.

        Args:
            reason: why those are lacking of which the process told nothing; if empty, what it said in the end.
        """
        told = self.told()
        lacks = {name: became.removeprefix("lacks ") for name, became in told.items() if became.startswith("lacks ")}
        said = [self._problem, *after(FAILED, self._text()), *reversed(lacks.values())]
        ended = f"its process ended with code {self._process.returncode if self._process else None}"
        problem = reason or next(filter(None, said), ended)
        rest = {name: problem for name, _ in self.records if name not in told}
        return {name: why.rstrip(".") for name, why in (lacks | rest).items()}

    def stop(self) -> None:
        """Kill the process and its helpers, if it has not ended."""
        if self._process is not None and self._process.poll() is None:
            _kill(self._process)

    def remove_log(self) -> None:
        """Remove what the process has printed."""
        self._log.unlink(missing_ok=True)

    def _text(self) -> str:
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
