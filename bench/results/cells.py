"""Read finished cells back from the store: the base of reports, sweeps and trackers. Nothing here computes."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from bench.data.census import COUNTS_FILE
from bench.errors import StoreError
from bench.files import read_json
from bench.matrix.cell import Cell, own_stages
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage, unfinished
from bench.store.store import Store

if TYPE_CHECKING:
    import pandas as pd

_NAME = re.compile(r"[a-z][a-z0-9_]*")

CellState = Literal["done", "running", "failed", "missing"]


@dataclass(frozen=True)
class CellResult:
    """What the store holds of one cell. A part that is not there yet is None.

    Attributes:
        scores: test metrics, see `bench.evaluation.scores`.
        fidelity: metrics of the synthetic images, see `bench.evaluation.fidelity`.
        diagnostics: figures of the method's own diagnostics, name → number or None.
        classifier: the training's record (selection rule, steps, val metrics), see `bench.classifier.classifier`.
        history: one mapping for each evaluation on val.
        failure: the failure record of the stage that stopped the cell.
        skip: why the method declined this data set.
        census: what is odd about the synthetic images, by target class; see `bench.data.census`.

    If only the diagnostics failed, the state is `failed` and a run ends with exit code 1. The cell still counts as
    `measured`: tables and effects show its figures, and say that its diagnostics failed.
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
    census: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether all figures that tables show are there."""
        return self.state == "done" or (self.scores is not None and self.fidelity is not None)

    @property
    def counted(self) -> bool:
        """Whether tables and figures show its figures: all are there, and the method did not decline the data set."""
        return self.measured and not self.skip

    @property
    def parts(self) -> list[dict[str, Any]]:
        """The mappings that hold the figures; a name in an earlier one hides it in a later one.

        What the scores have of held-out pairs in a mapping of its own is among them as `held_out_<name>`.
        """
        pairs = (self.scores or {}).get("held_out") or {}
        named = {f"held_out_{name}": figure for name, figure in pairs.items()}
        return [part or {} for part in (self.scores, named, self.fidelity, self.diagnostics)]

    def number(self, name: str) -> float | None:
        """Return a number of the scores, the fidelity or the diagnostics by its name; None if there is none."""
        for part in self.parts:
            found = part.get(name)
            if isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found):
                return float(found)
        return None

    @property
    def reason(self) -> str | None:
        """Why figures are missing, or why only the diagnostics are missing; None if no reason is known."""
        if self.skip or self.failure is None:
            return self.skip
        said = " ".join(str(self.failure.get("error")).split())
        return f"diagnostics failed: {said}" if self.measured else said


def numbers(results: Iterable[CellResult], name: str) -> list[float]:
    """Return a number of each cell that has it, see `CellResult.number`."""
    return [v for r in results if (v := r.number(name)) is not None]


def number_names(results: Iterable[CellResult]) -> list[str]:
    """Return the names of the numbers that some counted cell has, each once, in the order of the cells' parts."""
    found = (name for r in results if r.counted for part in r.parts for name in part if r.number(name) is not None)
    return list(dict.fromkeys(found))


def cell_state(cell: Cell, store: Store) -> tuple[CellState, dict[str, Any] | None]:
    """Return a cell's state from the store alone, and the failure record if it failed.

    A cell is `running` while one of its own stages is computed: its images, its classifier or its measures. A cell that
    waits for a shared input (a codec, say) is `missing`; `bench.run.status` says what it waits for.
    """
    if all(store.has(s) for s in cell.targets):
        return "done", None
    states = [(stage, store.state(stage)) for stage in unfinished(cell.targets, store)]
    for stage, state in states:
        if state == "failed":
            return "failed", store.failure(stage)
    own = {s.key for s in own_stages(cell)}
    return ("running" if any(state == "running" and s.key in own for s, state in states) else "missing"), None


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
        census=read_json(store.folder(cell.augmented) / COUNTS_FILE) or {},
    )


def _skip(cell: Cell, store: Store) -> str | None:
    folder = store.folder(cell.augmented)
    try:
        return cell.augmented.skip_reason(folder)
    except (FileNotFoundError, ValueError, KeyError) as error:
        raise StoreError(f"{folder} is damaged (plan.json); delete it to compute it anew") from error


def _diagnostics(cell: Cell, store: Store) -> tuple[dict[str, float | int | None] | None, dict[str, Any] | None]:
    """Return the figures of a method's diagnostics and None, or None and why they cannot be read."""
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
    """Return the entries whose name is plain and whose value is a number or None."""
    # Diagnostics are a plugin's own code, and they go to tables and trackers. A file's path as a name, or a list with
    # one value for each image, would carry facts about single patients out of the machine.
    return {k: v for k, v in found.items() if _NAME.fullmatch(str(k)) and (v is None or type(v) in (int, float))}


def read_matrix(matrix: Matrix, store: Store, known: Mapping[str, CellResult] | None = None) -> list[CellResult]:
    """Return every cell's result, in the matrix's order.

    `known` has finished cells that were read before, by the names of the cells. What is finished does not change.
    """
    known = known or {}
    return [known.get(cell.name) or read_cell(cell, store) for cell in matrix.cells]


def frame(results: list[CellResult]) -> pd.DataFrame:
    """Return one row for each cell: dataset, method, seed, state and every scalar of its results (NaN = missing)."""
    import pandas as pd

    rows = []
    for r in results:
        row: dict[str, Any] = {
            "dataset": r.cell.dataset.label,
            "method": r.cell.label,
            "seed": r.cell.seed,
            "state": r.state,
        }
        for part in r.parts:
            new = {k: v for k, v in part.items() if k not in row}  # a plugin's figure never hides a score
            row |= {k: v for k, v in new.items() if v is None or isinstance(v, (int, float, str))}
        rows.append(row)
    return pd.DataFrame(rows)
