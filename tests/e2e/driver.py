"""The command line, called in this process as a shell would call it."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.cli.main import main
from bench.errors import BenchError


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

    def debugged(self, *args: object) -> BaseException:
        """Run one command with `--debug` and return what Python would show a traceback of."""
        self.monkeypatch.setattr(sys, "argv", ["bench", "--debug", *map(str, args)])
        with pytest.raises((BenchError, OSError)) as raised:
            main()
        self.capfd.readouterr()
        return raised.value


_NOT_FOR_PEOPLE = ("Traceback", "pydantic", "NoneType", "object at 0x", "<class '", "input should")
_LONGEST_LINE = 900


def refused(bench: Bench, *args: object, folder: Path) -> str:
    """Return the one line of a refusal, after looking at everything else about it.

    That is: exit code 2, nothing on stdout, one line for people on stderr, nothing new or changed in `folder` (where
    the command runs, and where its store would be), and with `--debug` an error that Python shows the traceback of.
    """
    bench.monkeypatch.chdir(folder)
    before = _files(folder)
    said = bench(*args)
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("error: "), said.err
    assert said.err.endswith("\n")
    assert said.err.count("\n") == 1, said.err
    assert said.err[:-1].isprintable()
    assert len(said.err) < _LONGEST_LINE, said.err
    assert not [word for word in _NOT_FOR_PEOPLE if word in said.err], said.err
    error = bench.debugged(*args)
    assert error.__traceback__ is not None
    assert getattr(error, "exit_code", 2) == 2
    assert _files(folder) == before
    return said.err[len("error: ") : -1]


def _files(folder: Path) -> dict[str, tuple[int, int]]:
    found = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            fact = os.lstat(os.path.join(place, name))
            found[os.path.join(place, name)] = (fact.st_size, fact.st_mtime_ns)
    return found
