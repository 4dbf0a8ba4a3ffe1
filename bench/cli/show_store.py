"""What the command line prints of a store: sizes, damage, what clean-up removes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.store.cleanup import summary
from bench.store.inventory import Entry
from bench.store.verify import Verified


def print_sizes(rows: list[dict[str, Any]], console: Console) -> None:
    """Print the rows of `bench.store.inventory.size_rows` and their total."""
    table = Table("what", "count", "MiB", "largest MiB", "largest", box=None)
    for r in rows:
        what = r["stage"] or r["what"]
        table.add_row(what, str(r["count"]), _mib(r["bytes"]), _mib(r["largest_bytes"]), r["largest_key"][:8])
    console.print(table)
    n = sum(r["count"] for r in rows if r["what"] == "result")
    console.print(f"{n} stages, {_mib(sum(r['bytes'] for r in rows))} MiB in all")


def print_damage(found: Verified, console: Console) -> None:
    """Print what `bench.store.verify.verify` found."""
    if found.damage:
        table = Table("stage", "key", "file", "problem", box=None)
        for d in found.damage:
            table.add_row(d.stage, d.key[:8], escape(d.file), f"{d.problem}: {escape(d.detail)}")
        console.print(table)
    wrong = {"damaged": found.damaged(), "may not be read": found.unreadable()}
    verdict = ", ".join(f"{len(results)} {what}" for what, results in wrong.items() if results) or "all whole"
    console.print(f"{found.stages} stages, {found.files} files, {_mib(found.bytes)} MiB read: {verdict}")


def print_unwanted(entries: Sequence[Entry], removed: bool, console: Console) -> None:
    """Print, by kind of stage, what clean-up removed or would remove."""
    table = Table("what", "stage", "count", "MiB", box=None)
    for r in summary(entries):
        table.add_row(r["what"], r["stage"], str(r["count"]), _mib(r["bytes"]))
    if entries:
        console.print(table)
    size = f"{len(entries)} items, {_mib(sum(e.bytes for e in entries))} MiB"
    console.print(f"removed {size}" if removed else f"would remove {size}; nothing was removed: --yes removes them")


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f}"
