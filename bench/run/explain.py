"""Why each stage of a cell would be computed or reused."""

from __future__ import annotations

import functools
from typing import Any

from bench.errors import listed
from bench.matrix.cell import Cell
from bench.pipeline.stage import Stage, walk
from bench.run.status import StateCache, where_it_runs
from bench.store.store import Store


def explain_rows(cell: Cell, store: Store) -> list[dict[str, Any]]:
    """Return one row for each stage of the cell, inputs first: key, state, what a run would do, and why.

    The row of a failed stage also has the `traceback` that the store kept.
    """
    seen, nearest_of = StateCache(store), _FinishedIdentities(store)
    rows = []
    for stage in walk(cell.targets):
        found = seen.about(stage)
        row = {"stage": found["stage"], "key": found["key"], "state": seen.state(stage)}
        if found["state"] == "done":
            made = store.manifest(stage)
            row |= {"action": "reuse", "why": f"finished {made['finished']} in {made['seconds']:.1f} s"}
        elif found["state"] in ("running", "submitted"):
            row |= {"action": "wait", "why": where_it_runs(found)}
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


class _FinishedIdentities:
    """The identities of all finished stages by kind. They are read once, when they are first needed."""

    def __init__(self, store: Store) -> None:
        self.store = store

    @functools.cached_property
    def identities(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for manifest in self.store.manifests():
            found.setdefault(manifest["stage"], []).append(manifest.get("identity"))
        return found

    def difference(self, stage: Stage) -> str:
        """Return in words how the most similar finished stage of the same kind differs from `stage`."""
        candidates = self.identities.get(stage.stage_name())
        if not candidates:
            return "never computed here"
        differences = min((differing(identity, stage.identity) for identity in candidates), key=len)
        return f"nearest finished one differs in {_some_of(differences)}"


def _some_of(differences: list[str]) -> str:
    return "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")


def differing(old: object, new: object, path: str = "") -> list[str]:
    """Return the differences of two identities: `classifier.steps: 100 → 200`, names of inputs, names of modules."""
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
