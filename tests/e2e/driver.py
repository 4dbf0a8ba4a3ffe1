"""The command line, called in this process as a shell would call it."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import pytest

from bench.cli import main


@dataclass(frozen=True)
class Said:
    """What a command ended with and wrote."""

    code: int
    out: str
    err: str


class Bench:
    """Calls `bench ARGS`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capfd = monkeypatch, capfd

    def __call__(self, *args: object) -> Said:
        """Run one command; whatever it raises on purpose has become an exit code by then."""
        self.monkeypatch.setattr(sys, "argv", ["bench", *map(str, args)])
        self.capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        code = ended.value.code
        return Said(code if isinstance(code, int) else int(bool(code)), *self.capfd.readouterr())
