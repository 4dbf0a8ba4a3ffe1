"""Studies: a matrix whose figure shows what changes with one setting. Reads finished cells, computes nothing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field

from bench.errors import ConfigError, listed, nearest
from bench.pipeline.stage import Settings, Stage

if TYPE_CHECKING:
    from bench.matrix.load import Cell
    from bench.results.cells import CellResult

Scalar = bool | int | float | str

# What a path may begin with: the parts of a cell whose settings are its own, not those of a stage further down.
_ROOTS = ("dataset", "method", "augmented.plan", "classifier.settings", "split.settings", "fidelity.settings")
_RECORD = "record."


class Study(Settings):
    """What the study figure of a matrix shows: `columns` against `x`, one line for each value of `line`.

    A path is what a cell's settings are called in `Cell`: `method.codec.generations`, `dataset.n_images`,
    `augmented.plan.per_class`, `classifier.settings.steps`. Three names are short: `row`, `method`, `dataset`, for
    the labels. `record.n_real` is read from the record of the cell's training, where a number is known only then.
    Rows without `x` (a control that has no codec), and those in `levels`, are drawn as horizontal lines.
    """

    x: str = Field(description="path of the setting on the axis")
    line: str = Field("row", description="`row`, `method`, `dataset` or a path: cells that agree on it make a line")
    columns: list[str] = Field(min_length=1, description="names in the scores, the fidelity or the diagnostics")
    levels: list[str] = Field(
        [], description="labels of rows to draw as horizontal lines, wherever they are on the axis"
    )
    pool: bool = Field(False, description="all data sets in one figure; so it is anyway where they make `x` or `line`")
    x_label: str | None = Field(None, description="of the axis; null = the path in words")
    scale: Literal["linear", "log"] = Field("linear", description="of the axis, where `x` is a number")
    band: Literal["sd", "ci"] = Field("sd", description="around a mean over seeds: one sd, or Student's 95 % interval")

    def check(self, cells: Sequence[Cell], where: str) -> None:
        """Refuse paths that no cell has, unknown rows, and lines on which two cells would lie at the same place.

        Raises:
            ConfigError: naming the field, what was got and the nearest that is there.
        """
        found = [settings_of(cell) for cell in cells]
        paths = list(dict.fromkeys(path for settings in found for path in settings))
        for name in ("x", "line"):
            path = getattr(self, name)
            if path not in paths and not path.startswith(_RECORD):
                hint, have = nearest(path, paths), listed(paths)
                raise ConfigError(f"{where}.study.{name}: no cell has a setting '{path}'{hint} (have: {have})")
        labels = [cell.label for cell in cells]
        for label in self.levels:
            if label not in labels:
                have = listed(set(labels))
                raise ConfigError(f"{where}.study.levels: no row '{label}'{nearest(label, labels)} (rows: {have})")
        if not any(path.startswith(_RECORD) for path in (self.x, self.line)):
            self._check_places(cells, where)

    def _check_places(self, cells: Sequence[Cell], where: str) -> None:
        taken: dict[tuple[Any, ...], str] = {}
        for cell in cells:
            settings = settings_of(cell)
            if self.is_level(cell.label, settings):
                continue
            figure = None if self.spans_datasets else cell.dataset.label
            place = (figure, settings.get(self.line), settings[self.x], cell.seed)
            if place in taken:
                raise ConfigError(
                    f"{where}.study.line: {taken[place]} and {cell.name} both lie at {self.x} = {settings[self.x]} of "
                    f"line '{settings.get(self.line)}'; choose another `line`, or name one of the rows in `levels`"
                )
            taken[place] = cell.name

    @property
    def spans_datasets(self) -> bool:
        """Whether all data sets belong into one figure."""
        return self.pool or any(path.partition(".")[0] == "dataset" for path in (self.x, self.line))

    def is_level(self, label: str, settings: dict[str, Scalar]) -> bool:
        """Return whether a row is drawn as a horizontal line."""
        return label in self.levels or self.x not in settings


def settings_of(cell: Cell) -> dict[str, Scalar]:
    """Return path → value of every setting of a cell that is one number or word; what is null is not there."""
    found: dict[str, Scalar] = {"row": cell.label, "method": cell.method.label, "dataset": cell.dataset.label}
    for root in _ROOTS:
        at: Any = cell
        for part in root.split("."):
            at = getattr(at, part)
        found |= dict(_scalars(root, at))
    return found


def _scalars(path: str, value: Any) -> Iterator[tuple[str, Scalar]]:
    if isinstance(value, (bool, int, float, str)):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if not isinstance(inner, Stage):
                yield from _scalars(f"{path}.{name}", inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _scalars(f"{path}.{name}", inner)


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
        levels: row's label → its points, which have no place on the axis.
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
    for result in results:
        if not result.measured or result.skip:
            continue
        settings = settings_of(result.cell) | dict(_scalars(_RECORD[:-1], result.classifier or {}))
        values = {column: _value(result, column) for column in study.columns}
        if study.is_level(result.cell.label, settings):
            levels.setdefault(result.cell.label, []).append(Point(None, result.cell.seed, values))
        else:
            name = str(settings.get(study.line, result.cell.label))
            lines.setdefault(name, []).append(Point(settings[study.x], result.cell.seed, values))
    order = list(dict.fromkeys(point.x for points in lines.values() for point in points if point.x is not None))
    found = Series(lines, levels, order)
    return Series(lines, levels, sorted(order)) if found.numeric else found


def unknown_columns(study: Study, results: Sequence[CellResult]) -> list[str]:
    """Return a line for each column that no finished cell has, with the nearest that is there."""
    there = sorted({name for r in results for part in _parts(r) for name, value in part.items() if _is_number(value)})
    missing = [column for column in study.columns if column not in there]
    return [f"no finished cell has a number '{column}'{nearest(column, there)}" for column in missing]


def unknown_records(study: Study, results: Sequence[CellResult]) -> list[str]:
    """Return a line for each of `x` and `line` that names what no finished cell's record has, with the nearest."""
    records = [r.classifier or {} for r in results if r.measured and not r.skip]
    there = sorted({path for record in records for path, _ in _scalars(_RECORD[:-1], record)})
    named = (("x", study.x), ("line", study.line))
    missing = [(at, path) for at, path in named if path.startswith(_RECORD) and path not in there]
    said = [f"study.{at}: no finished cell has '{path}'{nearest(path, there)}" for at, path in missing]
    return [f"{line} (have: {listed(there)})" for line in said] if records else []


def _parts(result: CellResult) -> list[dict[str, Any]]:
    return [part for part in (result.scores, result.fidelity, result.diagnostics) if part]


def _value(result: CellResult, column: str) -> float | None:
    found = next((part[column] for part in _parts(result) if _is_number(part.get(column))), None)
    return None if found is None else float(found)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
