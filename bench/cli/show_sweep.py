"""What the command line shows of a sweep: its trials, which settings decide, and what fresh seeds left of the gain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bench.cli.options import Request
from bench.cli.session import load, print_json, stdout_console
from bench.privacy.names import plain, stand_ins
from reports.beside_fid import TextTable
from reports.figures.search import Search, Trial
from reports.sweep_page import sweep_markdown, write_sweep_page
from sweeps.confirmation import Confirmed, confirmed
from sweeps.outcome import SweepResult, short_names

if TYPE_CHECKING:
    from rich.table import Table

    from bench.store.store import Store
    from sweeps.settings import Sweep

_CONFIRMED = ["row", "in the search", "mean", "sd", "n"]


def confirmed_so_far(result: SweepResult, described: Sweep, store: Store) -> Confirmed | None:
    """Return what the finished cells of the confirmation say, or None if its matrix is not there."""
    if result.best_path is None or not Path(result.best_path).is_file():
        return None
    return confirmed(result, described, load(result.best_path, None), store)


def write_page(result: SweepResult, described: Sweep, confirmation: Confirmed | None, store: Store) -> Path:
    """Write the page of a sweep and return its path."""
    table, said = _said(result, confirmation)
    out = store.root / "reports" / f"sweep-{result.name}"
    return write_sweep_page(_search(result, described), described.settings.description, table, said, out)[0]


def tables_of(result: SweepResult, described: Sweep, confirmation: Confirmed | None, all_words: bool) -> str:
    """Return the tables of a sweep as Markdown.

    Args:
        result: the trials.
        described: the sweep's file.
        confirmation: what fresh seeds say, if they were trained.
        all_words: whether settings may be shown that look like places, files or ids.
    """
    if confirmation is not None and not all_words:
        names = stand_ins((row.row for row in confirmation.rows), "row")
        rows = tuple(replace(row, row=names[row.row]) for row in confirmation.rows)
        chosen = confirmation.chosen and names[confirmation.chosen]
        confirmation = replace(confirmation, rows=rows, chosen=chosen)
    table, said = _said(result, confirmation)
    return sweep_markdown(_search(result, described, all_words), table, said)


def _said(result: SweepResult, confirmation: Confirmed | None) -> tuple[TextTable | None, list[str]]:
    """Return the table of the confirmation, and the sentences for the top."""
    if confirmation is None or not confirmation.rows:
        return None, result.lines()
    title = f"Confirmation: {confirmation.metric} on val with seeds that no trial has used"
    table = TextTable(title, _CONFIRMED, [row.shown() for row in confirmation.rows], [])
    return table, [*result.lines(), confirmation.line()]


def _search(result: SweepResult, described: Sweep, all_words: bool = True) -> Search:
    """Return a sweep as figures and tables show it, with settings by their short names."""
    search = described.settings.search
    names = short_names(search)

    def settings(params: dict[str, Any]) -> dict[str, Any]:
        return {names[key]: value if all_words else plain(value, key) for key, value in params.items()}

    return Search(
        name=result.name,
        objectives=result.objectives,
        trials=tuple(Trial(t.number, t.state, t.values, settings(t.params), t.seconds) for t in result.trials),
        best=result.best,
        pareto=result.pareto,
        importances={m: {names[k]: v for k, v in found.items()} for m, found in result.importances.items()},
        log_scaled=frozenset(names[key] for key, dimension in search.items() if getattr(dimension, "log", False)),
    )


def print_sweep(request: Request, result: SweepResult, confirmation: Confirmed | None, as_json: bool) -> None:
    """Print the trials, which settings decide, what was left of the gain, and the command that comes next."""
    if as_json:
        found: dict[str, Any] = result.as_dict()
        print_json(found | {"confirmed": confirmation.as_dict() if confirmation else None})
        return
    console = stdout_console()
    console.print(result.table())
    for line in result.lines():
        typer.echo(line)
    if confirmation and confirmation.rows:
        console.print(_confirmation_table(confirmation))
        typer.echo(confirmation.line())
    if result.best_path is None:
        typer.echo("no trial finished")
    elif confirmation and confirmation.rows:
        typer.echo(f"its scores on test: {replace(request, matrix=result.best_path, sets=None).command('table')}")
    else:
        again = request.command("sweep", "--confirm")
        typer.echo(f"best settings: {result.best_path}; train them again with new seeds: {again}")


def _confirmation_table(confirmation: Confirmed) -> Table:
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"confirmation: {confirmation.metric} with seeds that no trial has used")
    for name in _CONFIRMED:
        table.add_column(name, justify="left" if name == _CONFIRMED[0] else "right")
    for row in confirmation.rows:
        table.add_row(*map(Text, row.shown()), style="bold" if row.row == confirmation.chosen else None)
    return table
