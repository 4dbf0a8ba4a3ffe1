"""The rows and columns of the table as data. `paper_table` and the page render them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean, stdev
from typing import TYPE_CHECKING

import numpy as np

from bench.results.numbers import fixed
from reports.few_patients import MARK, few_patients, heading_without
from reports.published import published

if TYPE_CHECKING:
    from bench.results.cells import CellResult


@dataclass(frozen=True)
class Column:
    """A column of numbers.

    Attributes:
        key: its name in the results.
        heading: its name in tables.
        better: 1 if higher is better, -1 if lower is, 0 if neither.
        decimals: how many to print; None chooses them from the values.
        spread: whether the sd over seeds is shown.
    """

    key: str
    heading: str
    better: int = 0
    decimals: int | None = None
    spread: bool = True

    @property
    def titled(self) -> str:
        """The heading, with an arrow in the direction that is better."""
        return self.heading + {1: " ↑", -1: " ↓", 0: ""}[self.better]


COLUMNS = (
    Column("fid_tail", "FID", -1),
    Column("kid_tail", "KID", -1),
    Column("fid_tail_floor", "FID floor", spread=False),
    Column("map_head", "mAP head", 1, 3),
    Column("map_tail", "mAP tail", 1, 3),
)
SUPPORTED = Column("map_tail_supported", "mAP tail without classes of few patients", 1, 3)  # only where there are any
MEDIUM = Column("map_medium", "mAP medium", 1, 3)  # only where the matrix has medium classes
PUBLISHED_COLUMNS = (
    Column("fid_tail", "FID", -1, 3),
    Column("map_head", "mAP head", 1, 3),
    Column("map_tail", "mAP tail", 1, 3),
)
NO_SKILL = {
    "map_head": "prevalence_head",
    "map_medium": "prevalence_medium",
    "map_tail": "prevalence_tail",
    "map_tail_supported": "prevalence_tail_supported",
}
MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One method on one data set.

    Attributes:
        n_seeds, n_planned: seeds finished and seeds asked for.
        values, sds: column → mean and sd over seeds; None for a missing number.
        hole: why numbers are missing, or None if they are complete.
        n_synthetic: mean number of synthetic images, or None.
        few: tail classes of few test patients, and how many each has, see `reports.few_patients`.
        with_published: whether published numbers stand beside this row.
    """

    dataset: str
    method: str
    n_seeds: int
    n_planned: int
    values: dict[str, float | None]
    sds: dict[str, float | None]
    hole: str | None
    n_synthetic: float | None
    few: Mapping[str, int] = field(default_factory=dict)
    with_published: bool = True

    def published(self, column: str) -> float | None:
        """Return the published number beside `column`."""
        return published().value(self.method, column) if self.with_published else None


def table_rows(results: list[CellResult], with_published: bool = True) -> list[Row]:
    """Return a row for each data set and method. A method that skips the data set has no numbers, but a reason."""
    from bench.results.table import table

    planned: dict[tuple[str, str], int] = {}
    skipped: set[tuple[str, str]] = set()
    for r in results:
        key = (r.cell.dataset.label, r.cell.label)
        planned[key] = planned.get(key, 0) + 1
        if r.skip:
            skipped.add(key)
    rows, columns = [], (*COLUMNS, MEDIUM, SUPPORTED)
    for raw in table(results, [MEDIUM.key]):
        key = (raw["dataset"], raw["method"])
        shown = {c.key: None if key in skipped else raw[c.key] for c in columns}
        rows.append(
            Row(
                dataset=raw["dataset"],
                method=raw["method"],
                n_seeds=raw["n_seeds"],
                n_planned=planned[key],
                values=shown,
                sds={c.key: raw[f"{c.key}_sd"] if c.spread and shown[c.key] is not None else None for c in columns},
                hole=_hole(raw, key in skipped, planned[key]),
                n_synthetic=raw["n_synthetic"],
                few=few_patients(r for r in results if r.counted and (r.cell.dataset.label, r.cell.label) == key),
                with_published=with_published,
            )
        )
    return rows


def _hole(raw: dict[str, object], skipped: bool, planned: int) -> str | None:
    if skipped:
        return f"skipped: {raw['reason']}"
    if raw["state"] == "done":
        return None
    state = "not run yet" if raw["state"] == "missing" else str(raw["state"])
    if raw["n_seeds"] == planned:  # the numbers are complete, only diagnostics are missing
        return str(raw["reason"] or f"diagnostics {state}")
    part = f"{raw['n_seeds']} of {planned} seeds done; " if raw["n_seeds"] else ""
    return f"{part}{state}" + (f": {' '.join(str(raw['reason']).split())}" if raw["reason"] else "")


def hole_lines(rows: Iterable[Row]) -> list[str]:
    """Return a line for each row that lacks numbers, with the reason."""
    return [f"{row.method}: {row.hole}" for row in rows if row.hole]


def no_skill(results: Iterable[CellResult]) -> dict[str, float | None]:
    """Return column → level of a classifier without skill (mean prevalence of the classes on test)."""
    found = [r.scores for r in results if r.scores]
    levels: dict[str, float | None] = {}
    for column, key in NO_SKILL.items():
        values = [s[key] for s in found if s.get(key) is not None]
        levels[column] = float(np.mean(values)) if values else None
    return levels


@dataclass(frozen=True)
class Layout:
    """Which cells the rows of a table have.

    Attributes:
        seeds: whether the number of seeds stands after the row's name.
        own: columns of this run.
        theirs: published columns; empty if no row has a published number.
    """

    seeds: bool
    own: tuple[Column, ...]
    theirs: tuple[Column, ...]

    @classmethod
    def of(cls, rows: list[Row]) -> Layout:
        """Return the layout for the rows of a data set."""
        there = any(row.published(c.key) is not None for row in rows for c in PUBLISHED_COLUMNS)
        few = {name: n for row in rows for name, n in row.few.items()}
        own = columns_of(rows)
        own = (*own, replace(SUPPORTED, heading=heading_without(few))) if few else own
        return cls(any(row.n_planned > 1 for row in rows), own, PUBLISHED_COLUMNS if there else ())

    @property
    def n_before(self) -> int:
        """Number of cells before the columns of this run: the name and, with several seeds, their number."""
        return 1 + self.seeds

    @property
    def first_published(self) -> int:
        """Index of the first published cell in a row."""
        return self.n_before + len(self.own)

    def texts(self, rows: list[Row]) -> list[list[str]]:
        """Return the cells of each row as text."""
        places = {c.key: decimals(c, rows) for c in self.own}
        return [
            [
                row.method,
                *([str(row.n_seeds)] if self.seeds else []),
                *(self._text(row, c, places[c.key]) for c in self.own),
                *(number(row.published(c.key), c.decimals or 3) for c in self.theirs),
            ]
            for row in rows
        ]

    def _text(self, row: Row, column: Column, places: int) -> str:
        text = number(row.values[column.key], places, row.sds[column.key])
        return f"{text} {MARK}" if row.few and column.key == "map_tail" and text != MISSING else text

    def no_skill(self, results: Iterable[CellResult]) -> list[str]:
        """Return the line of a classifier without skill as text."""
        levels = no_skill(results)
        ours = [number(levels[c.key], c.decimals or 3) if c.key in levels else "" for c in self.own]
        return ["no skill", *([""] if self.seeds else []), *ours, *("" for _ in self.theirs)]


def columns_of(rows: Iterable[Row]) -> tuple[Column, ...]:
    """Return the columns of this run's numbers; that of the medium classes stands between head and tail."""
    if all(row.values.get(MEDIUM.key) is None for row in rows):
        return COLUMNS
    return (*COLUMNS[:-1], MEDIUM, COLUMNS[-1])


def decimals(column: Column, rows: Iterable[Row]) -> int:
    """Return the number of decimals of a column: fixed, or enough for three digits of its largest value.

    A distance and its floor have the same number, so that they can be compared.
    """
    if column.decimals is not None:
        return column.decimals
    key = column.key.removesuffix("_floor")
    return places_for(v for r in rows if (v := r.values[key]) is not None)


def places_for(values: Iterable[float]) -> int:
    """Return as many decimals, 1 to 4, as show three digits of the largest value."""
    largest = max((abs(v) for v in values), default=0.0)
    return min(4, max(1, 2 - math.floor(math.log10(largest)))) if largest > 0 else 3


def mean_sd(values: Iterable[float | None], places: int, spread: bool = True) -> str:
    """Return the mean of the numbers that are there as `0.618`, or `0.618 ± 0.012` with `spread`, or a dash."""
    found = [v for v in values if v is not None]
    sd = stdev(found) if spread and len(found) > 1 else None
    return number(fmean(found) if found else None, places, sd)


def number(value: float | None, places: int, sd: float | None = None) -> str:
    """Return `0.618`, `−0.618 ± 0.012`, or a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    return fixed(value, places) + (f" ± {fixed(sd, places)}" if sd is not None else "")
