"""Find the logs of a cell's stages, and stop stages that are being computed. Both ask the store."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, StageError, listed, nearest
from bench.matrix.cell import Cell
from bench.pipeline.stage import Stage, walk
from bench.run.log import log_path
from bench.run.slurm.queue import ask_queue, cancel
from bench.store.leases import pid_here
from bench.store.store import Store
from bench.store.submissions import Ledger


def logs_of(cell: Cell, store: Store, name: str | None = None, every: bool = False) -> list[tuple[Path, str]]:
    """Return the logs of the failed stages, else of the running ones, else the newest log, each with its stage's state.

    The output of a SLURM job is among them if the job ended before the stage could begin.

    Args:
        cell: the cell.
        store: the store that holds the logs.
        name: return the logs of stages of this name only.
        every: return the logs of all stages of the cell.

    Raises:
        ConfigError: if the cell has no such stage, or nothing has been logged.
    """
    stages = walk(cell.targets)
    if name is not None:
        names = {s.stage_name() for s in stages}
        if name not in names:
            hint = f"{nearest(name, names)} (have: {listed(names)})"
            raise ConfigError(f"--stage {name}: the cell has no such stage{hint}")
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


def cancel_stages(targets: Iterable[Stage], store: Store, others: Iterable[Stage] = ()) -> dict[str, Any]:
    """Stop the computation of unfinished stages below `targets`, except of those that are below `others` too.

    Commands on this machine that compute them get SIGTERM and end their children. SLURM jobs are cancelled, waiting
    ones too, and each gets a failure record, so that a command that watches them knows why. If another matrix wants
    the same stages, it loses them as well.

    Returns:
        `jobs` (ids), `processes` (pids) and `left` (one line for each computation that cannot be reached from here).

    Raises:
        ConfigError: if there are SLURM jobs and SLURM's commands do not answer.
    """
    # A command on this machine computes many stages and cannot be told to leave some out. So if `others` must go on, no
    # command is stopped at all: killing it would stop the stages of `others` too.
    kept = {s.key for s in walk(list(others)) if not store.has(s)}
    stages = [s for s in walk(list(targets)) if not store.has(s) and s.key not in kept]
    holders = {s.key: h for s in stages if (h := store.holder(s)) is not None}
    local = {key: h for key, h in holders.items() if not h.get("job")}
    stopped = set() if kept else _stop_here({s.key for s in stages}, local, store)
    left = [
        f"{s.stage_name()} {s.key[:8]} runs on {local[s.key]['host']}, pid {local[s.key]['pid']}"
        + (", in a command that also computes other cells: cancel the whole matrix" if kept else "")
        for s in stages
        if s.key in local and (kept or pid_here(local[s.key].get("process")) is None)
    ]
    wanted = {s.key for s in stages}
    noted = {k: j for k, j in Ledger(store).jobs().items() if k in wanted}
    noted |= {k: h["job"] for k, h in holders.items() if h.get("job")}  # the holder knows better than the ledger
    return {"jobs": _cancel_jobs(noted, stages, store), "processes": sorted(stopped), "left": left}


def _stop_here(wanted: set[str], local: dict[str, dict[str, Any]], store: Store) -> set[int]:
    """Send SIGTERM to the commands here that want some stages, or to their orphaned children if no command lives."""
    held = list(store.locks.held())
    drivers = [h for h in held if "key" not in h and wanted & set(h.get("uses", ()))]
    pids = {pid_here(h.get("process")) for h in drivers} or {pid_here(h.get("process")) for h in local.values()}
    stopped = {pid for pid in pids if pid}
    for pid in stopped:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    return stopped


def _cancel_jobs(noted: dict[str, str], stages: list[Stage], store: Store) -> list[str]:
    if not noted:
        return []

    queue = ask_queue()
    live = {job for job in noted.values() if queue is None or job in queue.live}
    for stage in stages:
        if noted.get(stage.key) in live:
            told = StageError(f"its SLURM job {noted[stage.key]} was cancelled")
            store.record_failure(stage, told, sticky=False)
    if live:
        cancel(live)
    return sorted(live)
