"""A store in which the tiny matrix has run, made once for all tests of records and trackers."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.matrix.build import build_matrix
from bench.matrix.matrix import Matrix
from bench.store.store import Store
from bench.tracking import tracker as track
from tests import tiny_cells
from tests.tiny_cells import tiny
from tests.track_fixtures import run


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """A store in which the tiny matrix has run; nobody changes it."""
    store = Store(tmp_path_factory.mktemp("store"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "bench.plugins.registry.methods", lambda: {"baseline": tiny_cells.Baseline, "copies": tiny_cells.Copies}
        )
        run(build_matrix(tiny(), "tiny"), store, track.make_tracker("off", store, build_matrix(tiny(), "tiny")))
    return store


@pytest.fixture
def place(finished: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Store, Matrix]:
    """A copy of the finished store without records, and its matrix."""
    monkeypatch.setattr(
        "bench.plugins.registry.methods", lambda: {"baseline": tiny_cells.Baseline, "copies": tiny_cells.Copies}
    )
    shutil.copytree(finished.root, tmp_path / "store", ignore=shutil.ignore_patterns("cells", "wandb"))
    return Store(tmp_path / "store"), build_matrix(tiny(), "tiny")
