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
from bench.tracking.wandb_mirror import CELL, FAILED, NO_SERVER, SERVER

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
            done = subprocess.run(command, timeout=_WAIT_S, **quiet, **_surroundings())
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"--share-with {share_with}: W&B does not say which server it talks to ({error})") from error
    found = _after(SERVER, done.stdout)
    if not found:
        told = _after(FAILED, done.stdout) or ["its process ended"]
        raise ConfigError(f"--share-with {share_with}: W&B does not say which server it talks to ({told[-1]})")
    return found[-1]


def _after(word: str, text: str) -> list[str]:
    """Return the lines that begin with a word, without it."""
    return [line.removeprefix(word) for line in text.splitlines() if line.startswith(word)]


def _surroundings() -> dict[str, Any]:
    """Return the working folder and the variables of a child."""
    # W&B reads a settings file in the working folder. The user's own could send data elsewhere, so a child works in
    # `/`, and the paths that it imports from are made absolute.
    given = (p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p)
    search = os.pathsep.join([str(Path(__file__).parents[2]), *map(os.path.abspath, given)])
    return {"cwd": os.sep, "env": os.environ | {"PYTHONPATH": search}}


class Child:
    """A process that copies some cells.

    Attributes:
        cells: (name, folder of the record) of each cell.
        is_last_try: whether what fails now is not tried again.
    """

    def __init__(
        self,
        mode: str,
        root: Path,
        share_with: str | None,
        cells: Sequence[tuple[str, Path]],
        is_last_try: bool = False,
    ) -> None:
        """Start it. A process that cannot be started is one that has ended, with the reason."""
        self.cells, self.is_last_try = list(cells), is_last_try
        self._log = root / "wandb" / f"mirror-{os.getpid()}.log"
        self._problem: str | None = None
        self._process: subprocess.Popen[bytes] | None = None
        folders = (str(folder) for _, folder in cells)
        server = share_with or NO_SERVER
        command = [sys.executable, "-P", "-m", "bench.tracking.wandb_mirror", mode, str(root), server, *folders]
        try:
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "wb") as log:
                # In a session of its own the child gets no Ctrl-C from the terminal, and can finish the cell that it
                # copies. At the deadline, W&B's helper processes can be killed with it as one group.
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    **_surroundings(),
                    start_new_session=True,
                )
        except OSError as error:
            self._problem = f"its process cannot be started: {error.strerror}"

    def has_ended(self) -> bool:
        """Tell whether the process has ended; never wait for it."""
        return self._process is None or self._process.poll() is not None

    def told(self) -> dict[str, str]:
        """Return what became of the cells so far, by name: `sent`, `there`, or `lacks` and the reason."""
        found: dict[str, str] = {}
        for line in _after(CELL, self._text()):
            number, _, became = line.partition(" ")
            if number.isdigit() and int(number) < len(self.cells) and became:
                found[self.cells[int(number)][0]] = became
        return found

    def lacking(self, reason: str = "") -> dict[str, str]:
        """Return the cells that W&B lacks after the end of the process, each with the reason.

        Args:
            reason: why those cells are lacking of which the process told nothing; if empty, what it said in the end.
        """
        told = self.told()
        lacks = {name: became.removeprefix("lacks ") for name, became in told.items() if became.startswith("lacks ")}
        said = [self._problem, *_after(FAILED, self._text()), *reversed(lacks.values())]
        ended = f"its process ended with code {self._process.returncode if self._process else None}"
        problem = reason or next(filter(None, said), ended)
        rest = {name: problem for name, _ in self.cells if name not in told}
        return {name: why.rstrip(".") for name, why in (lacks | rest).items()}

    def stop(self) -> None:
        """Kill the process and its helpers, if it has not ended."""
        if self._process is not None and self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def remove_log(self) -> None:
        """Remove what the process has printed."""
        self._log.unlink(missing_ok=True)

    def _text(self) -> str:
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
