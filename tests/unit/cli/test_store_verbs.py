"""`bench ls`, `verify` and `gc` as a person or a script uses them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from bench.cli.main import app
from bench.errors import ConfigError
from bench.matrix.load import load_matrix
from bench.matrix.matrix import Matrix
from bench.store.store import Store
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture

pytestmark = pytest.mark.usefixtures("methods")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


@pytest.fixture
def files(tmp_path: Path, store: Store) -> dict[str, Path]:
    """Two matrices that share a data set but not its split, with splits and training sets in the store, all old."""
    paths = {}
    for name, val in (("one", 0.3), ("two", 0.25)):
        raw = tiny(split={"val": val, "test": 0.3, "min_positives": 1}, name=name)
        paths[name] = tmp_path / f"{name}.yaml"
        paths[name].write_text(yaml.safe_dump(raw), encoding="utf-8")
        store.get(train(load_matrix(paths[name])))
    for path in store.root.rglob("*"):
        os.utime(path, (0, 0))
    return paths


def train(matrix: Matrix) -> Any:
    return matrix.cells[0].augmented.train


def bench(*arguments: Any) -> Result:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_gc_shows_and_removes_nothing_unless_told(store: Store, files: dict[str, Path]) -> None:
    shown = bench("gc", files["one"], "--store", store.root)
    assert shown.exit_code == 0
    assert "would remove 2 items" in shown.stdout
    assert "nothing was removed: --yes removes them" in shown.stdout
    assert "3 of the" in shown.stderr
    assert len(list(store.manifests())) == 5
    assert bench("gc", files["one"], "--yes", "--dry-run", "--store", store.root).exit_code == 0
    assert len(list(store.manifests())) == 5


def test_gc_removes_what_no_named_matrix_stands_on(store: Store, files: dict[str, Path]) -> None:
    done = bench("gc", files["one"], "--yes", "--json", "--store", store.root)
    told = json.loads(done.stdout)
    assert told["removed"] is True
    assert sorted(i["stage"] for i in told["items"]) == ["split", "train"]
    assert told["bytes"] == sum(i["bytes"] for i in told["items"]) > 0
    assert [store.has(train(load_matrix(p))) for p in files.values()] == [True, False]
    assert bench("gc", *files.values(), "--yes", "--json", "--store", store.root).exit_code == 0


def test_gc_with_changes_keeps_the_file_as_it_is_too(store: Store, files: dict[str, Path]) -> None:
    done = bench("gc", files["one"], "--set", "split.val=0.25", "--json", "--store", store.root)
    assert json.loads(done.stdout)["items"] == []


def test_gc_refuses_a_kind_that_is_none(store: Store, files: dict[str, Path]) -> None:
    refused = bench("gc", files["one"], "--keep", "classifer", "--store", store.root)
    assert isinstance(refused.exception, ConfigError)
    assert str(refused.exception).startswith(
        "--keep classifer: no such kind of stage; did you mean 'classifier'? (have:"
    )
    assert bench("gc", files["one"], "--keep", "classifier", "--store", store.root).exit_code == 0


def test_gc_options_keep_more(store: Store, files: dict[str, Path]) -> None:
    kept = bench("gc", files["one"], "--keep", "split", "--json", "--store", store.root)
    assert [i["stage"] for i in json.loads(kept.stdout)["items"]] == ["train"]
    for option in (("--older-than", 40_000), ("--grace", 960_000)):
        assert json.loads(bench("gc", files["one"], *option, "--json", "--store", store.root).stdout)["items"] == []


@pytest.mark.parametrize("arguments", [(), ("--yes",), ("no-such-matrix", "--yes"), ("--sweep", "no-such", "--yes")])
def test_gc_without_a_name_that_is_known_removes_nothing(
    store: Store, files: dict[str, Path], arguments: tuple[str, ...]
) -> None:
    done = bench("gc", *arguments, "--store", store.root)
    assert isinstance(done.exception, ConfigError)
    assert "\n" not in str(done.exception)
    assert len(list(store.manifests())) == 5


def test_verify_finds_removes_and_the_next_look_is_clean(store: Store, files: dict[str, Path]) -> None:
    whole = bench("verify", "--store", store.root)
    assert (whole.exit_code, "5 stages" in whole.stdout, "all whole" in whole.stdout) == (0, True, True)
    stage = train(load_matrix(files["two"]))
    next(store.folder(stage).glob("*.npy")).write_bytes(b"")
    assert bench("verify", files["one"], "--store", store.root).exit_code == 0
    found = bench("verify", files["two"], "--json", "--store", store.root)
    assert found.exit_code == 1
    assert [(d["key"], d["problem"]) for d in json.loads(found.stdout)["damage"]] == [(stage.key, "changed")]
    assert "--delete" in found.stderr
    gone = bench("verify", "--delete", "--json", "-j", 2, "--store", store.root)
    assert (gone.exit_code, json.loads(gone.stdout)["removed"]) == (1, [stage.key])
    assert not store.has(stage)
    assert bench("verify", "--store", store.root).exit_code == 0


def test_ls_tells_sizes_by_kind(store: Store, files: dict[str, Path]) -> None:
    rows = json.loads(bench("ls", "--size", "--json", "--store", store.root).stdout)
    assert {r["stage"]: r["count"] for r in rows} == {"dataset-phantom": 1, "split": 2, "train": 2}
    assert rows[0]["stage"] == "dataset-phantom", "the largest first"
    text = bench("ls", "--size", "--store", store.root).stdout
    assert "5 stages" in text
    assert "MiB in all" in text


@pytest.fixture
def named(tmp_path: Path) -> list[tuple[str, ...]]:
    """Return the verbs that tell or change what is in a store, each with its arguments."""
    matrix = tmp_path / "tiny.yaml"
    matrix.write_text(yaml.safe_dump(tiny()), encoding="utf-8")
    of_matrix = [(verb, str(matrix)) for verb in ("verify", "gc", "cancel")]
    return [("ls",), ("ls", "--size"), ("verify",), *of_matrix, (*of_matrix[1], "--yes")]


def test_an_empty_store_is_no_error(store: Store, named: list[tuple[str, ...]]) -> None:
    store.root.mkdir()
    for arguments in named:
        assert bench(*arguments, "--store", store.root).exit_code == 0
    assert not list(store.root.iterdir())


def test_a_store_that_is_not_there_is_not_taken_for_a_whole_one(store: Store, named: list[tuple[str, ...]]) -> None:
    for arguments in named:
        done = bench(*arguments, "--store", store.root)
        assert isinstance(done.exception, ConfigError), arguments
        assert str(done.exception).startswith(f"--store {store.root}: there is no store; give the folder that")
        assert done.stdout == ""
    assert not store.root.exists()
