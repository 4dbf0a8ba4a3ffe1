"""The local record of a cell: complete, left alone while it holds, and always of today's terms."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import StoreError
from bench.matrix.build import build_matrix
from bench.matrix.load import read_yaml
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import walk
from bench.privacy import border
from bench.results import record
from bench.results.cells import read_cell, read_matrix
from bench.store.store import Store
from bench.tracking import tracker as track
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import run, tell


def test_a_run_leaves_a_complete_record_of_every_cell(finished: Store, methods: None) -> None:  # noqa: F811
    matrix = build_matrix(tiny(), "tiny")
    for cell in matrix.cells:
        found = record.read_record(record.record_folder(finished, cell))
        assert found is not None
        assert (found["state"], found["key"], found["cell"]) == ("done", cell.key, cell.name)
        assert set(found["stages"]) == {s.key for s in walk(list(cell.targets))}
        assert all(s["state"] == "done" and s["seconds"] >= 0 for s in found["stages"].values())
        assert found["seeds"]["classifier"] == cell.classifier.seed
        assert found["versions"]["torch"]
        assert len(found["history"]) == 2
        assert found["scores"]["n_test"] > 0
    assert not (finished.root / "wandb").exists()  # --wandb off


def test_the_resolved_configuration_builds_the_same_cell(finished: Store, methods: None) -> None:  # noqa: F811
    matrix = build_matrix(tiny(), "tiny")
    for cell in matrix.cells:
        raw = read_yaml(record.record_folder(finished, cell) / "resolved.yaml")
        again = build_matrix(raw, "resolved.yaml")
        assert [c.key for c in again.cells] == [cell.key]
        assert again.cells[0].method == cell.method
        assert record.resolved(again.settings, again.cells) == raw
        assert raw["classifier"]["learning_rate"] == matrix.settings.classifier.learning_rate  # a default, written out
    both = yaml.safe_load(yaml.safe_dump(record.resolved(matrix.settings, matrix.cells)))
    assert [c.key for c in build_matrix(both, "x").cells] == [c.key for c in matrix.cells]


def test_a_record_of_the_same_results_is_not_touched(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    cell = matrix.cells[0]
    folder = record.write_record(store, matrix, cell, read_cell(cell, store), {"commit": "old", "dirty": False})
    before = (folder / "record.json").stat().st_mtime_ns
    record.write_record(store, matrix, cell, read_cell(cell, store), {"commit": "new", "dirty": False})
    assert (folder / "record.json").stat().st_mtime_ns == before
    assert record.read_record(folder)["git"]["commit"] == "old"
    (folder / "record.json").write_text("{ torn")
    record.write_record(store, matrix, cell, read_cell(cell, store), {"commit": "new", "dirty": False})
    assert record.read_record(folder)["git"]["commit"] == "new"


def test_a_failed_cell_is_recorded_with_its_reason_and_not_mirrored(tmp_path: Path, methods: None) -> None:  # noqa: F811
    matrix = build_matrix(tiny(methods=["copies@1"], settings={"copies": {"fails": True}}), "tiny")
    store, said = Store(tmp_path), []
    run(matrix, store, track.make_tracker("offline", store, matrix, said.append))
    found = record.read_record(record.record_folder(store, matrix.cells[0]))
    assert found["state"] == "failed"
    assert "asked to fail" in found["failure"]["error"]
    assert found["scores"] is None
    assert not list(tmp_path.glob("wandb/offline-run-*"))
    assert said == []


def test_what_was_open_when_it_ran_and_no_longer_is_does_not_leave(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, matrix = place
    cell = matrix.cells[1]
    folder = record.write_record(store, matrix, cell, read_cell(cell, store), {"commit": "old", "dirty": False})
    assert record.read_record(folder)["sharing"] == "open"
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")
    cell = build_matrix(tiny(), "tiny").cells[1]
    record.write_record(store, matrix, cell, read_cell(cell, store), {"commit": "new", "dirty": False})
    found = record.read_record(folder)
    assert (found["sharing"], found["git"]["commit"]) == ("credentialed", "old")
    assert set(border.payload(found, store.root, folder=folder).media) == {"per_class"}


def test_what_w_and_b_was_given_while_it_was_open_is_said(place: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store, matrix = place
    tell(track.make_tracker("offline", store, matrix), matrix, store)
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")
    matrix, said = build_matrix(tiny(), "tiny"), []
    tell(track.make_tracker("offline", store, matrix, said.append), matrix, store)
    assert len(said) == 1
    assert "was given pictures of phantom/baseline/s0, phantom/copies@1/s0 while these data were said to be" in said[0]
    runs = sorted(store.root.glob("wandb/offline-run-*"))
    pictures = [r for r in runs if list(r.rglob("*.png"))]
    assert (len(runs), len(pictures)) == (4, 1)  # each once more, without
    tell(track.make_tracker("offline", store, matrix, said.append), matrix, store)
    assert len(said) == 1
    assert sorted(store.root.glob("wandb/offline-run-*")) == runs


def test_a_cut_off_record_of_a_stage_is_named_in_one_line(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    cell = matrix.cells[1]
    (store.folder(cell.augmented) / "notes.json").write_text('{\n "a": "cut o')
    with pytest.raises(StoreError, match=rf"{cell.augmented.key} cannot be read \(notes\.json: .*delete it"):
        record.write_record(store, matrix, cell, read_cell(cell, store), None)


def test_git_state_tells_commit_and_changes(tmp_path: Path) -> None:
    assert record.git_state(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    clean = record.git_state(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert record.git_state(tmp_path) == clean | {"dirty": True}


def test_json_never_holds_nan() -> None:
    found = record.finite({"a": float("nan"), "b": [float("inf"), 1.5, None, True], 3: Path("x")})
    assert found == {"a": None, "b": [None, 1.5, None, True], "3": "x"}


def test_a_run_reads_a_finished_cell_once_and_an_unfinished_one_again(
    place: tuple[Store, Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, matrix = place
    lost = matrix.cells[-1]
    shutil.rmtree(store.folder(lost.scores))
    tracker = track.make_tracker("off", store, matrix)
    for cell in matrix.cells:
        tracker.cell_ended(cell)
    fresh = read_matrix(matrix, store)
    opened: list[str] = []
    monkeypatch.setattr(Store, "open", lambda self, stage, was=Store.open: opened.append(stage.key) or was(self, stage))
    found = read_matrix(matrix, store, tracker.finished)
    assert [(r.cell.name, r.state, r.scores, r.history) for r in found] == [
        (r.cell.name, r.state, r.scores, r.history) for r in fresh
    ]
    assert found[-1].state == "missing"
    assert set(opened) <= {stage.key for stage in walk(list(lost.targets))}
    assert opened
