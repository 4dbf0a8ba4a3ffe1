"""Reading finished cells back: what reports, sweeps and trackers build on. Nothing here computes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal

from bench.matrix import Cell, Matrix
from bench.stage import Stage, walk
from bench.store import Store

if TYPE_CHECKING:
    import pandas as pd

_NAME = re.compile(r"[a-z][a-z0-9_]*")

CellState = Literal["done", "running", "failed", "missing"]


@dataclass(frozen=True)
class CellResult:
    """What the store holds of one cell; every part is None until it is there.

    Attributes:
        scores: test metrics, see `bench.scores`.
        fidelity: metrics of the synthetic images, see `bench.fidelity`.
        diagnostics: what the method's own diagnostics say, name → number or None.
        classifier: the training's record (selection rule, steps, val metrics), see `bench.classifier`.
        history: one mapping an evaluation on val.
        failure: the failure record of the stage that stopped the cell.
        skip: why the method declined this data set.
    """

    cell: Cell
    state: CellState
    scores: dict[str, Any] | None = None
    fidelity: dict[str, Any] | None = None
    diagnostics: dict[str, Any] | None = None
    classifier: dict[str, Any] | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    failure: dict[str, Any] | None = None
    skip: str | None = None


def cell_state(cell: Cell, store: Store) -> tuple[CellState, dict[str, Any] | None]:
    """Return a cell's state from the store alone, and the failure record if it failed."""
    if all(store.has(s) for s in cell.targets):
        return "done", None
    states = {s.key: store.state(s) for s in walk(cell.targets) if not store.has(s)}
    stages = {s.key: s for s in walk(cell.targets)}
    for key, state in states.items():
        if state == "failed":
            return "failed", store.failure(stages[key])
    return ("running" if "running" in states.values() else "missing"), None


def read_cell(cell: Cell, store: Store) -> CellResult:
    """Return what the store holds of a cell."""
    state, failure = cell_state(cell, store)

    def opened(stage: Stage) -> Any:
        return store.open(stage) if store.has(stage) else None

    trained = opened(cell.classifier)
    return CellResult(
        cell=cell,
        state=state,
        scores=opened(cell.scores),
        fidelity=opened(cell.fidelity),
        diagnostics=_figures(opened(cell.diagnostics)) if cell.diagnostics else None,
        classifier=trained.record if trained else None,
        history=trained.history if trained else [],
        failure=failure,
        skip=cell.augmented.skip_reason(store.folder(cell.augmented)) if store.has(cell.augmented) else None,
    )


def _figures(found: dict[str, Any] | None) -> dict[str, float | int | None] | None:
    """Return what of a method's diagnostics is a figure: a plain name and a number or None. The rest is not shown.

    So nothing per image (a path as a name, a list as a value) gets from a plugin into a table or a tracker.
    """
    if found is None:
        return None
    return {k: v for k, v in found.items() if _NAME.fullmatch(k) and (v is None or type(v) in (int, float))}


def read_matrix(matrix: Matrix, store: Store) -> list[CellResult]:
    """Return every cell's result, in the matrix's order."""
    return [read_cell(cell, store) for cell in matrix.cells]


def frame(results: list[CellResult]) -> pd.DataFrame:
    """Return one row a cell: dataset, method, seed, state and every scalar of its results (NaN = not there)."""
    import pandas as pd

    rows = []
    for r in results:
        row: dict[str, Any] = {
            "dataset": r.cell.dataset.label,
            "method": r.cell.label,
            "seed": r.cell.seed,
            "state": r.state,
        }
        for part in (r.scores, r.fidelity, r.diagnostics):
            new = {k: v for k, v in (part or {}).items() if k not in row}  # a plugin's figure never hides a score
            row |= {k: v for k, v in new.items() if v is None or isinstance(v, (int, float, str))}
        rows.append(row)
    return pd.DataFrame(rows)


# What the paper's table shows, and what must stand beside it to be read: no-skill levels, counts, the real-real floor.
TABLE_COLUMNS = (
    "fid_tail",
    "kid_tail",
    "fid_tail_equal_n",
    "fid_tail_floor",
    "map_head",
    "map_tail",
    "map_all",
    "label_fidelity_tail",
    "n_synthetic",
)


def table(results: list[CellResult]) -> list[dict[str, Any]]:
    """Return one row a (data set, method): mean and sd over seeds of `TABLE_COLUMNS`, numbers or None.

    Keys: `dataset`, `method`, `n_seeds`, `seeds`, `state` (also `skipped`), `reason`, `fid_metric`, `n_test`, each
    column, and its `<column>_sd` (None below two seeds).
    """
    rows = []
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for r in results:
        groups.setdefault((r.cell.dataset.label, r.cell.label), []).append(r)
    for (dataset, method), members in groups.items():
        done = [m for m in members if m.state == "done" and not m.skip]  # of a skip there is nothing to report
        unfinished = [m.state for m in members if m.state != "done"]
        row: dict[str, Any] = {
            "dataset": dataset,
            "method": method,
            "n_seeds": len(done),
            "seeds": [m.cell.seed for m in done],
            "state": unfinished[0] if unfinished else "done" if done else "skipped",
            "reason": next((m.skip or (m.failure or {}).get("error") for m in members if m.skip or m.failure), None),
            "fid_metric": next((m.fidelity["metric_id"] for m in done if m.fidelity), None),
            "n_test": next((m.scores.get("n_test") for m in done if m.scores), None),
        }
        for column in TABLE_COLUMNS:
            found = [(m.scores or {}).get(column, (m.fidelity or {}).get(column)) for m in done]
            values = [float(v) for v in found if v is not None and not math.isnan(v)]
            row[column] = fmean(values) if values else None
            row[f"{column}_sd"] = stdev(values) if len(values) > 1 else None
        rows.append(row)
    return rows
