"""What every verb needs: the matrix and the store that are named, the machine, the two streams, an orderly stop."""

from __future__ import annotations

import codecs
import contextlib
import io
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bench.errors import ConfigError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import ProgressColumn

    from bench.matrix.matrix import Matrix
    from bench.run.machine_file import Machine
    from bench.run.placement import ChosenExecutor
    from bench.store.store import Store
    from bench.store.work import Execution


_TWICE_S = 1.0  # signals that follow so soon are the same wish to stop


def load(matrix: str, sets: list[str] | None) -> Matrix:
    """Return a matrix with its overrides, after a look at its files of weights.

    Raises:
        ConfigError: see `bench.matrix.load.load_matrix` and `bench.matrix.inputs.check_weights`.
    """
    from bench.matrix.inputs import check_weights
    from bench.matrix.load import find, load_matrix

    loaded = load_matrix(matrix, sets or ())
    check_weights(loaded, find(matrix).name)
    return loaded


def open_store(path: Path) -> Store:
    """Return the store in a folder. The folder need not exist yet.

    Raises:
        ConfigError: if the path is a file, or if a name in it is not UTF-8.
    """
    from bench.paths import check_utf8
    from bench.store.store import Store

    if path.exists() and not path.is_dir():
        raise ConfigError(f"--store {path}: is a file; give a folder")
    store = path.resolve()
    try:  # the library that writes weights cannot open such a folder, and would say so after the training
        check_utf8(str(store), "--store")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return Store(store)


def open_existing_store(path: Path) -> Store:
    """Return the store in a folder, for verbs that tell what is in it: a wrong name must not pass for an empty one.

    Raises:
        ConfigError: if there is no such folder; see also `open_store`.
    """
    store = open_store(path)
    if not store.root.exists():
        raise ConfigError(f"--store {path}: there is no store; give the folder that `bench run` wrote its results to")
    return store


def refuse_occupied(out: Path | None) -> None:
    """Refuse an output folder that already holds something, before hours are spent on the result to copy there.

    Raises:
        ConfigError: if the folder holds anything.
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
    """Return the settings of the machine file; options of the command line replace them.

    Call it before anything imports numpy or scipy: they read the number of threads once, when they are first imported.

    Raises:
        ConfigError: if the file cannot be understood or a value is not allowed.
    """
    from bench.run.machine_file import THREADS, load_machine
    from bench.run.placement import check_executor

    if executor is not None:
        check_executor(executor)
    if jobs is not None and jobs < 1:
        raise ConfigError(f"--jobs {jobs}: want 1 or more")
    given = {"executor": executor, "jobs": jobs, "device": device, "threads": threads}
    machine = load_machine(path).model_copy(update={k: v for k, v in given.items() if v is not None})
    if not re.fullmatch(r"auto|cpu|mps|cuda(:\d+)?", machine.device):
        raise ConfigError(f"--device {machine.device}: want auto, cpu, cuda, cuda:0 (1, ...) or mps")
    os.environ |= {name: str(machine.threads) for name in THREADS}  # the processes and jobs that we start inherit them
    if machine.locks:
        os.environ["BENCH_LOCKS"] = machine.locks
    return machine


def make_execution(machine: Machine) -> Execution:
    """Return how stages compute on a machine."""
    from bench.store.work import Execution

    return Execution(machine.device, machine.threads)


def make_placement(machine: Machine, idle: bool = False) -> ChosenExecutor:
    """Return the executor and its number of jobs.

    Counting GPUs imports torch, which takes seconds; so nothing is counted where nothing is left to compute (`idle`).

    Raises:
        ConfigError: if something is left to compute, and this machine lacks the device or SLURM.
    """
    from bench.run.placement import choose_executor, lacking_device

    if machine.executor != "slurm" and not idle and (lacks := lacking_device(machine.device)):
        raise ConfigError(f"--device {machine.device}: {lacks}")
    jobs = machine.jobs or (1 if idle or machine.executor in ("inline", "slurm") else 0)
    if not jobs:
        from bench.run.processes import gpus_of

        jobs = len(gpus_of(machine.device)) or len(os.sched_getaffinity(0))
    if machine.executor == "slurm" and not idle:
        from bench.run.slurm.queue import require_slurm

        require_slurm()
        if machine.slurm.stages:
            import bench.pretrain.stages  # noqa: F401 - a machine file may have entries for them, whatever runs now
    return choose_executor(machine, jobs)


def make_streams_safe() -> None:
    """Let stdout and stderr take every text, so that no verb dies of a closed stream or of a letter.

    A stream that is closed (`>&-`) leads to the null device. A letter that the stream's encoding lacks is replaced.
    """
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            if nowhere != descriptor:  # libraries and child processes write to the number, not to Python's object
                os.dup2(nowhere, descriptor)
                os.close(nowhere)
            setattr(sys, name, open(descriptor, "w", encoding="utf-8", closefd=False))  # noqa: SIM115 - until the end
        elif isinstance(stream, io.TextIOWrapper):
            # UTF-8 lacks only the stray bytes of a file's name, which are shown as numbers. Other encodings lack
            # arrows and dashes, each replaced by one letter, so that the columns of a table keep their widths.
            codecs.register_error("similar", _similar)
            stream.reconfigure(errors="backslashreplace" if stream.encoding.lower().startswith("utf") else "similar")


# in ASCII a minus sign must not become a question mark
_SIMILAR = str.maketrans("−–↑↓→±×·…≤≥", "--^v>~x-.<>")


def _similar(error: UnicodeError) -> tuple[str, int]:
    """Return what to print instead of letters that an encoding lacks, and where to go on."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_SIMILAR)
    return "".join(c if c.isascii() else "?" for c in text), error.end


def stderr_console() -> Console:
    """Return rich's console for progress and messages."""
    from rich.console import Console

    return Console(stderr=True)


def stdout_console() -> Console:
    """Return rich's console for data. It is 140 columns wide where stdout is no terminal."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 140)


def color() -> bool | None:
    """Return whether `typer.secho` colours its text: False under NO_COLOR, else None (on terminals alone)."""
    return False if os.environ.get("NO_COLOR") else None


def print_json(value: Any) -> None:
    """Print data as JSON on stdout."""
    typer.echo(json.dumps(value, indent=1, allow_nan=False))


def in_one_line(text: str) -> str:
    """Return a text without line breaks, in which letters that would steer the terminal are written out."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in " ".join(text.split()))


def say(line: str) -> None:
    """Print a line on stderr: a message for people, no data."""
    typer.echo(line, err=True)


@contextlib.contextmanager
def stdout_to_stderr() -> Iterator[None]:
    """Send to stderr what stages and libraries print on stdout, for the length of a block: stdout is for our data.

    The file descriptor itself is redirected, because libraries in C and child processes write there.
    """
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(saved, 1)
        os.close(saved)


@contextlib.contextmanager
def progress_bar(
    quiet: bool, counter: Callable[[], ProgressColumn], what: str = ""
) -> Iterator[Callable[[float, float, str], None]]:
    """Show a bar with an ETA on stderr if that is a terminal.

    Args:
        quiet: show nothing.
        counter: makes the column that says how much is done.
        what: the text before the bar until a call gives another.

    Yields:
        A function to call with the amount that is done, the total, and the text before the bar.
    """
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    console = stderr_console()
    columns = (TextColumn("{task.description}"), BarColumn(), counter(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total, text: bar.update(task, completed=done, total=total, description=text)


@contextlib.contextmanager
def interruptible(command: str, goes_on_alone: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """End with one line that says how to go on, and exit code 130, on Ctrl-C, SIGTERM or SIGHUP.

    After that, further signals are ignored, since nothing is left but to end the process.

    Args:
        command: what to type to go on.
        goes_on_alone: whether the computations continue without this command, as SLURM's jobs do; asked at the stop.
    """
    import signal

    from bench.run.signals import Wish

    Wish.asked, since = False, -_TWICE_S

    def stop(signum: int, frame: object) -> None:
        # A second signal often follows at once: Ctrl-C twice, or a terminal and a wrapper that both send it. It must
        # not break the orderly stop. A later one may: what takes that long is the wait for W&B.
        nonlocal since
        Wish.asked = True
        if time.monotonic() - since >= _TWICE_S:
            since = time.monotonic()
            raise KeyboardInterrupt

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        for number, handler in before.items():
            if handler is not signal.SIG_IGN:  # `nohup` has SIGHUP ignored, and that must stay so
                signal.signal(number, stop)
        yield
        Wish.obey()
    except KeyboardInterrupt:
        for number in before:  # until the process has ended, or its end would be a traceback
            signal.signal(number, signal.SIG_IGN)
        before = {}
        kept = "finished stages and checkpoints are kept. Go on"
        state = "the SLURM jobs go on without this command. Watch them again" if goes_on_alone() else kept
        say(f"stopped; {state} with: {command} (same options)")
        raise typer.Exit(130) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
