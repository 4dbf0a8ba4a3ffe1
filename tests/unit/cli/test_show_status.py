"""What is printed of stages: everything that the rows hold, square brackets included."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, cast

from rich.console import Console

from bench.cli.options import Request
from bench.cli.show_status import print_explain, print_ls, print_status
from bench.matrix.cell import Cell

REQUEST = Request("tiny.yaml", ["seeds=[0,1]"], Path("/runs"))


class FakeCell:
    """The two facts of a cell that are printed."""

    name = "phantom/smote/s0"
    key = "0123456789abcdef"


def rendered(printer: Any, *args: Any, width: int = 200) -> str:
    text = io.StringIO()
    printer(*args, Console(file=text, width=width))
    return text.getvalue()


def row(cell: str, state: str, note: str = "") -> dict[str, Any]:
    return {"cell": cell, "state": state, "done": 3, "stages": 8, "note": note}


def test_states_are_counted_and_failed_cells_have_their_commands() -> None:
    rows = [row("phantom/a/s0", "missing"), row("phantom/[b]/s0", "failed", "ValueError: no [bold]luck[/] at all")]
    *_, first, second, totals, why, again = rendered(print_status, rows, REQUEST).splitlines()
    assert first.split() == ["phantom/a/s0", "missing", "3/8"]
    assert second.split() == ["phantom/[b]/s0", "failed", "3/8", "ValueError:", "no", "[bold]luck[/]", "at", "all"]
    assert totals == "2 cells: 1 failed, 1 missing"
    options = "--set 'seeds=[0,1]' --store /runs"
    assert why == f"why it failed: bench explain tiny.yaml 'phantom/[b]/s0' {options}"
    assert again == f"try again: bench run tiny.yaml --retry-failed {options}"


def test_without_a_failure_the_totals_are_the_last_line() -> None:
    assert rendered(print_status, [row("phantom/a/s0", "done")], REQUEST).splitlines()[-1] == "1 cells: 1 done"


def test_a_narrow_terminal_wraps_notes_and_leaves_commands_whole() -> None:
    text = rendered(print_status, [row("phantom/a/s0", "failed", "word " * 40)], REQUEST, width=60)
    *table, totals, why, again = text.splitlines()
    assert max(map(len, table)) <= 60
    assert why.endswith("--store /runs")
    assert again.endswith("--store /runs")


def test_a_cell_is_explained_stage_by_stage_with_tracebacks_below() -> None:
    reused = {"stage": "split", "key": "a" * 32, "action": "reuse", "why": "finished in [1.0] s"}
    stopped = {"stage": "scores", "key": "b" * 32, "action": "stop", "why": "no\nluck", "traceback": "line 1\n  [x]\n"}
    text = rendered(print_explain, cast(Cell, FakeCell()), [reused, stopped])
    assert text.startswith("phantom/smote/s0  (key 0123456789abcdef)\n")
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "split aaaaaaaa reuse finished in [1.0] s" in lines
    assert "scores bbbbbbbb stop no luck" in lines
    assert text.endswith("\nscores bbbbbbbb failed:\nline 1\n  [x]\n")


def test_finished_stages_are_listed_with_their_total() -> None:
    made = {"key": "a" * 32, "bytes": 2**20, "seconds": 1.25, "finished": "2026-01-01"}
    text = rendered(print_ls, [{"stage": name, **made} for name in ("split", "train")])
    assert " ".join(text.splitlines()[1].split()) == "split aaaaaaaa 1.0 1.2 2026-01-01"
    assert text.splitlines()[-1] == "2 stages, 2.0 MiB"
