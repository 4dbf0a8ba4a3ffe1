"""The finished cells of a study figure, as lines and horizontal levels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import listed, nearest
from bench.matrix.study import RECORD, Scalar, Study, scalars, settings_of
from bench.results.cells import CellResult, number_names


@dataclass(frozen=True)
class Point:
    """One finished cell: where it lies, and its figures (None where it has none)."""

    x: Scalar | None
    seed: int
    values: dict[str, float | None]


@dataclass(frozen=True)
class Series:
    """What a figure shows.

    Attributes:
        lines: name → its points, in the matrix's order.
        levels: row's label → its points, which have no place on the axis; with several data sets, one for each of them.
        order: the values on the axis: numbers from low to high, words in the matrix's order.
    """

    lines: dict[str, list[Point]]
    levels: dict[str, list[Point]]
    order: list[Scalar]

    @property
    def numeric(self) -> bool:
        """Whether the axis is one of numbers."""
        return all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in self.order)


def series(study: Study, results: Sequence[CellResult]) -> Series:
    """Return the finished cells of one figure as lines and levels; a skipped method has no figures and is left out."""
    lines: dict[str, list[Point]] = {}
    levels: dict[str, list[Point]] = {}
    several = len({result.cell.dataset.label for result in results}) > 1
    for result in results:
        if not result.counted:
            continue
        settings = _settings(result)
        values = {column: result.number(column) for column in study.columns}
        if study.is_level(result.cell.label, settings):
            level = f"{result.cell.label} on {result.cell.dataset.label}" if several else result.cell.label
            levels.setdefault(level, []).append(Point(None, result.cell.seed, values))
        else:
            name = study.line_of(result.cell.label, settings)
            lines.setdefault(name, []).append(Point(settings[study.x], result.cell.seed, values))
    order = list(dict.fromkeys(point.x for points in lines.values() for point in points if point.x is not None))
    found = Series(lines, levels, order)
    return Series(lines, levels, sorted(order)) if found.numeric else found


def _settings(result: CellResult) -> dict[str, Scalar]:
    return settings_of(result.cell) | dict(scalars(RECORD[:-1], result.classifier or {}))


def clashes(study: Study, results: Sequence[CellResult]) -> list[str]:
    """Return a line if two cells would be dots of the same seed at one place; what a record has is known only now."""
    clash = study.clash((r.cell, _settings(r)) for r in results if r.counted)
    return [f"study.line: {clash}"] if clash else []


def unknown_columns(study: Study, results: Sequence[CellResult]) -> list[str]:
    """Return a line for each column that no finished cell has, with the nearest that is there."""
    there = sorted(number_names(results))
    missing = [column for column in study.columns if column not in there]
    return [f"no finished cell has a number '{column}'{nearest(column, there)}" for column in missing]


def unknown_records(study: Study, results: Sequence[CellResult]) -> list[str]:
    """Return a line for each of `x` and `line` that names what no finished cell's record has, with the nearest."""
    records = [r.classifier or {} for r in results if r.counted]
    there = sorted({path for record in records for path, _ in scalars(RECORD[:-1], record)})
    named = (("x", study.x), ("line", study.line))
    missing = [(at, path) for at, path in named if path.startswith(RECORD) and path not in there]
    said = [f"study.{at}: no finished cell has '{path}'{nearest(path, there)}" for at, path in missing]
    return [f"{line} (have: {listed(there)})" for line in said] if records else []
