"""What the store holds of a cell: its state, its figures, and why some of them are missing."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench.errors import StoreError
from bench.matrix.build import build_matrix
from bench.matrix.cell import Cell
from bench.pipeline.stage import Stage, Work
from bench.results.cells import CellResult, cell_state, read_cell
from bench.results.table import table
from bench.store.store import Store
from tests.tiny_cells import methods, tiny

__all__ = ["methods"]
pytestmark = pytest.mark.usefixtures("methods")

SCORES = {"map_head": 0.5, "map_tail": 0.25, "map_all": 0.4, "n_test": 9}
FIDELITY = {"fid_tail": 80.0, "metric_id": "m"}


@pytest.fixture
def cells() -> list[Cell]:
    return list(build_matrix(tiny(seeds=[0, 1]), "tiny.yaml").cells)


def failed(cell: Cell, error: str, **parts: Any) -> CellResult:
    return CellResult(cell, "failed", failure={"error": error}, **parts)


def test_failed_diagnostics_leave_the_figures(cells: list[Cell]) -> None:
    [row] = table([failed(cells[0], "ValueError: no\nluck", scores=SCORES, fidelity=FIDELITY)])
    assert (row["n_seeds"], row["map_tail"], row["fid_tail"]) == (1, 0.25, 80.0)
    assert (row["state"], row["reason"]) == ("failed", "diagnostics failed: ValueError: no luck")


def test_further_figures_get_columns_wherever_a_cell_has_them(cells: list[Cell]) -> None:
    parts = (SCORES | {"auroc_tail": 0.7}, FIDELITY | {"recall_tail": 0.5}, {"cam_pointing": 0.1})
    (row,) = table([CellResult(cells[0], "done", *parts)], ["auroc_tail", "recall_tail", "cam_pointing"])
    assert (row["auroc_tail"], row["recall_tail"], row["cam_pointing"], row["map_tail"]) == (0.7, 0.5, 0.1, 0.25)


def test_half_measured_cells_are_holes(cells: list[Cell]) -> None:
    for parts in ({"scores": SCORES}, {"fidelity": FIDELITY}, {}):
        [row] = table([failed(cells[0], "ValueError: no luck", **parts)])
        assert (row["n_seeds"], row["map_tail"], row["fid_tail"]) == (0, None, None)
        assert (row["state"], row["reason"]) == ("failed", "ValueError: no luck")


def test_the_reason_of_a_row_is_that_of_the_missing_seed(cells: list[Cell]) -> None:
    whole = failed(cells[0], "ValueError: diagnostics", scores=SCORES, fidelity=FIDELITY)
    for hole, told in ((failed(cells[1], "OSError: x"), "OSError: x"), (CellResult(cells[1], "missing"), None)):
        [row] = table([whole, hole])
        assert (row["n_seeds"], row["state"]) == (1, hole.state)
        assert row["reason"] == (told or "diagnostics failed: ValueError: diagnostics")


def test_a_cell_is_running_where_a_stage_of_its_own_is(cells: list[Cell], tmp_path: Path) -> None:
    store, cell = Store(tmp_path / "store"), cells[0]
    for stage, state in ((cell.dataset, "missing"), (cell.classifier, "running"), (cell.fidelity, "running")):
        claim = store.locks.try_claim(stage.key, {})
        assert claim is not None
        assert cell_state(cell, store) == (state, None)
        claim.release()
    assert cell_state(cell, store) == ("missing", None)


class Judge(Stage):
    """Diagnostics that open as `how` says."""

    how: str = "fine"

    def open(self, folder: Path) -> Any:
        return {"fine": {"judged": 1, 2: 3, "path": "/x"}, "list": [1], "crash": None}[self.how] or {}["x"]


@pytest.mark.parametrize(
    ("how", "state", "said"),
    [
        ("fine", "done", None),
        ("list", "failed", "diagnostics failed: their result is a list, want a flat dict"),
        ("crash", "failed", "cannot be read (KeyError: 'x')"),
    ],
)
def test_diagnostics_that_cannot_be_read_cost_themselves_alone(
    cells: list[Cell], tmp_path: Path, how: str, state: str, said: str | None
) -> None:
    store, cell = Store(tmp_path / "store"), replace(cells[0], diagnostics=Judge(how=how))
    for stage, content in zip(cell.targets, (SCORES, FIDELITY, {}), strict=True):
        store.folder(stage).mkdir(parents=True)
        for name in ("manifest", stage.stage_name()):
            text = json.dumps(content if name != "manifest" else {})
            (store.folder(stage) / f"{name}.json").write_text(text, encoding="utf-8")
    found = read_cell(cell, store)
    assert (found.state, found.diagnostics) == (state, {"judged": 1} if how == "fine" else None)
    assert found.measured
    assert found.scores == SCORES
    assert said is None if found.reason is None else said is not None and said in found.reason


def test_a_damaged_set_of_images_is_named(cells: list[Cell], tmp_path: Path) -> None:
    store, stage = Store(tmp_path / "store"), cells[0].augmented
    store.folder(stage).mkdir(parents=True)
    for name in ("manifest", "plan"):
        (store.folder(stage) / f"{name}.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreError, match=r"is damaged \(plan.json\); delete it"):
        read_cell(cells[0], store)


class Hungry(Stage):
    """Asks for more memory than there is."""

    of: str = "torch"

    def compute(self, work: Work) -> None:
        if self.of == "torch":
            import torch

            torch.empty(1 << 50)
        elif self.of == "numpy":
            import numpy as np

            np.empty(1 << 50)
        else:
            sys.exit(self.of)


@pytest.mark.parametrize(("of", "sticky"), [("torch", False), ("numpy", False), ("nothing", True)])
def test_running_out_of_memory_is_tried_again_and_leaving_is_not(tmp_path: Path, of: str, sticky: bool) -> None:
    store, stage = Store(tmp_path / "store"), Hungry(of=of)
    with pytest.raises(Exception, match=r"allocate|SystemExit: nothing"):
        store.get(stage)
    assert (store.failure(stage) or {})["sticky"] is sticky
    assert "in compute" in (store.failure(stage) or {})["traceback"]
