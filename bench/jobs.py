"""What is computing now, found through the store: the logs of a cell's stages, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, listed, nearest
from bench.execute.ledger import Ledger
from bench.execute.log import log_path
from bench.matrix import Cell
from bench.stage import Stage, walk
from bench.store import Store


def logs_of(cell: Cell, store: Store, name: str | None = None, every: bool = False) -> list[tuple[Path, str]]:
    """Return the logs to look at, each with a word on why: the failed stage's, the running ones', else the last's.

    The output of a SLURM job that ended before the stage could begin is among them.

    Args:
        cell: whose stages.
        store: where they are.
        name: only stages of this name.
        every: those of all stages of the cell.

    Raises:
        ConfigError: if the cell has no such stage, or nothing has been logged.
    """
    stages = walk(cell.targets)
    if name is not None:
        names = {s.stage_name() for s in stages}
        if name not in names:
            raise ConfigError(f"--stage {name}: the cell has none{nearest(name, names)} (have: {listed(names)})")
        stages = [s for s in stages if s.stage_name() == name]
    states = {s.key: store.state(s) for s in stages}
    asked = every or name is not None
    chosen = [s for s in stages if asked or states[s.key] == "failed"]
    chosen = chosen or [s for s in stages if states[s.key] == "running"] or _last_logged(stages, store)
    jobs = Ledger(store).jobs()
    found = [(p, f"{s.stage_name()}, {states[s.key]}") for s in chosen for p in _files(s, store, jobs)]
    if not found:
        unfinished = [s for s in stages if states[s.key] == "missing" and s.key in jobs]
        queued = f"; submitted as SLURM job {jobs[unfinished[0].key]}" if unfinished else ""
        hint = "computations in the calling process (--jobs 1) print on the terminal"
        raise ConfigError(f"{cell.name}: nothing has been logged{queued}; {hint}")
    return found


def _files(stage: Stage, store: Store, jobs: dict[str, str]) -> list[Path]:
    paths = [log_path(store, stage)]
    if stage.key in jobs and not store.has(stage):
        paths += Ledger(store).output(jobs[stage.key])
    return [p for p in paths if p.is_file() and p.stat().st_size]


def _last_logged(stages: list[Stage], store: Store) -> list[Stage]:
    logged = [s for s in stages if log_path(store, s).is_file()]
    return [max(logged, key=lambda s: log_path(store, s).stat().st_mtime)] if logged else []


def cancel_stages(targets: Iterable[Stage], store: Store) -> dict[str, Any]:
    """Stop whatever computes unfinished stages below `targets`.

    SLURM jobs are cancelled, also those that wait. Processes on this machine get SIGTERM: the driver that started them
    first, so that it starts no more. A stage that another matrix wants too is stopped with them.

    Returns:
        `jobs` (ids), `processes` (pids) and `left` (a line for each that runs where we cannot reach it).
    """
    stages = [s for s in walk(list(targets)) if not store.has(s)]
    noted = Ledger(store).jobs()
    wanted = {noted[s.key] for s in stages if s.key in noted}
    cancelled: set[str] = set()
    if wanted:
        from bench.execute.queue import ask_queue, cancel

        queue = ask_queue()
        cancelled = wanted & queue.live.keys() if queue else wanted
        if cancelled:
            cancel(cancelled)
    stopped: set[int] = set()
    left = []
    for stage in stages:
        holder = store.holder(stage)
        if holder is None or holder.get("job") in cancelled:
            continue
        if holder["host"] != socket.gethostname():
            left.append(f"{stage.stage_name()} {stage.key[:8]} runs on {holder['host']}, pid {holder['pid']}")
            continue
        for pid in (holder.get("driver"), holder["pid"]):
            if pid and pid not in stopped:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
                    stopped.add(pid)
    return {"jobs": sorted(cancelled), "processes": sorted(stopped), "left": left}
