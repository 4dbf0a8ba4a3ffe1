"""Studies: settings for a figure that shows how results change with one setting of a matrix."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from bench.errors import ConfigError, listed, nearest
from bench.matrix.cell import Cell
from bench.pipeline.settings import Settings
from bench.pipeline.stage import Stage

Scalar = bool | int | float | str

# A path begins with one of these parts of a cell. Settings of stages further down would only repeat them.
_ROOTS = ("dataset", "method", "augmented.plan", "classifier.settings", "split.settings", "fidelity.settings")

RECORD = "record."


class Study(Settings):
    """What the study figure of a matrix shows: `columns` against `x`, one line for each value of `line`.

    A path names a setting as an attribute of `Cell`: `method.codec.generations`, `dataset.n_images`,
    `augmented.plan.per_class`, `classifier.settings.steps`. The short names `row`, `method` and `dataset` stand for
    labels. A path such as `record.n_real` is read from the record of the training, since the number is known only then.
    Rows in `levels`, and rows without the setting `x` (a control has no codec), are drawn as horizontal lines.
    """

    x: str = Field(description="path of the setting on the axis")
    line: str = Field("row", description="`row`, `method`, `dataset` or a path: cells that agree on it make a line")
    columns: list[str] = Field(min_length=1, description="names in the scores, the fidelity or the diagnostics")
    levels: list[str] = Field([], description="labels of rows that are drawn as horizontal lines, whatever their `x`")
    pool: bool = Field(False, description="one figure for all data sets; so it is anyway if they make `x` or `line`")
    x_label: str | None = Field(None, description="label of the axis; null = the path in words")
    scale: Literal["linear", "log"] = Field("linear", description="scale of the axis if `x` is a number")
    band: Literal["sd", "ci"] = Field("sd", description="around a mean over seeds: one sd, or Student's 95 % interval")

    def check(self, cells: Sequence[Cell], where: str) -> None:
        """Refuse paths that no cell has, unknown rows, and lines on which two cells would lie at the same point.

        Raises:
            ConfigError: with the field, the value and the nearest allowed value.
        """
        found = [settings_of(cell) for cell in cells]
        paths = list(dict.fromkeys(path for settings in found for path in settings))
        for name in ("x", "line"):
            path = getattr(self, name)
            if path not in paths and not path.startswith(RECORD):
                hint, have = nearest(path, paths), listed(paths)
                raise ConfigError(f"{where}.study.{name}: no cell has a setting '{path}'{hint} (have: {have})")
        labels = [cell.label for cell in cells]
        for label in self.levels:
            if label not in labels:
                have = listed(set(labels))
                raise ConfigError(f"{where}.study.levels: no row '{label}'{nearest(label, labels)} (rows: {have})")
        known = not any(path.startswith(RECORD) for path in (self.x, self.line))
        if known and (clash := self.clash(zip(cells, found, strict=True))):
            raise ConfigError(f"{where}.study.line: {clash}")

    def clash(self, cells: Iterable[tuple[Cell, Mapping[str, Scalar]]]) -> str | None:
        """Return a sentence on two cells that would lie at the same point of a line, or None.

        `cells` have their settings beside them, see `settings_of`, and what their records have under `RECORD`.
        """
        taken: dict[tuple[Scalar | None, ...], str] = {}
        for cell, settings in cells:
            if self.is_level(cell.label, settings):
                continue
            figure, line = None if self.spans_datasets else cell.dataset.label, self.line_of(cell.label, settings)
            place = (figure, line, settings[self.x], cell.seed)
            if place in taken:
                return (
                    f"{taken[place]} and {cell.name} both lie at {self.x} = {settings[self.x]} of line '{line}'; "
                    "choose another `line`, or name one of the rows in `levels`"
                )
            taken[place] = cell.name
        return None

    @property
    def spans_datasets(self) -> bool:
        """Whether one figure shows all data sets."""
        return self.pool or any(path.partition(".")[0] == "dataset" for path in (self.x, self.line))

    def line_of(self, label: str, settings: Mapping[str, Scalar]) -> str:
        """Return the name of a row's line: the value of `line`, or the row's label if it has no such setting."""
        return str(settings.get(self.line, label))

    def is_level(self, label: str, settings: Mapping[str, Scalar]) -> bool:
        """Tell whether a row is drawn as a horizontal line."""
        return label in self.levels or self.x not in settings


def settings_of(cell: Cell) -> dict[str, Scalar]:
    """Return path → value of every setting of a cell that is one number or word; null settings are left out."""
    found: dict[str, Scalar] = {"row": cell.label, "method": cell.method.label, "dataset": cell.dataset.label}
    for root in _ROOTS:
        at: Any = cell
        for part in root.split("."):
            at = getattr(at, part)
        found |= dict(scalars(root, at))
    return found


def scalars(path: str, value: object) -> Iterator[tuple[str, Scalar]]:
    """Yield (path, value) of every number and word in some settings, but not in the stages among them."""
    if isinstance(value, (bool, int, float, str)):
        yield path, value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if not isinstance(inner, Stage):
                yield from scalars(f"{path}.{name}", inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from scalars(f"{path}.{name}", inner)
