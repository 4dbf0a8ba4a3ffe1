"""Reading finished cells back: what reports, sweeps and trackers build on. Nothing here computes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any, Literal, Protocol

from bench.errors import StoreError
from bench.matrix.load import Cell, Matrix
from bench.pipeline.stage import Stage
from bench.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

_NAME = re.compile(r"[a-z][a-z0-9_]*")

CellState = Literal["done", "running", "failed", "missing"]


class Holds(Protocol):
    """Tells which stages are finished: a store, or what was seen of one."""

    def has(self, stage: Stage) -> bool:
        """Tell whether `stage` is finished."""


@dataclass(frozen=True)
class CellResult:
    """What the store holds of one cell; every part is None until it is there.

    Attributes:
        scores: test metrics, see `bench.evaluation.scores`.
        fidelity: metrics of the synthetic images, see `bench.evaluation.fidelity`.
        diagnostics: what the method's own diagnostics say, name → number or None.
        classifier: the training's record (selection rule, steps, val metrics), see `bench.classifier.classifier`.
        history: one mapping an evaluation on val.
        failure: the failure record of the stage that stopped the cell.
        skip: why the method declined this data set.

    A cell whose diagnostics alone failed is `failed`, and a run of it ends with exit code 1, but it is `measured`:
    tables and effects have its figures, and say that its diagnostics failed.
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

    @property
    def measured(self) -> bool:
        """Whether the figures of the tables are all there."""
        return self.state == "done" or (self.scores is not None and self.fidelity is not None)

    @property
    def reason(self) -> str | None:
        """Why figures are missing, or diagnostics where it is those alone; None where nobody knows a reason."""
        if self.skip or self.failure is None:
            return self.skip
        said = " ".join(str(self.failure.get("error")).split())
        return f"diagnostics failed: {said}" if self.measured else said


def cell_state(cell: Cell, store: Store) -> tuple[CellState, dict[str, Any] | None]:
    """Return a cell's state from the store alone, and the failure record if it failed.

    `running` is a cell of which a stage of its own is being computed: its images, its classifier, what measures them.
    One that waits for a stage below those (a codec that many cells share) is `missing`; `bench.run.status` says
    for what.
    """
    if all(store.has(s) for s in cell.targets):
        return "done", None
    states = [(stage, store.state(stage)) for stage in unfinished(cell.targets, store)]
    for stage, state in states:
        if state == "failed":
            return "failed", store.failure(stage)
    own = {s.key for s in own_stages(cell)}
    return ("running" if any(state == "running" and s.key in own for s, state in states) else "missing"), None


def own_stages(cell: Cell) -> list[Stage]:
    """Return the stages that a cell is about, inputs first."""
    labelled = cell.classifier.labelled
    return [cell.augmented, *([labelled] if labelled else []), cell.classifier, *cell.targets]


def unfinished(targets: list[Stage], store: Holds) -> list[Stage]:
    """Return the stages that a run would still have to compute for `targets`, each once, inputs first."""
    found: dict[str, Stage | None] = {}

    def visit(stage: Stage) -> None:
        if stage.key in found or store.has(stage):
            return
        found[stage.key] = None
        for below in stage.inputs():
            visit(below)
        del found[stage.key]  # set again, behind its inputs
        found[stage.key] = stage

    for target in targets:
        visit(target)
    return [stage for stage in found.values() if stage is not None]


def read_cell(cell: Cell, store: Store) -> CellResult:
    """Return what the store holds of a cell."""
    state, failure = cell_state(cell, store)
    diagnostics, odd = _diagnostics(cell, store)
    if odd and state == "done":
        state, failure = "failed", odd

    def opened(stage: Stage) -> Any:
        return store.open(stage) if store.has(stage) else None

    trained = opened(cell.classifier)
    return CellResult(
        cell=cell,
        state=state,
        scores=opened(cell.scores),
        fidelity=opened(cell.fidelity),
        diagnostics=diagnostics,
        classifier=trained.record if trained else None,
        history=trained.history if trained else [],
        failure=failure,
        skip=_skip(cell, store) if store.has(cell.augmented) else None,
    )


def _skip(cell: Cell, store: Store) -> str | None:
    folder = store.folder(cell.augmented)
    try:
        return cell.augmented.skip_reason(folder)
    except (OSError, ValueError, KeyError) as error:
        raise StoreError(f"{folder} is damaged (plan.json); delete it to compute it anew") from error


def _diagnostics(cell: Cell, store: Store) -> tuple[dict[str, float | int | None] | None, dict[str, Any] | None]:
    """Return the figures of a method's diagnostics, or why they cannot be read: a plugin's stage says how."""
    if cell.diagnostics is None or not store.has(cell.diagnostics):
        return None, None
    try:
        found = store.open(cell.diagnostics)
    except StoreError as error:
        return None, {"error": str(error)}
    if not isinstance(found, dict):
        return None, {"error": f"their result is a {type(found).__name__}, want a flat dict, name → number or None"}
    return _figures(found), None


def _figures(found: dict[str, Any]) -> dict[str, float | int | None]:
    """Return what of a method's diagnostics is a figure: a plain name and a number or None. The rest is not shown.

    So nothing per image (a path as a name, a list as a value) gets from a plugin into a table or a tracker.
    """
    return {k: v for k, v in found.items() if _NAME.fullmatch(str(k)) and (v is None or type(v) in (int, float))}


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
    column, and its `<column>_sd` (None below two seeds). A seed counts where its figures are there, even if its
    diagnostics failed; `state` and `reason` tell.
    """
    rows = []
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for r in results:
        groups.setdefault((r.cell.dataset.label, r.cell.label), []).append(r)
    for (dataset, method), members in groups.items():
        done = [m for m in members if m.measured and not m.skip]  # of a skip there is nothing to report
        open_ends = sorted((m for m in members if m.state != "done"), key=lambda m: m.measured)
        row: dict[str, Any] = {
            "dataset": dataset,
            "method": method,
            "n_seeds": len(done),
            "seeds": [m.cell.seed for m in done],
            "state": open_ends[0].state if open_ends else "done" if done else "skipped",
            "reason": next((m.reason for m in [*open_ends, *members] if m.reason), None),
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
