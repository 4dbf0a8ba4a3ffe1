"""What the store says of cells and stages, and why a stage would run."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from bench.matrix.build import build_matrix
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage, unfinished, walk
from bench.run.explain import differing, explain_rows
from bench.run.status import ls_rows, status_rows
from bench.store.store import Store
from bench.store.submissions import Ledger
from bench.store.work import Execution
from tests.tiny_cells import methods, tiny

__all__ = ["methods"]
pytestmark = pytest.mark.usefixtures("methods")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def matrix(**changes: Any) -> Matrix:
    return build_matrix(tiny(**changes), "tiny.yaml")


def compute(store: Store, matrix: Matrix, *names: str) -> None:
    for cell in matrix.cells:
        for stage in walk(cell.targets):
            if stage.stage_name() in names:
                store.get(stage, Execution(device="cpu"))


def fail(store: Store, stage: Stage, error: Exception) -> None:
    """Record a failure with a traceback."""
    try:
        raise error
    except Exception as caught:
        store.record_failure(stage, caught)


@pytest.fixture
def half_done(store: Store) -> Matrix:
    found = matrix()
    compute(store, found, "dataset-phantom", "split", "train")
    return found


def test_an_empty_store_has_only_missing_cells(store: Store) -> None:
    rows = status_rows(matrix(), store)
    assert [(r["cell"], r["state"], r["done"]) for r in rows] == [
        ("phantom/baseline/s0", "missing", 0),
        ("phantom/copies@1/s0", "missing", 0),
    ]
    assert not store.root.exists()
    assert ls_rows(store) == []


@contextmanager
def held(store: Store, stage: Stage, done: int | None = None, **facts: Any) -> Iterator[None]:
    """Hold a stage as a process that computes it does, `done` of four steps behind it."""
    claim = store.locks.try_claim(stage.key, facts)
    assert claim is not None
    try:
        if done is not None:
            work = store.root / stage.stage_name() / f"{stage.key}.work"
            work.mkdir(parents=True, exist_ok=True)
            (work / "progress.json").write_text(json.dumps({"done": done, "total": 4, "note": "x"}), encoding="utf-8")
        yield
    finally:
        claim.release()


def test_a_running_stage_shows_who_is_at_it_how_far_it_is_and_how_long_it_will_take(
    store: Store, half_done: Matrix
) -> None:
    stage = half_done.cells[1].augmented
    since = (datetime.now(UTC) - timedelta(seconds=100)).isoformat()
    with held(store, stage, done=1, since=since, job="12_3", host="node7", pid=4):
        _, row = status_rows(half_done, store)
        explained = {r["stage"]: r for r in explain_rows(half_done.cells[1], store)}
    assert row["state"] == "running"
    assert re.fullmatch(r"augmented running on node7, pid 4, job 12_3, 25 %, about 5 min \d+ s left", row["note"]), row[
        "note"
    ]
    [found] = row["running"]
    assert (found["key"], found["host"], found["job"], found["share"]) == (stage.key, "node7", "12_3", 0.25)
    assert found["eta_s"] == pytest.approx(300, abs=6)
    assert row["waits_for"] == []
    assert explained["augmented"]["action"] == "wait"
    assert "node7" in explained["augmented"]["why"]
    assert status_rows(half_done, store)[1]["state"] == "missing"


def test_a_running_stage_that_has_told_nothing_is_only_running(store: Store, half_done: Matrix) -> None:
    with held(store, half_done.cells[1].augmented):
        row = status_rows(half_done, store)[1]
    assert re.fullmatch(r"augmented running on \S+, pid \d+", row["note"])
    assert row["running"][0]["share"] is None


def test_a_missing_cell_says_what_it_waits_for_or_that_it_is_ready(store: Store) -> None:
    found = matrix()
    assert status_rows(found, store)[0]["note"] == "ready: dataset-phantom"
    with held(store, found.cells[0].dataset, done=2):
        rows = status_rows(found, store)
    assert [r["state"] for r in rows] == ["missing", "missing"]
    for row in rows:
        assert row["note"].startswith(f"waits for dataset-phantom {found.cells[0].dataset.key[:8]} (running on ")
        assert ", 50 %" in row["note"]
        assert row["ready"] == []
    compute(store, found, "dataset-phantom", "split", "train")
    assert status_rows(found, store)[0]["note"] == "ready: augmented, realfeatures"


def test_what_was_handed_to_slurm_and_has_not_begun_is_waited_for(store: Store, half_done: Matrix) -> None:
    stage = half_done.cells[1].augmented
    Ledger(store).add({stage.key: "77_0", half_done.cells[0].dataset.key: "76"})
    row = status_rows(half_done, store)[1]
    assert row["note"] == f"waits for augmented {stage.key[:8]} (submitted as job 77_0)"
    assert [r["stage"] for r in row["ready"]] == ["realfeatures"]
    explained = {r["stage"]: r for r in explain_rows(half_done.cells[1], store)}
    assert (explained["augmented"]["action"], explained["augmented"]["why"]) == ("wait", "submitted as job 77_0")
    assert explained["dataset-phantom"]["action"] == "reuse"


def test_a_failed_stage_fails_the_cells_that_need_it_and_no_others(store: Store, half_done: Matrix) -> None:
    fail(store, half_done.cells[1].augmented, ValueError("no [bold]luck[/]\nat all"))
    rows = status_rows(half_done, store)
    assert [r["state"] for r in rows] == ["missing", "failed"]
    assert rows[1]["note"] == "ValueError: no [bold]luck[/] at all"
    explained = {r["stage"]: r for r in explain_rows(half_done.cells[1], store)}
    assert explained["augmented"]["action"] == "stop"
    assert "(--retry-failed tries again)" in explained["augmented"]["why"]
    assert "in fail\n    raise error\nValueError: no [bold]luck[/]\nat all" in explained["augmented"]["traceback"]


def test_a_failure_of_the_machine_is_said_to_be_tried_again(store: Store, half_done: Matrix) -> None:
    fail(store, half_done.cells[1].augmented, MemoryError("no room"))
    found = {r["stage"]: r for r in explain_rows(half_done.cells[1], store)}["augmented"]
    assert (found["action"], found["state"]) == ("run", "failed")
    assert "MemoryError: no room (the next run tries again)" in found["why"]


def test_a_failure_below_what_is_finished_fails_nothing(store: Store, half_done: Matrix) -> None:
    shutil.rmtree(store.folder(half_done.cells[0].dataset))
    fail(store, half_done.cells[0].dataset, ValueError("gone"))
    assert [s.stage_name() for s in unfinished([half_done.cells[0].augmented.train], store)] == []
    assert status_rows(half_done, store)[0]["state"] == "failed"  # the classifier would read the images again


def test_explain_tells_what_is_reused_and_in_what_the_rest_differs(store: Store, half_done: Matrix) -> None:
    changed = matrix(split={"val": 0.25, "test": 0.3, "min_positives": 1})
    rows = {r["stage"]: r for r in explain_rows(changed.cells[0], store)}
    assert rows["dataset-phantom"]["action"] == "reuse"
    assert rows["split"]["why"] == "nearest finished one differs in settings.val: 0.3 → 0.25"
    assert rows["train"]["why"] == "nearest finished one differs in split (input split)"
    assert rows["classifier"]["why"] == "never computed here"


def test_explain_names_the_module_that_was_another_when_a_result_was_made(store: Store, half_done: Matrix) -> None:
    path = store.folder(half_done.cells[0].split) / "manifest.json"
    made = json.loads(path.read_text(encoding="utf-8"))
    made["identity"]["code"]["bench.data.split"] = "0123456789abcdef"
    path.rename(path.with_name("moved.json"))  # what other code made lies under another key
    other = path.parent.with_name("0" * 32)
    path.parent.rename(other)
    (other / "manifest.json").write_text(json.dumps(made), encoding="utf-8")
    rows = {r["stage"]: r for r in explain_rows(half_done.cells[0], store)}
    assert (rows["split"]["action"], rows["split"]["why"]) == (
        "run",
        "nearest finished one differs in its code (bench.data.split)",
    )


def test_ls_lists_what_is_finished_with_its_size(store: Store, half_done: Matrix) -> None:
    rows = ls_rows(store)
    assert {r["stage"] for r in rows} == {"dataset-phantom", "split", "train"}
    assert all(r["bytes"] > 0 and r["seconds"] >= 0 for r in rows)


def test_a_damaged_manifest_stops_neither_status_nor_ls(store: Store, half_done: Matrix) -> None:
    train = half_done.cells[0].augmented.train
    (store.folder(train) / "manifest.json").write_text("{", encoding="utf-8")
    assert len(ls_rows(store)) == 2
    assert [r["state"] for r in status_rows(half_done, store)] == ["missing", "missing"]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: 1 → 2"]),
        ({"a": 1}, {"a": 1, "c": 2}, ["c: None → 2"]),
        ({"code": "x"}, {"code": "y"}, ["its code"]),
        ({"code": "x"}, {"code": {"a.b": "1"}}, ["its code"]),  # made before codes were told by module
        ({"code": {"a": "1", "b": "1", "c": "1"}}, {"code": {"a": "1", "b": "2", "d": "1"}}, ["its code (b, c, d)"]),
        ({"i": {"stage": "t", "key": "1"}}, {"i": {"stage": "t", "key": "2"}}, ["i (input t)"]),
        ({"l": [1, 2]}, {"l": [1, 3]}, ["l: [1, 2] → [1, 3]"]),
    ],
)
def test_differences_are_named_by_their_path(old: Any, new: Any, told: list[str]) -> None:
    assert differing(old, new) == told
