"""The table's rows and columns as data; `paper_table` and the page render them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.facts import by_method
from reports.published import published

if TYPE_CHECKING:
    from bench.results import CellResult


@dataclass(frozen=True)
class Column:
    """A column: its key in the results, its heading, which way is better (1 up, -1 down, 0 neither).

    `decimals` None: chosen from the values. `spread`: whether the sd over seeds is shown.
    """

    key: str
    heading: str
    better: int = 0
    decimals: int | None = None
    spread: bool = True

    @property
    def titled(self) -> str:
        """The heading with an arrow towards better."""
        return self.heading + {1: " ↑", -1: " ↓", 0: ""}[self.better]


COLUMNS = (
    Column("fid_tail", "FID", -1),
    Column("kid_tail", "KID", -1),
    Column("fid_tail_floor", "FID floor", spread=False),
    Column("map_head", "mAP head", 1, 3),
    Column("map_tail", "mAP tail", 1, 3),
)
PUBLISHED_COLUMNS = (
    Column("fid_tail", "FID", -1, 3),
    Column("map_head", "mAP head", 1, 3),
    Column("map_tail", "mAP tail", 1, 3),
)
NO_SKILL = {"map_head": "prevalence_head", "map_tail": "prevalence_tail"}
MISSING = "–"


@dataclass(frozen=True)
class Row:
    """One method on one data set.

    Attributes:
        n_seeds, n_planned: seeds finished and seeds asked for.
        values, sds: column → mean and sd over seeds; None where there is none.
        hole: why numbers are missing, or None.
        n_synthetic: mean number of synthetic images, or None.
    """

    dataset: str
    method: str
    n_seeds: int
    n_planned: int
    values: dict[str, float | None]
    sds: dict[str, float | None]
    hole: str | None
    n_synthetic: float | None

    def published(self, column: str) -> float | None:
        """Return the published number beside `column`."""
        return published().value(self.method, column)


def table_rows(results: list[CellResult]) -> list[Row]:
    """Return a row a (data set, method). A method that declined the data set has no numbers, only its reason."""
    from bench.results import table

    planned: dict[tuple[str, str], int] = {}
    skipped: set[tuple[str, str]] = set()
    for r in results:
        key = (r.cell.dataset.label, r.cell.method.label)
        planned[key] = planned.get(key, 0) + 1
        if r.skip:
            skipped.add(key)
    rows = []
    for raw in table(results):
        key = (raw["dataset"], raw["method"])
        shown = {c.key: None if key in skipped else raw[c.key] for c in COLUMNS}
        rows.append(
            Row(
                dataset=raw["dataset"],
                method=raw["method"],
                n_seeds=raw["n_seeds"],
                n_planned=planned[key],
                values=shown,
                sds={c.key: raw[f"{c.key}_sd"] if c.spread and shown[c.key] is not None else None for c in COLUMNS},
                hole=_hole(raw, key in skipped, planned[key]),
                n_synthetic=raw["n_synthetic"],
            )
        )
    return rows


def _hole(raw: dict[str, object], skipped: bool, planned: int) -> str | None:
    if skipped:
        return f"skipped: {raw['reason']}"
    if raw["state"] == "done":
        return None
    state = str(raw["state"])
    state = "not run yet" if state == "missing" else state
    part = f"{raw['n_seeds']} of {planned} seeds done; " if raw["n_seeds"] else ""
    return f"{part}{state}" + (f": {' '.join(str(raw['reason']).split())}" if raw["reason"] else "")


def no_skill(results: Iterable[CellResult]) -> dict[str, float | None]:
    """Return column → level of a classifier without skill (mean prevalence of the classes on test)."""
    found = [r.scores for r in results if r.scores]
    levels: dict[str, float | None] = {}
    for column, key in NO_SKILL.items():
        values = [s[key] for s in found if s.get(key) is not None]
        levels[column] = float(np.mean(values)) if values else None
    return levels


def decimals(column: Column, rows: Iterable[Row]) -> int:
    """Return how many decimals a column is printed with: fixed, or enough for three digits of its largest value.

    A distance and its floor share theirs.
    """
    if column.decimals is not None:
        return column.decimals
    key = column.key.removesuffix("_floor")
    values = [abs(v) for r in rows if (v := r.values[key]) is not None]
    largest = max(values, default=0.0)
    return min(4, max(1, 2 - math.floor(math.log10(largest)))) if largest > 0 else 3


def number(value: float | None, places: int, sd: float | None = None) -> str:
    """Return `0.618`, `0.618 ± 0.012`, or a dash."""
    if value is None or not math.isfinite(value):
        return MISSING
    return f"{value:.{places}f}" + (f" ± {sd:.{places}f}" if sd is not None else "")


def texts(rows: list[Row]) -> list[list[str]]:
    """Return the cells of each row as text: method, `COLUMNS`, `PUBLISHED_COLUMNS`."""
    places = {c.key: decimals(c, rows) for c in COLUMNS}
    return [
        [
            row.method,
            *(number(row.values[c.key], places[c.key], row.sds[c.key]) for c in COLUMNS),
            *(number(row.published(c.key), c.decimals or 3) for c in PUBLISHED_COLUMNS),
        ]
        for row in rows
    ]


def no_skill_texts(results: Iterable[CellResult]) -> list[str]:
    """Return the no-skill line as text, in the columns of `texts`."""
    levels = no_skill(results)
    ours = [number(levels[c.key], c.decimals or 3) if c.key in levels else "" for c in COLUMNS]
    return ["no skill", *ours, *("" for _ in PUBLISHED_COLUMNS)]


@dataclass(frozen=True)
class Difference:
    """A paired difference, method minus control, over the seeds that both have.

    Attributes:
        mean, sd: over seeds; n: number of seeds; n_above: seeds in which the method is above the control.
    """

    method: str
    control: str
    column: str
    mean: float
    sd: float
    n: int
    n_above: int


def paired_differences(results: list[CellResult]) -> list[Difference]:
    """Return one data set's differences to each control row; none where fewer than two seeds are shared.

    Two controls are compared once, the later with the earlier.
    """
    groups = by_method(r for r in results if r.state == "done" and r.scores and not r.skip)
    controls = [label for label in published().controls if label in groups]
    pairs = [(m, c) for i, c in enumerate(controls) for m in groups if m not in controls[: i + 1]]
    found = [_paired(m, c, column, groups) for m, c in pairs for column in ("map_head", "map_tail")]
    return [difference for difference in found if difference]


def _paired(method: str, control: str, column: str, groups: dict[str, list[CellResult]]) -> Difference | None:
    base = {r.cell.seed: (r.scores or {}).get(column) for r in groups[control]}
    pairs = [((r.scores or {}).get(column), base.get(r.cell.seed)) for r in groups[method]]
    deltas = np.array([a - b for a, b in pairs if a is not None and b is not None])
    if len(deltas) < 2:
        return None
    return Difference(
        method, control, column, float(deltas.mean()), float(deltas.std(ddof=1)), len(deltas), int((deltas > 0).sum())
    )
