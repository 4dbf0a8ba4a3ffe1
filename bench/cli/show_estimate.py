"""Printing what a run would compute and take (`bench run --dry-run`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from bench.cli.options import Request
from bench.cli.show_data import held_out_lines
from bench.errors import listed
from bench.run.progress import span


def print_estimate(found: dict[str, Any], request: Request, console: Console) -> None:
    """Print what `bench.estimate.estimate.estimate` returned."""

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"{found['matrix']}: {found['cells']} cells; nothing is computed or written")
    for missing in found["missing"]:
        say(f"MISSING {missing['what']}: {missing['said']}", "red")
    if not found["missing"] and found["inputs"]:
        say(f"data and weights: {found['inputs']} checked, nothing is missing")
    for dataset, pairs in found["held_out_pairs"].items():
        unread = [f"held out: counted once the data set is read; to read it: {request.command('describe')}"]
        for line in held_out_lines(pairs) if pairs else unread:
            say(f"{dataset}: {line}")
    console.print(_table(found))
    for line, style in _summary(found, request):
        say(line, style)


def _table(found: dict[str, Any]) -> Table:
    table = Table("stage", box=None)
    for name in ("to compute", "reused", "time", "disk", "measured on"):
        table.add_column(name, justify="right")
    for row in [*found["stages"], {"stage": "total", **found["total"], "n_measured": 0}]:
        time, disk = ("", "") if not row["compute"] else (_known(row, "seconds", hours), _known(row, "bytes", decimal))
        basis = f"{row['n_measured']}, size ×{row['ratio']:.3g}" if row["n_measured"] else ""
        style = "bold" if row["stage"] == "total" else None
        table.add_row(row["stage"], str(row["compute"]), str(row["reused"]), time, disk, basis, style=style)
    return table


def _known(row: dict[str, Any], name: str, shown: Any) -> str:
    """Return a sum as text, `?` where nothing is known of it, with a `+` where something of it is not."""
    if row[name] is None or row["unknown"] == row["compute"]:
        return "?"
    return shown(row[name]) + ("+" if row["unknown"] else "")


def _summary(found: dict[str, Any], request: Request) -> Iterator[tuple[str, str | None]]:
    """Yield the lines below the table, each with its style: times, disk, what is not known, what to do next."""
    total, free = found["total"], found["disk_free_bytes"]
    if total["compute"] > total["unknown"]:
        yield f"time: {hours(total['seconds'])} of computation, measured on {found['device']}", None
        yield f"      {found['jobs']} at once: {hours(total['wall_seconds'])} or more", None
    left = f", {decimal(free)} are free" if free is not None else ""
    known = decimal(total["bytes"]) if total["compute"] > total["unknown"] or not total["compute"] else "not known"
    yield f"disk: {known}{' more' if known != 'not known' else ''}{left}", None
    if free is not None and total["bytes"] > free:
        yield "the disk is too small; choose another with --store", "red"
    if n := total["stopped"]:
        yield f"{n} stage{'s'[: n != 1]} failed before, or need one that did; try them again with --retry-failed", "red"
        yield from ((f"  {why}", "red") for why in found["failed"])
    unknown = [row["stage"] for row in found["stages"] if row["unknown"]]
    if unknown:
        same = "never measured with this network, image side and a known size"
        yield f"{same}, so not in these figures: {listed(unknown, 6)}", "yellow"
        yield f"to measure them on a small sample: {request.command('run', '--pilot')}", None


def hours(seconds: float) -> str:
    """Return a length of time for a table: `41 s`, `12 min`, `2.4 h`, `1,210.0 h`."""
    if seconds < 600:
        return span(seconds)
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
