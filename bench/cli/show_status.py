"""What the command line prints of stages: the state of cells, the stages of one cell, the list of finished stages."""

from __future__ import annotations

from collections import Counter
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.cli.options import Request
from bench.matrix.cell import Cell

_STATES = {"done": "green", "running": "cyan", "failed": "red", "missing": "dim"}
_ACTIONS = {"reuse": "green", "run": "yellow", "wait": "cyan", "stop": "red"}


def print_status(rows: list[dict[str, Any]], request: Request, console: Console) -> None:
    """Print the rows of `bench.run.status.status_rows`, their totals, and what to do about cells that failed."""
    table = Table("cell", "state", "stages", "note", box=None)
    for r in rows:
        # as `Text`: square brackets in a name or an error are no markup
        state = Text(r["state"], style=_STATES[r["state"]])
        table.add_row(Text(r["cell"]), state, f"{r['done']}/{r['stages']}", Text(r["note"]))
    console.print(table)
    totals = Counter(r["state"] for r in rows)
    counted = ", ".join(f"{totals[state]} {state}" for state in _STATES if totals[state])
    lines = [f"{len(rows)} cells: {counted}"]
    if failed := [r["cell"] for r in rows if r["state"] == "failed"]:
        lines += [
            f"why it failed: {request.command('explain', failed[0])}",
            f"try again: {request.command('run', '--retry-failed')}",
        ]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def print_explain(cell: Cell, rows: list[dict[str, Any]], console: Console) -> None:
    """Print the rows of `bench.run.explain.explain_rows`, and the traceback of each stage that failed."""
    console.print(f"{cell.name}  (key {cell.key})", markup=False, highlight=False)
    table = Table("stage", "key", "action", "why", box=None)
    for r in rows:
        action = Text(r["action"], style=_ACTIONS[r["action"]])
        table.add_row(r["stage"], r["key"][:8], action, Text(" ".join(r["why"].split())))
    console.print(table)
    for r in rows:
        if r.get("traceback"):
            text = f"\n{r['stage']} {r['key'][:8]} failed:\n{r['traceback'].rstrip()}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def print_ls(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the rows of `bench.run.status.ls_rows` and their total size."""
    table = Table("stage", "key", "MiB", "seconds", "finished", box=None)
    for r in rows:
        table.add_row(r["stage"], r["key"][:8], f"{r['bytes'] / 2**20:.1f}", f"{r['seconds']:.1f}", r["finished"])
    console.print(table)
    console.print(f"{len(rows)} stages, {sum(r['bytes'] for r in rows) / 2**20:.1f} MiB")
