"""The state of cells and stages, as the store and SLURM's queue know it."""

from __future__ import annotations

import functools
import shutil
import time
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from bench.matrix.cell import Cell, own_stages
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage, unfinished, walk
from bench.run.progress import span
from bench.run.slurm.queue import Queue, ask_queue
from bench.store.store import State, Store
from bench.store.submissions import Ledger

_SHOWN = 3  # stages named in a cell's note


class StateCache:
    """The states of stages. The store is asked once for each stage, since many cells share it."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.states: dict[str, State] = {}

    def has(self, stage: Stage) -> bool:
        """Tell whether a stage is finished."""
        return self.state(stage) == "done"

    def state(self, stage: Stage) -> State:
        """Return the state of a stage, looked up in the store once."""
        if stage.key not in self.states:
            self.states[stage.key] = self.store.state(stage)
        return self.states[stage.key]

    @functools.cached_property
    def jobs(self) -> dict[str, str]:
        """Key → SLURM job of each submitted stage. If a stage is neither done nor running, its job has not started."""
        return Ledger(self.store).jobs()

    @functools.cached_property
    def queue(self) -> Queue | None:
        """SLURM's queue, or None if no job was submitted or SLURM does not answer here."""
        if not self.jobs or shutil.which("squeue") is None:
            return None

        return ask_queue(timeout_s=5.0)

    def about(self, stage: Stage) -> dict[str, Any]:
        """Return the `stage`, `key` and `state` of a stage, and more for some states.

        - running: `host`, `pid`, `job`, `since`, `share` done (0 to 1) and `eta_s` (about how many seconds are left);
        - failed: `error`, `attempt` and `sticky`;
        - submitted (SLURM has the job, and it has not begun): `job` and `queue`, its state in the queue or None;
        - missing, if a job left the queue without a result: `ended_job`.
        """
        state = self.state(stage)
        row: dict[str, Any] = {"stage": stage.stage_name(), "key": stage.key, "state": state}
        if state == "running":
            holder = self.store.holder(stage) or {}
            row |= {name: holder.get(name) for name in ("host", "pid", "job", "since")}
            row |= _how_far(self.store.progress(stage), holder.get("since"))
        elif state == "failed":
            failure = self.store.failure(stage) or {}
            row |= {name: failure.get(name) for name in ("error", "attempt", "sticky")}
        elif state == "missing" and stage.key in self.jobs:
            job = self.jobs[stage.key]
            if self.queue is None or job in self.queue.live:
                row |= {"state": "submitted", "job": job, "queue": self.queue.live[job] if self.queue else None}
            else:
                row |= {"ended_job": job}
        return row


def _how_far(told: dict[str, Any] | None, since: str | None) -> dict[str, Any]:
    """Return the share that is done, 0 to 1, and about how many seconds are left; None if that is unknown."""
    if not told or not told.get("total"):
        return {"share": None, "eta_s": None}
    share = min(max(told["done"] / told["total"], 0.0), 1.0)
    passed = time.time() - datetime.fromisoformat(since).timestamp() if since else 0.0
    return {"share": share, "eta_s": passed * (1 - share) / share if share > 0 and passed > 0 else None}


def status_rows(matrix: Matrix, store: Store) -> list[dict[str, Any]]:
    """Return one row for each cell: its name, state, number of stages done and in all, and the stages that matter now.

    `running`, `failed` and `waits_for` list stages as `StateCache.about` describes them, `ready` the stages that could
    begin; `note` says the same in words.
    """
    seen = StateCache(store)
    return [_status_row(cell, seen) for cell in matrix.cells]


def _status_row(cell: Cell, seen: StateCache) -> dict[str, Any]:
    stages, own = walk(cell.targets), {s.key for s in own_stages(cell)}
    todo = unfinished(cell.targets, seen)
    keys = {s.key for s in todo}
    next_ones = [s for s in todo if not keys & {b.key for b in s.inputs()}]
    row: dict[str, Any] = {
        "cell": cell.name,
        "state": "missing" if todo else "done",
        "done": sum(seen.has(s) for s in stages),
        "stages": len(stages),
        "running": [seen.about(s) for s in todo if s.key in own and seen.state(s) == "running"],
        "failed": [seen.about(s) for s in todo if seen.state(s) == "failed"],
        "waits_for": [found for s in next_ones if _is_waited_for(found := seen.about(s), s.key in own)],
        "ready": [{"stage": s.stage_name(), "key": s.key} for s in next_ones if seen.about(s)["state"] == "missing"],
    }
    row["state"] = "failed" if row["failed"] else "running" if row["running"] else row["state"]
    return row | {"note": _note(row)}


def _is_waited_for(found: dict[str, Any], own: bool) -> bool:
    """Tell whether the cell waits for a stage: one that is computed for many cells now, or a job in SLURM's queue."""
    return found["state"] == "submitted" or (found["state"] == "running" and not own)


def _note(row: dict[str, Any]) -> str:
    """Return a cell's state in one line."""
    if row["failed"]:
        return " ".join(str(row["failed"][0]["error"]).split())
    if row["running"]:
        return _some(f"{r['stage']} {where_it_runs(r)}" for r in row["running"])
    if row["waits_for"]:
        return "waits for " + _some(f"{r['stage']} {r['key'][:8]} ({where_it_runs(r)})" for r in row["waits_for"])
    return f"ready: {_some(r['stage'] for r in row['ready'])}" if row["ready"] else ""


def _some(texts: Iterable[str]) -> str:
    found = list(texts)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def where_it_runs(row: dict[str, Any]) -> str:
    """Return in words where a stage is computed: `running on h, pid 12, job 3_4, 40 %, about 2 min 5 s left`."""
    if row["state"] == "submitted":
        return f"submitted as job {row['job']}" + (f", {row['queue']}" if row["queue"] else "")
    job = f", job {row['job']}" if row["job"] else ""
    place = f" on {row['host']}, pid {row['pid']}{job}" if row["host"] else ""
    share = f", {100 * row['share']:.0f} %" if row["share"] is not None else ""
    left = f", about {span(row['eta_s'])} left" if row["eta_s"] else ""
    return f"running{place}{share}{left}"


def ls_rows(store: Store) -> list[dict[str, Any]]:
    """Return one row for each finished stage: stage, key, bytes, seconds, finished, host."""
    names = ("stage", "key", "bytes", "seconds", "finished", "host")
    return [{name: found.get(name) for name in names} for found in store.manifests()]
