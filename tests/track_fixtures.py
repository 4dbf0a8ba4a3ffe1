"""What tests of records and trackers do with the tiny matrix; its finished store is a fixture of `conftest.py`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.matrix.matrix import Matrix
from bench.results import record
from bench.results.cells import read_cell
from bench.run.inline import Inline
from bench.run.progress import Silent
from bench.run.run_matrix import run_matrix
from bench.store.store import Store
from bench.store.work import Execution
from bench.tracking import tracker as track
from tests.wandb_stub import KEY, Wandb, serving

# Python reads this at its start: the mirror's process gives up sooner than it would for a server that is far away.
IMPATIENT = """
from bench.tracking import live_runs, wandb_run, wandb_server

wandb_run._RETRIES, wandb_run._LONGEST_WAIT_S, wandb_server.WAITS_S = 1, 0.5, (0.0, 0.2)
live_runs.EVERY_S, wandb_run.TRANSMIT_S = 0.2, 1.0
"""
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


def log_in(monkeypatch: pytest.MonkeyPatch, folder: Path, url: str) -> None:
    """Let W&B talk to a server on this machine, with settings of its own and little patience."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(IMPATIENT)
    for name, value in {"BASE_URL": url, "API_KEY": KEY, "CONFIG_DIR": str(folder)}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Wandb]:
    """A server that W&B talks to in this test."""
    with serving() as found:
        log_in(monkeypatch, tmp_path / "wandb-settings", found.url)
        yield found
