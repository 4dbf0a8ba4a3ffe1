"""What the store says: the state of cells, the stages of one and why each would run, the list of what is finished."""

from __future__ import annotations

import functools
import shutil
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

from bench.errors import listed
from bench.matrix.load import Cell, Matrix
from bench.pipeline.stage import Stage, walk
from bench.results.cells import own_stages, unfinished
from bench.run.progress import span
from bench.store.store import State, Store

if TYPE_CHECKING:
    from bench.run.slurm.queue import Queue

_SHOWN = 3  # stages named in a cell's note


class _Seen:
    """What the store says of stages, asked once for each: many cells share them."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.states: dict[str, State] = {}

    def has(self, stage: Stage) -> bool:
        return self.state(stage) == "done"

    def state(self, stage: Stage) -> State:
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

    `running`, `failed`, `waits_for` and `ready` list stages (see `_Seen.about`); `note` says the same in words.
    """
    seen = _Seen(store)
    return [_status_row(cell, seen) for cell in matrix.cells]


def _status_row(cell: Cell, seen: _Seen) -> dict[str, Any]:
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
        return _some(f"{r['stage']} {_where(r)}" for r in row["running"])
    if row["waits_for"]:
        return "waits for " + _some(f"{r['stage']} {r['key'][:8]} ({_where(r)})" for r in row["waits_for"])
    return f"ready: {_some(r['stage'] for r in row['ready'])}" if row["ready"] else ""


def _some(texts: Any) -> str:
    found = list(texts)
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _where(row: dict[str, Any]) -> str:
    """Return where a stage is in words: `running on h, pid 12, job 3_4, 40 %, about 2 min 5 s left`."""
    if row["state"] == "submitted":
        return f"submitted as job {row['job']}" + (f", {row['queue']}" if row["queue"] else "")
    job = f", job {row['job']}" if row["job"] else ""
    place = f" on {row['host']}, pid {row['pid']}{job}" if row["host"] else ""
    share = f", {100 * row['share']:.0f} %" if row["share"] is not None else ""
    left = f", about {span(row['eta_s'])} left" if row["eta_s"] else ""
    return f"running{place}{share}{left}"


def explain_rows(cell: Cell, store: Store) -> list[dict[str, Any]]:
    """Return one row a stage of the cell, inputs first: key, state, what would happen, and why.

    A stage that failed has its `traceback` too, as the store keeps it.
    """
    seen, nearest_of = _Seen(store), _Finished(store)
    rows = []
    for stage in walk(cell.targets):
        found = seen.about(stage)
        row = {"stage": found["stage"], "key": found["key"], "state": seen.state(stage)}
        if found["state"] == "done":
            made = store.manifest(stage)
            row |= {"action": "reuse", "why": f"finished {made['finished']} in {made['seconds']:.1f} s"}
        elif found["state"] in ("running", "submitted"):
            row |= {"action": "wait", "why": _where(found)}
        elif found["state"] == "failed":
            row |= _why_failed(found) | {"traceback": (store.failure(stage) or {}).get("traceback")}
        else:
            ended = f"its SLURM job {found['ended_job']} ended without a result; " if "ended_job" in found else ""
            row |= {"action": "run", "why": ended + nearest_of.difference(stage)}
        rows.append(row)
    return rows


def _why_failed(found: dict[str, Any]) -> dict[str, Any]:
    if found["sticky"] is False:
        return {"action": "run", "why": f"failed last time: {found['error']} (the next run tries again)"}
    return {"action": "stop", "why": f"{found['error']} (--retry-failed tries again)"}


class _Finished:
    """The finished stages of a store, by their kind: read once, and only if something is asked of them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @functools.cached_property
    def identities(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for manifest in self.store.manifests():
            found.setdefault(manifest["stage"], []).append(manifest.get("identity"))
        return found

    def difference(self, stage: Stage) -> str:
        """Say in what the nearest finished stage of the same kind differs."""
        candidates = self.identities.get(stage.stage_name())
        if not candidates:
            return "never computed here"
        differences = min((differing(identity, stage.identity) for identity in candidates), key=len)
        return f"nearest finished one differs in {_some_of(differences)}"


def _some_of(differences: list[str]) -> str:
    return "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")


def differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Return where two identities differ, `classifier.steps: 100 → 200`; inputs by name, code by its modules."""
    if isinstance(old, dict) and isinstance(new, dict):
        if path == "code":
            modules = (name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
            return [f"its code ({listed(modules)})"] if old != new else []
        if "stage" in old and "stage" in new and "key" in new:
            return [] if old == new else [f"{path} (input {new['stage']})"]
        found = []
        for name in sorted(old.keys() | new.keys()):
            at = f"{path}.{name}" if path else name
            found += differing(old.get(name), new.get(name), at)
        return found
    if old == new:
        return []
    return ["its code"] if path == "code" else [f"{path}: {old} → {new}"]


def ls_rows(store: Store) -> list[dict[str, Any]]:
    """Return one row a finished stage: stage, key, bytes, seconds, finished, host."""
    names = ("stage", "key", "bytes", "seconds", "finished", "host")
    return [{name: found.get(name) for name in names} for found in store.manifests()]
