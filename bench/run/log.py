"""The log of a stage: a line when a computation begins, all that it prints, and a line when it ends.

Logs are only appended to, so that the output of an attempt that was killed stays.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import time
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from bench.errors import StageBusy
from bench.pipeline.stage import Stage
from bench.store.store import Store
from bench.store.work import Execution


def log_path(store: Store, stage: Stage) -> Path:
    """Return the path of a stage's log, whether or not it exists."""
    return store.root / "logs" / stage.stage_name() / f"{stage.key}.log"


def compute_logged(
    store: Store, stage: Stage, execution: Execution, *, job: str | None = None, redirect: bool = True, **options: float
) -> bool:
    """Compute a stage as `Store.compute` does, keep a log, and return whether it was computed. Exceptions pass through.

    Args:
        store: where the result goes.
        stage: the stage.
        execution: the device and the number of threads.
        job: the scheduler's id of this job, for the first line.
        redirect: send stdout and stderr of this process and of its children into the log.
        options: further arguments of `Store.compute`.
    """
    with _opened(log_path(store, stage)) as log:
        where = f"{socket.gethostname()} pid {os.getpid()}" + (f" job {job}" if job else "")
        _line(log, f"begins on {where}, device {execution.device}, threads {execution.threads}")
        started = time.monotonic()
        with _into(log) if redirect else contextlib.nullcontext():
            try:
                computed = store.compute(stage, execution, **options)
            except StageBusy as busy:
                _line(log, f"left: {busy}")
                raise
            except BaseException as error:
                text = "".join(traceback.format_exception(error))
                _line(log, f"failed after {time.monotonic() - started:.1f} s\n{text}")
                raise
        _line(log, f"computed in {time.monotonic() - started:.1f} s" if computed else "was there already")
    return computed


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a log for appending. If the disk refuses, the log is lost, but the computation goes on."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    except OSError:
        handle = os.open(os.devnull, os.O_WRONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _line(log: int, text: str) -> None:
    with contextlib.suppress(OSError):
        os.write(log, f"--- {datetime.now(UTC).isoformat(timespec='seconds')} {text}\n".encode())


@contextlib.contextmanager
def _into(log: int) -> Iterator[None]:
    """Send this process's stdout and stderr into an open file for the length of a block."""
    sys.stdout.flush()
    sys.stderr.flush()
    saved = [os.dup(fd) for fd in (1, 2)]
    for fd in (1, 2):
        os.dup2(log, fd)
    try:
        yield
    finally:
        with contextlib.suppress(OSError, ValueError):  # a full disk, a closed stream
            sys.stdout.flush()
            sys.stderr.flush()
        for fd, before in zip((1, 2), saved, strict=True):
            os.dup2(before, fd)
            os.close(before)
