"""What the store says: the state of cells, the stages of one and why each would run, the list of what is finished."""

from __future__ import annotations

import functools
import shutil
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bench.matrix.cell import Cell, own_stages
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage, unfinished, walk
from bench.run.progress import span
from bench.store.store import State, Store

if TYPE_CHECKING:
    from bench.run.slurm.queue import Queue

_SHOWN = 3  # stages named in a cell's note


class StateCache:
    """What the store says of stages, asked once for each: many cells share them."""

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
        """Key → SLURM job of what was submitted; of a stage that is neither done nor running it has not begun."""
        from bench.store.submissions import Ledger

        return Ledger(self.store).jobs()

    @functools.cached_property
    def queue(self) -> Queue | None:
        """What SLURM says of our jobs, if any were submitted and it is at hand: how one waits, or that it is gone."""
        if not self.jobs or shutil.which("squeue") is None:
            return None
        from bench.run.slurm.queue import ask_queue

        return ask_queue(timeout_s=5.0)

    def about(self, stage: Stage) -> dict[str, Any]:
        """Return where a stage is: name, key, state, and what is known beside it.

        A running one has `host`, `pid`, `job`, `since`, `share` (0 to 1) and `eta_s` (seconds left, about), a failed
        one `error`, `attempt` and `sticky`, one that was handed to SLURM and has not begun `job` and `queue` (its
        state there, where SLURM can be asked), one whose job left the queue without a result `ended_job`.
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
    """Return the share that is done and about how many seconds are left, None where nobody knows."""
    if not told or not told.get("total"):
        return {"share": None, "eta_s": None}
    share = min(max(told["done"] / told["total"], 0.0), 1.0)
    passed = time.time() - datetime.fromisoformat(since).timestamp() if since else 0.0
    return {"share": share, "eta_s": passed * (1 - share) / share if share > 0 and passed > 0 else None}


def status_rows(matrix: Matrix, store: Store) -> list[dict[str, Any]]:
    """Return one row a cell: name, state, stages done of all, and what of it is running, failed or waited for.

    `running`, `failed`, `waits_for` and `ready` list stages (see `StateCache.about`); `note` says the same in words.
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
    """Tell whether somebody else brings it on: a shared stage that is computed now, or a job in SLURM's queue."""
    return found["state"] == "submitted" or (found["state"] == "running" and not own)


def _note(row: dict[str, Any]) -> str:
    """Return what to know of a cell's state, in a line."""
    if row["failed"]:
        return " ".join(str(row["failed"][0]["error"]).split())
    if row["running"]:
        return _some(f"{r['stage']} {where_it_runs(r)}" for r in row["running"])
    if row["waits_for"]:
        return "waits for " + _some(f"{r['stage']} {r['key'][:8]} ({where_it_runs(r)})" for r in row["waits_for"])
    return f"ready: {_some(r['stage'] for r in row['ready'])}" if row["ready"] else ""


def _some(texts: Any) -> str:
    found = list(texts)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def where_it_runs(row: dict[str, Any]) -> str:
    """Return where a stage is in words: `running on h, pid 12, job 3_4, 40 %, about 2 min 5 s left`."""
    if row["state"] == "submitted":
        return f"submitted as job {row['job']}" + (f", {row['queue']}" if row["queue"] else "")
    job = f", job {row['job']}" if row["job"] else ""
    place = f" on {row['host']}, pid {row['pid']}{job}" if row["host"] else ""
    share = f", {100 * row['share']:.0f} %" if row["share"] is not None else ""
    left = f", about {span(row['eta_s'])} left" if row["eta_s"] else ""
    return f"running{place}{share}{left}"


def ls_rows(store: Store) -> list[dict[str, Any]]:
    """Return one row a finished stage: stage, key, bytes, seconds, finished, host."""
    names = ("stage", "key", "bytes", "seconds", "finished", "host")
    return [{name: found.get(name) for name in names} for found in store.manifests()]
