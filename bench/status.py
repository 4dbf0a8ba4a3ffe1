"""What the store says: the state of cells, the stages of one and why each would run, the list of what is finished."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from bench.matrix import Cell, Matrix
from bench.results import cell_state
from bench.stage import Stage, walk
from bench.store import Store

_COLOURS = {"done": "green", "running": "cyan", "failed": "red", "missing": "dim"}


def status_rows(matrix: Matrix, store: Store) -> list[dict[str, Any]]:
    """Return one row a cell: name, state, stages done of all, what is running or why it failed."""
    rows = []
    for cell in matrix.cells:
        state, failure = cell_state(cell, store)
        stages = walk(cell.targets)
        done = sum(store.has(s) for s in stages)
        note = " ".join(failure["error"].split()) if failure else ""
        if state == "running":
            note = ", ".join(_running_note(s, store) for s in stages if store.state(s) == "running")
        rows.append({"cell": cell.name, "state": state, "done": done, "stages": len(stages), "note": note})
    return rows


def _running_note(stage: Stage, store: Store) -> str:
    told = store.progress(stage)
    share = f" {100 * told['done'] / told['total']:.0f}%" if told and told["total"] else ""
    return f"{stage.stage_name()}{share}"


def print_status(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the rows of `status_rows` and a line of totals."""
    table = Table("cell", "state", "stages", "note", box=None)
    for r in rows:
        colour = _COLOURS[r["state"]]
        table.add_row(
            r["cell"], f"[{colour}]{r['state']}[/]", f"{r['done']}/{r['stages']}", r["note"].replace("[", "\\[")
        )
    console.print(table)
    totals = {state: sum(r["state"] == state for r in rows) for state in _COLOURS}
    console.print(", ".join(f"{n} {state}" for state, n in totals.items() if n))


def explain_rows(cell: Cell, store: Store) -> list[dict[str, Any]]:
    """Return one row a stage of the cell, inputs first: key, state, what would happen, and why."""
    rows = []
    for stage in walk(cell.targets):
        state = store.state(stage)
        row = {"stage": stage.stage_name(), "key": stage.key, "state": state}
        if state == "done":
            found = store.manifest(stage)
            row |= {"action": "reuse", "why": f"finished {found['finished']} in {found['seconds']:.1f} s"}
        elif state == "running":
            row |= {"action": "wait", "why": "a living process computes it"}
        elif state == "failed":
            row |= {
                "action": "stop",
                "why": f"{(store.failure(stage) or {}).get('error')} (--retry-failed tries again)",
            }
        else:
            row |= {"action": "run", "why": _why_missing(stage, store)}
        rows.append(row)
    return rows


def _why_missing(stage: Stage, store: Store) -> str:
    """Say in what the nearest finished stage of the same kind differs."""
    candidates = [m for m in store.manifests() if m["stage"] == stage.stage_name()]
    if not candidates:
        return "never computed here"
    differences = min((list(differing(m["identity"], stage.identity)) for m in candidates), key=len)
    shown = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
    return f"nearest finished one differs in {shown}"


def differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Return where two identities differ, `classifier.steps: 100 → 200`; code and inputs by name."""
    if isinstance(old, dict) and isinstance(new, dict):
        if "stage" in old and "stage" in new and "key" in new:
            return [] if old == new else [f"{path} (input {new['stage']})"]
        found = []
        for name in sorted(old.keys() | new.keys()):
            at = f"{path}.{name}" if path else name
            found += differing(old.get(name), new.get(name), at)
        return found
    if old == new:
        return []
    if path.rpartition(".")[2] == "code":
        return [f"{path.rpartition('.')[0] or 'its'} code"]
    return [f"{path}: {old} → {new}"]


def print_explain(cell: Cell, rows: list[dict[str, Any]], console: Console) -> None:
    """Print the rows of `explain_rows`."""
    console.print(f"{cell.name}  (key {cell.key})", markup=False, highlight=False)
    table = Table("stage", "key", "action", "why", box=None)
    for r in rows:
        colour = {"reuse": "green", "run": "yellow", "wait": "cyan", "stop": "red"}[r["action"]]
        table.add_row(r["stage"], r["key"][:8], f"[{colour}]{r['action']}[/]", r["why"].replace("[", "\\["))
    console.print(table)


def ls_rows(store: Store) -> list[dict[str, Any]]:
    """Return one row a finished stage: stage, key, bytes, seconds, finished, host."""
    names = ("stage", "key", "bytes", "seconds", "finished", "host")
    return [{name: found.get(name) for name in names} for found in store.manifests()]


def print_ls(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the rows of `ls_rows` and their total size."""
    table = Table("stage", "key", "MiB", "seconds", "finished", box=None)
    for r in rows:
        table.add_row(r["stage"], r["key"][:8], f"{r['bytes'] / 2**20:.1f}", f"{r['seconds']:.1f}", r["finished"])
    console.print(table)
    console.print(f"{len(rows)} stages, {sum(r['bytes'] for r in rows) / 2**20:.1f} MiB")
