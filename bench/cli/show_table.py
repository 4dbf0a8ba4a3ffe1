"""What the command line prints of a matrix's results: the table, one line a row on how it compares, what to do next."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.cli.options import Request
from bench.matrix.matrix import Matrix
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.beside_map import metrics_tables
from reports.differences import EFFECT_COLUMNS, MAIN, effects
from reports.paper_table import Part, parts_of
from reports.run_facts import by_dataset
from reports.short_verdicts import LONGEST_LINE, short_verdicts
from reports.statistics import MIN_FOR_INTERVAL
from reports.table_rows import hole_lines

LONGEST = len("> ") + LONGEST_LINE  # letters in a row's line, with the mark before it


def print_table(
    request: Request,
    matrix: Matrix,
    results: list[CellResult],
    store: Store,
    console: Console,
    notes: bool = False,
    figures: RenderableType | None = None,
) -> None:
    """Print the table of every data set, and the commands that come next.

    Args:
        request: what the commands are for.
        matrix: the matrix.
        results: its cells, finished or not.
        store: where they are.
        console: where to print.
        notes: print the verdicts with their numbers, and every footnote, which take longer to work out.
        figures: printed below the table, see `figures_of`.
    """
    console.print(with_notes(matrix, results, store) if notes else without_notes(matrix, results))
    if figures is not None:
        console.print(figures)
    for line in next_steps(request, matrix, results, store, notes):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def with_notes(matrix: Matrix, results: list[CellResult], store: Store | None = None) -> RenderableType:
    """Return the table of every data set with its holes, full verdicts and footnotes.

    With `store`, the footnotes also give the sizes of the splits.
    """
    printed: list[RenderableType] = []
    for part in (replace(part, narrow=True) for part in parts_of(matrix, results, store)):
        verdicts = [Text(f"> {row}: {verdict}") for row, verdict in part.verdicts.items()]
        notes = [Text(f"· {note}", style="dim") for note in [*part.notes, *part.verdict_notes, *part.chosen]]
        printed += [_grid(part), *_holes(part), *verdicts, *notes]
    return Group(*printed)


def without_notes(matrix: Matrix, results: list[CellResult]) -> RenderableType:
    """Return the table of every data set with its holes and, for each row, one line on how it compares."""
    printed: list[RenderableType] = []
    columns = [column for column in EFFECT_COLUMNS if column.key == MAIN]
    for label, members in by_dataset(results).items():
        # Neither the sizes of the splits nor intervals over test patients are shown, and both would have to be read.
        compared = effects(members, None, columns)
        part = Part(matrix, label, members, facts=None, effects=compared, narrow=True)
        printed += [_grid(part), *_holes(part), *(Text(f"> {line}") for line in short_verdicts(compared))]
        printed += [Text(note) for note in part.few_note]
    return Group(*printed)


def figures_of(results: list[CellResult], names: Sequence[str]) -> RenderableType | None:
    """Return a table of further figures for each data set, or None if none is named.

    Raises:
        ConfigError: for a figure that no finished cell has.
    """
    if not names:
        return None
    found: list[RenderableType] = []
    for label, table in metrics_tables(results, names).items():
        grid = Table(title=Text(label), title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
        for i, heading in enumerate(table.headings):
            text = Text(re.sub(" (?![↑↓])", "\n", heading))
            grid.add_column(text, justify="right" if i else "left", overflow="fold")
        for line in table.lines:
            grid.add_row(*(Text(cell.replace(" ± ", "\n±")) for cell in line))
        found += [grid, *(Text(f"! {note}", style="yellow") for note in table.notes)]
    return Group(*found)


def _grid(part: Part) -> Table:
    title = Text(f"{part.matrix.name}: {part.label}")
    grid = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
    for i, heading in enumerate(part.headings):
        # Headings take several lines and the sd stands under its mean, so that several seeds still fit 80 columns.
        text, theirs = Text(re.sub(" (?![↑↓])", "\n", heading)), i >= part.layout.first_published
        grid.add_column(text, justify="right" if i else "left", style="dim" if theirs else "", overflow="fold")
    *lines, level = part.lines
    for row, cells in zip(part.rows, lines, strict=True):
        grid.add_row(*(Text(c.replace(" ± ", "\n±")) for c in cells), style="dim" if row.n_seeds == 0 else "")
    grid.add_section()
    grid.add_row(*(Text(c) for c in level), style="italic")
    return grid


def _holes(part: Part) -> list[Text]:
    """Return a line for each row that lacks numbers, with the reason."""
    return [Text(f"! {line}", style="yellow") for line in hole_lines(part.rows)]


def next_steps(
    request: Request, matrix: Matrix, results: list[CellResult], store: Store, notes: bool = False
) -> list[str]:
    """Return the commands that come next, most urgent first, and where the notes are unless they are printed."""
    steps = []
    states = {r.state for r in results}
    if "failed" in states:
        steps.append(f"try again: {request.command('run', '--retry-failed')}")
    elif states != {"done"}:
        steps.append(f"compute the rest: {request.command('run')}")
    if any(r.measured for r in results):
        steps.append(_report(request, matrix, results, store))
    if states == {"done"} and (seeds := _more_seeds(matrix.settings.seeds)):
        others = [change for change in request.sets or [] if change.partition("=")[0].strip() != "seeds"]
        steps.append(f"more seeds: {request.command('run', sets=[*others, f'seeds={seeds}'])}")
    return steps if notes else [*steps, f"notes: {request.command('table', '--notes')}"]


def _report(request: Request, matrix: Matrix, results: list[CellResult], store: Store) -> str:
    """Return where the report's page is, or the command that writes it.

    A page of other cells, which has the same name, is none; one that is older than a result is out of date.
    """
    from reports.report_folder import is_of

    below = f"reports/{matrix.name}/report.html"
    command = request.command("report")
    try:
        written = (store.root / below).stat().st_mtime
    except OSError:
        return f"report: {command}"
    if not is_of((store.root / below).parent, matrix):
        return f"report (the one in {request.store_path / below} is of other rows, seeds, settings or code): {command}"
    if written < max(_finished_at(results, store), default=0.0):
        return f"report (the one in {request.store_path / below} is older than these results): {command}"
    return f"report: {request.store_path / below} (to write it again: {command})"


def _finished_at(results: Iterable[CellResult], store: Store) -> Iterable[float]:
    for result in results:
        for stage in result.cell.targets:
            if store.has(stage):
                yield (store.folder(stage) / "manifest.json").stat().st_mtime


def _more_seeds(seeds: list[int]) -> str | None:
    """Return a longer list of seeds where they are too few to rank rows, e.g. `[0,1,2]`; those that are there stay.

    Three seeds are the fewest with an interval, and six the fewest whose exact test can have a p below 0.05.
    """
    wanted = next((n for n in (MIN_FOR_INTERVAL, 6) if len(seeds) < n), None)
    if wanted is None:
        return None
    new = (seed for seed in range(max(seeds) + wanted + 1) if seed not in seeds)
    longer = [*seeds, *(seed for seed, _ in zip(new, range(wanted - len(seeds)), strict=False))]
    return f"[{','.join(map(str, longer))}]"
