"""Running a matrix in this process: every cell's outcome is told once, and read back as rows of numbers or null."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from bench.matrix.build import build_matrix
from bench.matrix.cell import Cell
from bench.pipeline.stage import Stage
from bench.results.cells import CellResult, frame, read_cell, read_matrix
from bench.results.table import table
from bench.run.inline import Inline
from bench.run.progress import Silent
from bench.run.run_matrix import run_matrix
from bench.store.store import Store
from bench.store.work import Execution
from tests.tiny_cells import methods, tiny

__all__ = ["methods"]
pytestmark = pytest.mark.usefixtures("methods")


class Heard:
    """A tracker that keeps what it hears."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.cells: list[tuple[str, str]] = []
        self.closed = 0

    def begun(self, cells: list[Cell]) -> None:
        self.begun_cells = [cell.method.label for cell in cells]

    def cell_ended(self, cell: Cell) -> None:
        self.cells.append((cell.method.label, read_cell(cell, self.store).state))

    def close(self) -> None:
        self.closed += 1


class Interrupts(Silent):
    """Ctrl-C as soon as a classifier starts."""

    def started(self, stage: Stage) -> None:
        if stage.stage_name() == "classifier":
            raise KeyboardInterrupt


def run(store: Store, reporter: Silent | None = None, **changes: Any) -> tuple[list[CellResult], Heard]:
    heard = Heard(store)
    matrix = build_matrix(tiny(**changes), "tiny.yaml")
    run_matrix(
        matrix,
        store,
        executor=Inline(),
        execution=Execution(device="cpu"),
        reporter=reporter or Silent(),
        tracker=heard,
    )
    return read_matrix(matrix, store), heard


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store that the tests of this file fill together, as runs of one project do."""
    return Store(tmp_path_factory.mktemp("run") / "store")


def test_every_cell_is_told_once_and_again_by_the_next_run(store: Store) -> None:
    results, heard = run(store)
    assert sorted(heard.cells) == [("baseline", "done"), ("copies@1", "done")]
    assert [r.state for r in results] == ["done", "done"]
    before = {p: p.stat().st_mtime_ns for p in store.root.rglob("manifest.json")}
    _, again = run(store)
    assert sorted(again.cells) == sorted(heard.cells)
    assert (heard.closed, again.closed) == (1, 1)
    assert {p: p.stat().st_mtime_ns for p in store.root.rglob("manifest.json")} == before


def test_a_method_that_fails_leaves_the_other_cells_alone(store: Store) -> None:
    results, heard = run(store, settings={"copies": {"fails": True}})
    assert sorted(heard.cells) == [("baseline", "done"), ("copies@1", "failed")]
    failed = results[1]
    assert failed.failure is not None
    assert failed.failure["stage"] == "augmented"
    assert failed.scores is None
    row = table(results)[1]
    assert (row["state"], row["n_seeds"], row["map_all"]) == ("failed", 0, None)
    assert row["reason"] == "RuntimeError: asked to fail, /secret/path"


def test_a_method_that_declines_is_told_with_its_reason(store: Store) -> None:
    results, _ = run(store, settings={"copies": {"declines": True}})
    assert results[1].state == "done"
    row = table(results)[1]
    assert (row["state"], row["reason"]) == ("skipped", "declines on request")
    assert (row["n_synthetic"], row["map_tail"], row["fid_tail"]) == (None, None, None)


def test_an_interrupt_closes_the_tracker_and_a_later_run_goes_on(store: Store) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(store, Interrupts(), seeds=[1])
    heard = Heard(store)
    matrix = build_matrix(tiny(seeds=[1]), "tiny.yaml")
    options: dict[str, Any] = {"executor": Inline(), "execution": Execution(device="cpu"), "reporter": Interrupts()}
    with pytest.raises(KeyboardInterrupt):
        run_matrix(matrix, store, tracker=heard, **options)
    assert heard.closed == 1
    assert [r.state for r in read_matrix(matrix, store)] == ["missing", "missing"]
    results, _ = run(store, seeds=[1])
    assert [r.state for r in results] == ["done", "done"]


def test_rows_are_the_mean_over_seeds_with_its_spread(store: Store) -> None:
    results, _ = run(store, seeds=[0, 1], methods=["baseline"], settings={})
    scores = [r.scores["map_all"] for r in results if r.scores]
    (row,) = table(results)
    assert row["map_all"] == pytest.approx(sum(scores) / 2)
    assert row["map_all_sd"] == pytest.approx(abs(scores[0] - scores[1]) / math.sqrt(2))
    assert (row["n_seeds"], row["seeds"]) == (2, [0, 1])
    assert list(frame(results)["map_all"]) == scores


def test_a_number_that_is_not_one_is_null_in_the_table(store: Store) -> None:
    done, _ = run(store, methods=["baseline"], settings={})
    cell = done[0].cell
    values = (float("nan"), 0.5, None)
    results = [CellResult(cell, "done", scores={"map_all": v, "map_tail": float("nan")}, fidelity={}) for v in values]
    (row,) = table(results)
    assert (row["map_all"], row["map_all_sd"], row["map_tail"]) == (0.5, None, None)
    json.dumps(row, allow_nan=False)


def test_cells_of_the_same_settings_have_the_same_key_and_others_do_not() -> None:
    first, again = (build_matrix(tiny(), "x").cells for _ in range(2))
    assert [c.key for c in first] == [c.key for c in again]
    other = build_matrix(tiny(settings={"copies": {"gain": 1.5}}), "x").cells
    assert other[0].key == first[0].key
    assert other[1].key != first[1].key


def test_no_stage_of_one_method_depends_on_which_other_methods_are_in_the_matrix(tmp_path: Path) -> None:
    alone = build_matrix(tiny(methods=["copies@1"]), "x").cells[0]
    assert alone.key == build_matrix(tiny(), "x").cells[1].key
