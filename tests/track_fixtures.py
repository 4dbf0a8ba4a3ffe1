"""What tests of records and trackers do with the tiny matrix; its finished store is a fixture of `conftest.py`."""

from __future__ import annotations

from typing import Any

from bench.matrix.matrix import Matrix
from bench.results import record
from bench.results.cells import read_cell
from bench.run.inline import Inline
from bench.run.progress import Silent
from bench.run.run_matrix import run_matrix
from bench.store.store import Store
from bench.store.work import Execution
from bench.tracking import tracker as track

NO_WANDB = "raise ImportError('no wandb', name='wandb')"


def run(matrix: Matrix, store: Store, tracker: track.Tracker) -> None:
    run_matrix(matrix, store, executor=Inline(), execution=Execution("cpu"), reporter=Silent(), tracker=tracker)


def tell(tracker: track.Tracker, matrix: Matrix, store: Store) -> None:
    for cell in matrix.cells:
        tracker.cell_ended(cell)
    tracker.close()


def a_record(store: Store, matrix: Matrix, **changes: Any) -> dict[str, Any]:
    cell = matrix.cells[1]
    return record.cell_record(store, matrix, cell, read_cell(cell, store)) | {"git": None} | changes
