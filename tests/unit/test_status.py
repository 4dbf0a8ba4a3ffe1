"""What the store says of cells and stages, and why a stage would run."""

from __future__ import annotations

import fcntl
import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from bench.matrix import Matrix, build_matrix
from bench.stage import walk
from bench.status import differing, explain_rows, ls_rows, print_explain, print_ls, print_status, status_rows
from bench.store import Execution, Store
from tests.unit.tiny_cells import methods, tiny

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


@pytest.fixture
def half_done(store: Store) -> Matrix:
    found = matrix()
    compute(store, found, "dataset-phantom", "split", "train")
    return found


def rendered(printer: Any, *args: Any) -> str:
    text = io.StringIO()
    printer(*args, Console(file=text, width=200))
    return text.getvalue()


def test_an_empty_store_has_only_missing_cells(store: Store) -> None:
    rows = status_rows(matrix(), store)
    assert [(r["cell"], r["state"], r["done"]) for r in rows] == [
        ("phantom/baseline/s0", "missing", 0),
        ("phantom/copies@1/s0", "missing", 0),
    ]
    assert not store.root.exists()
    assert ls_rows(store) == []


def test_a_running_stage_shows_how_far_it_is(store: Store, half_done: Matrix) -> None:
    stage = half_done.cells[1].augmented
    work = store.root / "augmented" / f"{stage.key}.work"
    work.mkdir(parents=True)
    (work / "progress.json").write_text('{"done": 1, "total": 4, "note": "x"}', encoding="utf-8")
    with open(store.root / "locks" / stage.key, "w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        rows = status_rows(half_done, store)
        explained = {r["stage"]: r for r in explain_rows(half_done.cells[1], store)}
    assert [(r["state"], r["note"]) for r in rows] == [("missing", ""), ("running", "augmented 25%")]
    assert explained["augmented"]["action"] == "wait"
    assert status_rows(half_done, store)[1]["state"] == "missing"


def test_a_failed_stage_fails_the_cells_that_need_it_and_no_others(store: Store, half_done: Matrix) -> None:
    store.record_failure(half_done.cells[1].augmented, ValueError("no [bold]luck[/]"))
    rows = status_rows(half_done, store)
    assert [(r["state"], r["note"]) for r in rows] == [("missing", ""), ("failed", "ValueError: no [bold]luck[/]")]
    assert "ValueError: no [bold]luck[/]" in rendered(print_status, rows)
    assert "1 failed, 1 missing" in rendered(print_status, rows)
    explained = {r["stage"]: r for r in explain_rows(half_done.cells[1], store)}
    assert explained["augmented"]["action"] == "stop"
    assert "ValueError: no [bold]luck[/] (--retry-failed tries again)" in explained["augmented"]["why"]


def test_explain_tells_what_is_reused_and_in_what_the_rest_differs(store: Store, half_done: Matrix) -> None:
    changed = matrix(split={"val": 0.25, "test": 0.3, "min_positives": 1})
    rows = {r["stage"]: r for r in explain_rows(changed.cells[0], store)}
    assert rows["dataset-phantom"]["action"] == "reuse"
    assert rows["split"]["why"] == "nearest finished one differs in settings.val: 0.3 → 0.25"
    assert rows["train"]["why"] == "nearest finished one differs in split (input split)"
    assert rows["classifier"]["why"] == "never computed here"
    text = rendered(print_explain, changed.cells[0], list(rows.values()))
    assert text.startswith(f"phantom/baseline/s0  (key {changed.cells[0].key})")
    assert "settings.val: 0.3 → 0.25" in text


def test_ls_lists_what_is_finished_with_its_size(store: Store, half_done: Matrix) -> None:
    rows = ls_rows(store)
    assert {r["stage"] for r in rows} == {"dataset-phantom", "split", "train"}
    assert all(r["bytes"] > 0 and r["seconds"] >= 0 for r in rows)
    assert "3 stages" in rendered(print_ls, rows)


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
        ({"m": {"code": "x"}}, {"m": {"code": "y"}}, ["m code"]),
        ({"i": {"stage": "t", "key": "1"}}, {"i": {"stage": "t", "key": "2"}}, ["i (input t)"]),
        ({"l": [1, 2]}, {"l": [1, 3]}, ["l: [1, 2] → [1, 3]"]),
    ],
)
def test_differences_are_named_by_their_path(old: Any, new: Any, told: list[str]) -> None:
    assert differing(old, new) == told
