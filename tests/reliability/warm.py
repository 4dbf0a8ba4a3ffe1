"""Runs of the command line that start in milliseconds: each a process and a session of its own, forked from a parent
that has everything imported.

A run is as real as one from a shell: its own process group, its own command line, its own exit code, its own fork
server below it. What it does not do again is the import of the libraries.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from tests.reliability.helpers import ROOT, group_is_gone, until

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before the parent of all runs imports torch
MATRIX = Path(__file__).with_name("crash.yaml")
_PRELOAD = ["tests.reliability.preload"]


@dataclass(frozen=True)
class Spy:
    """What is watched inside of a run, and what is done to it there.

    Attributes:
        root: the store.
        attempts: file that gets a line `<stage>/<key> mkdir|rename <folder> first|again` as an attempt makes its folder
            and as it becomes the result; `again` where there was a result already.
        events: file that gets a line for each change to the store's folder tree (None: not wanted).
        die_at: the event just before which the whole group is killed (None: none).
        eager_checkpoints: let a classifier save a checkpoint wherever it may, not every 20 seconds.
    """

    root: Path
    attempts: Path
    events: Path | None = None
    die_at: str | None = None
    eager_checkpoints: bool = True


@dataclass
class Run:
    """A started `bench` command."""

    process: Any
    folder: Path
    began: float = field(default_factory=time.monotonic)
    began_at: float = field(default_factory=time.time)

    @property
    def group(self) -> int:
        """The process group, which is also the driver's process id."""
        return self.process.pid

    def ended(self) -> bool:
        """Tell whether the driver has ended."""
        return self.process.exitcode is not None

    def wait(self, limit_s: float) -> int | None:
        """Return the exit code (negative: the signal), or None if the driver is still there after `limit_s`."""
        self.process.join(limit_s)
        return self.process.exitcode

    def signal(self, which: signal.Signals) -> None:
        """Send a signal to the whole group, if there is anyone left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.group, which)

    def kill(self) -> bool:
        """Kill the whole group; tell whether everyone in it is gone."""
        self.signal(signal.SIGKILL)
        self.process.join(10)
        return group_is_gone(self.group)

    @property
    def said(self) -> str:
        """What it wrote on stderr."""
        return (self.folder / "err").read_text(encoding="utf-8", errors="replace")

    @property
    def rows(self) -> Any:
        """The JSON that it printed on stdout; None where it printed none."""
        text = (self.folder / "out").read_text(encoding="utf-8")
        return json.loads(text) if text.strip() else None


@cache
def context() -> Any:
    """Return multiprocessing with the fork server that has everything imported."""
    made = multiprocessing.get_context("forkserver")
    multiprocessing.forkserver._forkserver._stop()  # type: ignore[attr-defined]  # other tests' has less imported
    made.set_forkserver_preload(_PRELOAD)
    return made


def start(arguments: list[str], folder: Path, spy: Spy | None = None, cwd: Path = ROOT) -> Run:
    """Start `bench ARGUMENTS` in a session of its own; its output goes to files in `folder`, made for it."""
    folder.mkdir(parents=True)
    process = context().Process(target=_be_bench, args=(arguments, folder, spy, cwd))
    process.start()
    run = Run(process, folder)
    if not until(lambda: (folder / "began").exists() or run.ended(), 120):  # the first start imports everything
        raise TimeoutError("a forked process did not start")
    run.began, run.began_at = time.monotonic(), time.time()
    return run


def _be_bench(arguments: list[str], folder: Path, spy: Spy | None, cwd: Path) -> None:
    from bench.cli import __main__ as command

    os.setsid()
    _redirect(folder)
    os.chdir(cwd)
    multiprocessing.util.spawnv_passfds = _fork_instead  # type: ignore[attr-defined]
    sys.argv = ["bench", *arguments]
    sys.modules["__main__"] = command  # as `python -m bench.cli` has it: children of the fork server look at it
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # it may be ignored above us, as in a shell's background
    if spy is not None:
        _watch(spy)
    (folder / "began").touch()
    command.main()


def _redirect(folder: Path) -> None:
    for number, (path, flags) in enumerate(
        [(Path(os.devnull), os.O_RDONLY), *((folder / n, os.O_WRONLY | os.O_CREAT) for n in ("out", "err"))]
    ):
        handle = os.open(path, flags, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115 - for the life of the process
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115


def _fork_instead(path: Any, arguments: list[str], passfds: Any) -> int:
    """Stand in for `multiprocessing.util.spawnv_passfds`: fork what is imported instead of a new interpreter."""
    pid = os.fork()
    if pid:
        return pid
    try:
        for which in (signal.SIGTERM, signal.SIGINT):  # a handler does not outlive an exec
            signal.signal(which, signal.SIG_DFL)
        keep = sorted({0, 1, 2, *passfds})
        for low, high in zip(keep, [*keep[1:], 4096], strict=True):
            os.closerange(low + 1, high)
        exec(arguments[-1], {"__name__": "__main__"})  # `from multiprocessing.forkserver import main; main(...)`
    finally:
        os._exit(0)


def _watch(spy: Spy) -> None:
    from bench.pipeline import checkpoints

    if spy.eager_checkpoints:
        checkpoints.LEAST_SECONDS = 0.0
    root = f"{spy.root}/"

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if (told := _change(event, arguments, root)) is None:
            return
        name, real = told
        if name == spy.die_at:
            os.killpg(0, signal.SIGKILL)
        if (found := _ATTEMPT.search(real)) and event in ("os.mkdir", "os.rename"):
            state = "again" if Path(root, found[1], "manifest.json").exists() else "first"
            append(spy.attempts, f"{found[1]} {event.removeprefix('os.')} {os.path.basename(real)} {state}")
        if spy.events is not None:
            append(spy.events, name)

    sys.addaudithook(hook)


_ATTEMPT = re.compile(r"/(\w[\w-]*/[0-9a-f]{32})(?:\.work/out[^/]*)?$")  # an attempt's folder, and what it becomes
_AT = {"os.mkdir": 2, "os.remove": 1, "os.rmdir": 1}  # where the arguments of an event hold the folder's descriptor


def _change(event: str, arguments: tuple[Any, ...], root: str) -> tuple[str, str] | None:
    """Return a name for an event that changes the store, the same in every run, and its path; None for others."""
    try:
        if event == "open":
            path, mode, flags = arguments
            if not (flags & (os.O_WRONLY | os.O_RDWR) or (mode and set(mode) & set("wax+"))):
                return None
            real = os.fsdecode(path)
        elif event == "os.rename":
            real = os.fsdecode(arguments[1])
        elif event in _AT:
            real, folder = os.fsdecode(arguments[0]), arguments[_AT[event]]
            if folder >= 0:
                real = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), real)
        else:
            return None
    except (TypeError, ValueError, OSError):  # a descriptor instead of a path
        return None
    if not real.startswith(root):
        return None
    name = re.sub(r"(\.work/(?:out|ckpt))\.[^/]+", r"\1", real.removeprefix(root))
    return f"{event.removeprefix('os.')} {_OWN_TOKEN.sub('*', name)}", real


_OWN_TOKEN = re.compile(r"(?<=/\.)([^/]+)\.\w+$|(?<=/run-)\w+$")


def append(path: Path, line: str) -> None:
    """Append one line to a file that several processes write."""
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(handle, f"{line}\n".encode())
    finally:
        os.close(handle)
