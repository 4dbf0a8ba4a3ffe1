"""Small stages that count, fail, die or resume on purpose, for tests of the store and the executors."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import ClassVar, Literal

from bench.pipeline.settings import not_semantic
from bench.pipeline.stage import Resources, Stage, Work


def note(log: str, line: str) -> None:
    """Append one line to a file shared by processes (a short O_APPEND write is not torn); nothing without a file."""
    if log:
        with open(log, "a", encoding="utf-8") as handle:
            handle.write(line + "\n")


def noted(log: Path) -> list[str]:
    """Return the lines written by `note`."""
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def gather(folder: str) -> None:
    """Say that this process is ready, and wait until all are let go by a file `go`."""
    note(f"{folder}/ready", "ready")
    while not Path(folder, "go").exists():
        time.sleep(0.002)


class Toy(Stage):
    """A number computed from settings and inputs; `log` and `seconds` never enter the key."""

    value: int = 0
    inputs_: tuple[Stage, ...] = ()
    log: str = not_semantic("")
    seconds: float = not_semantic(0.0)

    def compute(self, work: Work) -> None:
        """Log the attempt, take `seconds`, write the sum of the value and the inputs' numbers."""
        note(self.log, f"{self.stage_name()} {self.value}")
        self.misbehave(work)
        steps = max(1, round(self.seconds / 0.02))
        for step in range(steps):
            time.sleep(self.seconds / steps)
            work.progress(step + 1, steps, "sleep")
        number = self.value + sum(work.get(below) for below in self.inputs_)
        (work.out / "number.json").write_text(json.dumps(number), encoding="utf-8")

    def misbehave(self, work: Work) -> None:
        """Do nothing; subclasses fail or die here."""

    def open(self, folder: Path) -> int:
        """Return the number."""
        return json.loads((folder / "number.json").read_text(encoding="utf-8"))


class Slow(Toy):
    """A toy whose estimate puts it on the critical path."""

    resources: ClassVar[Resources] = Resources(minutes=60)


class Fails(Toy):
    """Raises, always or only the first time."""

    error: Literal["ValueError", "OSError", "MemoryError"] = "ValueError"
    once: bool = not_semantic(False)

    def misbehave(self, work: Work) -> None:
        """Leave a half-written file and a checkpoint, then raise."""
        (work.out / "half.bin").write_bytes(b"half")
        marker = work.ckpt / "tried"
        if not (self.once and marker.exists()):
            marker.touch()
            kind = {"ValueError": ValueError, "OSError": OSError, "MemoryError": MemoryError}[self.error]
            raise kind("on purpose")


class Dies(Toy):
    """Is killed by SIGKILL on its first `deaths` attempts, as the kernel does when memory runs out."""

    deaths: int = 1

    def misbehave(self, work: Work) -> None:
        """Count the attempt in the checkpoint folder, leave a half-written file, and die."""
        (work.out / "half.bin").write_bytes(b"half")
        attempts = len(list(work.ckpt.iterdir()))
        if attempts < self.deaths:
            (work.ckpt / f"attempt-{attempts}").touch()
            os.kill(os.getpid(), signal.SIGKILL)


class Talks(Toy):
    """Prints, as libraries do."""

    def misbehave(self, work: Work) -> None:
        """Print with Python and with the bare descriptor."""
        print("talk on stdout")
        os.write(1, b"bare talk on stdout\n") if self.value else None


class Counts(Toy):
    """Resumes: a chain of steps with a checkpoint after each."""

    steps: int = 20

    def misbehave(self, work: Work) -> None:
        """Go on from the checkpoint; every step ever run is logged, so that repeated ones show."""
        path, temporary = work.ckpt / "state.json", work.ckpt / ".state.json"
        done = json.loads(path.read_text(encoding="utf-8")) if path.exists() else 0
        for step in range(done, self.steps):
            time.sleep(0.02)
            note(self.log, f"step {step}")
            temporary.write_text(json.dumps(step + 1), encoding="utf-8")
            os.replace(temporary, path)
            work.progress(step + 1, self.steps, "step")


class Leaves(Toy):
    """Ends its process without an exception."""

    def misbehave(self, work: Work) -> None:
        """Leave."""
        os._exit(3)
