"""What every verb of the command line needs: the store, the matrix, the two streams, an orderly stop."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.execute.choose import Placement
    from bench.machine import Machine
    from bench.matrix import Matrix
    from bench.store import Execution, Store


def load(matrix: str, sets: list[str] | None) -> Matrix:
    """Return a matrix with its overrides, its weights looked at.

    Raises:
        ConfigError: see `bench.matrix.load_matrix` and `bench.weights.check_weights`.
    """
    from bench.matrix import find, load_matrix
    from bench.weights import check_weights

    loaded = load_matrix(matrix, sets or ())
    check_weights(loaded, find(matrix).name)
    return loaded


def open_store(path: Path) -> Store:
    """Return the store in a folder, which need not be there yet.

    Raises:
        ConfigError: if the path is a file.
    """
    from bench.store import Store

    if path.exists() and not path.is_dir():
        raise ConfigError(f"--store {path}: is a file; give a folder")
    return Store(path.resolve())


def refuse_occupied(out: Path | None) -> None:
    """Refuse a folder to copy to that holds something, before hours are spent on what is to be copied.

    Raises:
        ConfigError: if there is anything.
    """
    if out and out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out}: is not an empty folder; give a new one")


def make_machine(
    path: Path | None,
    executor: str | None = None,
    jobs: int | None = None,
    device: str | None = None,
    threads: int | None = None,
) -> Machine:
    """Return where things run: the machine file's settings, over them what the command line gives.

    Raises:
        ConfigError: for a file that cannot be understood, or a value that is not allowed.
    """
    from bench.execute.choose import check_executor
    from bench.machine import THREADS, load_machine

    if executor is not None:
        check_executor(executor)
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs {jobs}: want 1 or more")
    given = {"executor": executor, "jobs": jobs, "device": device, "threads": threads}
    machine = load_machine(path).model_copy(update={k: v for k, v in given.items() if v is not None})
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", machine.device):
        raise ConfigError(f"--device {machine.device}: want auto, cpu, cuda, cuda:0 (1, ...) or mps")
    # also for the processes and jobs that we start; read by numpy and scipy when they are first imported
    os.environ |= {name: str(machine.threads) for name in THREADS}
    if machine.locks:
        os.environ["BENCH_LOCKS"] = machine.locks
    return machine


def make_execution(machine: Machine) -> Execution:
    """Return how stages compute on a machine."""
    from bench.store import Execution

    return Execution(machine.device, machine.threads)


def make_placement(machine: Machine, idle: bool = False) -> Placement:
    """Return the executor; counting GPUs takes torch's import, so not where nothing is left to compute (`idle`)."""
    from bench.execute.choose import place

    jobs = machine.jobs or (1 if idle or machine.executor in ("inline", "slurm") else 0)
    if not jobs:
        from bench.execute.processes import count_gpus

        jobs = count_gpus() or len(os.sched_getaffinity(0))
    if machine.executor == "slurm" and not idle:
        from bench.execute.queue import require_slurm

        require_slurm()
    return place(machine, jobs)


def steady_streams() -> None:
    """Make the two streams take every text: a closed one goes nowhere, a letter that it has no byte for is replaced."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != descriptor:  # libraries and children write to the number
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            setattr(sys, name, open(descriptor, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - until the end
        elif isinstance(stream, io.TextIOWrapper):
            # of a file's name that is no UTF-8 the bytes are shown; a table keeps its widths
            stream.reconfigure(errors="backslashreplace" if stream.encoding.lower().startswith("utf") else "replace")


def stderr_console() -> Any:
    """Return rich's console for talk."""
    from rich.console import Console

    return Console(stderr=True)


def stdout_console() -> Any:
    """Return rich's console for data; 140 columns wide where it is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140)


def print_json(value: Any) -> None:
    """Print data as JSON on stdout."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


def in_one_line(text: str) -> str:
    """Return a text without line breaks, and with what would steer a terminal written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def say(line: str) -> None:
    """Print a line of talk on stderr."""
    typer.echo(line, err=True)


@contextlib.contextmanager
def talk_on_stderr() -> Iterator[None]:
    """Send what stages and libraries print, in this process and in its children, to stderr: stdout is for data."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


KEPT = "finished stages and checkpoints are kept. Go on"


class interruptible:
    """Turn Ctrl-C and SIGTERM into one line that says how to go on, and exit code 130."""

    def __init__(self, command: str, goes_on_alone: bool = False) -> None:
        self.command, self.goes_on_alone = command, goes_on_alone

    def __enter__(self) -> None:
        import signal

        def stop(signum: int, frame: object) -> NoReturn:
            raise KeyboardInterrupt

        self.before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
        for number, handler in self.before.items():
            if handler is not signal.SIG_IGN:  # as `nohup` sets it
                signal.signal(number, stop)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        import signal

        for number, handler in self.before.items():
            signal.signal(number, handler)
        if kind is KeyboardInterrupt:
            state = "the SLURM jobs go on without this command; watch again" if self.goes_on_alone else KEPT
            say(f"stopped; {state} with: {self.command} (same options)")
            raise typer.Exit(130) from None
