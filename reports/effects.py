"""The table of effects for the terminal, as Markdown, as CSV and as records."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from reports.beside_map import column_named
from reports.differences import (
    EFFECT_COLUMNS,
    Effect,
    decimals,
    effects,
    interval,
    notes,
    p_text,
    signed,
    verdicts,
)
from reports.run_facts import by_dataset
from reports.statistics import Verdict
from reports.table_rows import MISSING, Column, hole_lines, table_rows
from reports.text import md, md_line

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bench.matrix.matrix import Matrix
    from bench.results.cells import CellResult
    from bench.store.store import Store

_MARKS: dict[Verdict, str] = {"higher": " *", "lower": " *", "unsettled_higher": " (*)", "unsettled_lower": " (*)"}


@dataclass(frozen=True)
class EffectsTable:
    """The effects of a matrix, for each data set.

    Attributes:
        name: of the matrix.
        by_dataset: label of the data set → its effects.
        holes: label → a line for each row that is not compared whole, with the reason.
    """

    name: str
    by_dataset: dict[str, list[Effect]]
    holes: dict[str, list[str]] = field(default_factory=dict)

    def as_rows(self) -> list[dict[str, Any]]:
        """Return one flat record for each effect."""
        return [e.as_row() for found in self.by_dataset.values() for e in found]

    def csv(self) -> str:
        """Return the effects as CSV in full precision."""
        rows, out = self.as_rows(), io.StringIO()
        names = list(rows[0]) if rows else ["dataset", "row", "against", "column"]
        writer = csv.DictWriter(out, names, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        return out.getvalue()

    def markdown(self) -> str:
        """Return the effects as Markdown with their notes."""
        lines = [f"# Effects: {md(self.name)}", ""]
        for label, found in self.by_dataset.items():
            columns, holes = columns_of(found), [f"- {md(line)}" for line in self.holes.get(label, ())]
            lines += [f"## {md(label)}", ""]
            if not found:
                lines += ["There is nothing to compare yet.", "", *holes, *[""][: len(holes)]]
                continue
            lines += [
                md_line(["row", "against", "n", *(c.titled for c in columns)]),
                "|---|---|---:|" + "---:|" * len(columns),
            ]
            for e, cells in grid(found):
                lines.append(md_line([e.row, e.control, str(e.estimate.n), *(c.replace("\n", " ") for c in cells)]))
            lines += ["", *(f"- **{md(row)}**: {md(said)}" for row, said in verdicts(found).items())]
            lines += [f"- {md(note)}" for note in [*notes(found), *marks(found)]] + [*holes, ""]
        return "\n".join(lines)

    def __rich__(self) -> RenderableType:
        """Return the effects for a terminal."""
        from rich import box
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        parts: list[Any] = []
        for label, found in self.by_dataset.items():
            title = Text(f"{self.name}: effects on {label}")
            table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 0, 0, 1))
            for i, heading in enumerate(["row", "against", "n", *(c.titled for c in columns_of(found))]):
                table.add_column(Text(heading), justify="right" if i > 1 else "left", overflow="fold")
            for e, cells in grid(found):
                table.add_row(*map(Text, [e.row, e.control, str(e.estimate.n), *cells]))
            parts += [table, *(Text(f"{row}: {said}") for row, said in verdicts(found).items())]
            parts += [Text(f"· {note}", style="dim") for note in [*notes(found), *marks(found)]]
            if not found:
                parts.append(Text("There is nothing to compare yet: finish a row and its control."))
            parts += [Text(f"! {line}", style="yellow") for line in self.holes.get(label, ())]
        return Group(*parts)


def columns_of(found: Iterable[Effect]) -> list[Column]:
    """Return the columns in which there is an effect, those of `EFFECT_COLUMNS` first."""
    there = dict.fromkeys(e.column for e in found)
    return [c for c in EFFECT_COLUMNS if c in there] + [c for c in there if c not in EFFECT_COLUMNS]


def grid(found: Sequence[Effect]) -> list[tuple[Effect, list[str]]]:
    """Return, for each row and control, the effect with the most seeds and a cell of two lines for each column."""
    columns = columns_of(found)
    places = {c: decimals(e for e in found if e.column == c) for c in columns}
    lines: dict[tuple[str, str], dict[Column, Effect]] = {}
    for e in found:
        lines.setdefault((e.row, e.control), {})[e.column] = e
    return [
        (max(line.values(), key=lambda e: e.estimate.n), [_cell(line.get(c), places[c]) for c in columns])
        for line in lines.values()
    ]


def _cell(effect: Effect | None, places: int) -> str:
    if effect is None:
        return MISSING
    e = effect.estimate
    if e.same:
        return "same images"
    p = f", p {p_text(e.p)}" if e.p is not None else ""
    return f"{signed(e.mean, places)}{p}{_MARKS.get(effect.verdict, '')}\n{interval(e, places)}".strip()


def marks(found: Sequence[Effect]) -> list[str]:
    """Return what the marks in the table of these effects mean, with a line for each mark that occurs."""
    starred = {e.estimate.over_test for e in found if _MARKS.get(e.verdict) == " *"}
    also = {(False,): " and p < 0.05", (False, True): " and, over seeds, p < 0.05"}
    said = []
    if starred:
        said.append(
            f"*: the 95 % interval leaves out zero{also.get(tuple(sorted(starred)), '')}, without a correction."
        )
    if any(_MARKS.get(e.verdict) == " (*)" for e in found):
        said.append("(*): the 95 % interval leaves out zero, but p is not below 0.05, so chance is not ruled out.")
    return said


def effects_table(
    matrix: Matrix, results: Sequence[CellResult], store: Store | None = None, columns: Sequence[str] | None = None
) -> EffectsTable:
    """Return the effects of a matrix: rich prints them, and `as_rows` gives them to machines.

    Args:
        matrix: the matrix.
        results: its cells as `bench.results.cells.read_matrix` gives them, finished or not.
        store: read for the resamples of the test patients (matrices of one seed).
        columns: names of numbers in scores, fidelity or diagnostics; a repeated name counts once. None means
            `EFFECT_COLUMNS`.

    Raises:
        ConfigError: for a column that no finished cell has.
    """
    chosen = (
        EFFECT_COLUMNS if columns is None else tuple(column_named(name, results) for name in dict.fromkeys(columns))
    )
    members = by_dataset(results)
    by = {label: effects(mine, store, chosen) for label, mine in members.items()}
    return EffectsTable(matrix.name, by, {label: hole_lines(table_rows(mine)) for label, mine in members.items()})


def effects_rows(
    matrix: Matrix, results: Sequence[CellResult], store: Store | None = None, columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Return the effects of a matrix as flat records; see `effects_table`."""
    return effects_table(matrix, results, store, columns).as_rows()
