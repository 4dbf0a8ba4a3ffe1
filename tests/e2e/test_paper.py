"""The paper's own matrices, whole, on generated trees of the downloads' shape with the tiny diffusion model."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.data.kinds.cxr_lt.releases import PAPER_TAIL
from bench.matrix.load import SHIPPED, load_matrix
from bench.store.store import Store
from tests.conftest import BENCH, ROOT
from tests.cxr_lt_trees import HEAD, Tree, mimic_tree, nih_tree
from tests.e2e.driver import Bench

ROWS = ["baseline", "duplicate", "smote", "roentgen@75", "ours@0", "ours@1", "ours@5"]
SMALL = {
    "datasets.0.image_px": 64,
    "datasets.0.limit": "null",
    "split.min_positives": 1,
    "diffusion": "{preset: tiny}",
    "augment.per_class": 2,
    "settings.ours.codec.generations": 2,
    "settings.ours.codec.width": 8,
    "settings.ours.codec.downsamplings": 2,
    "settings.ours.codec.batch_size": 64,
    "settings.ours.codec.classifier": "conv",
    "classifier.architecture": "resnet18",
    "classifier.epochs": 1,
    "classifier.image_px": 32,
    "classifier.n_validations": 1,
    "scores.n_bootstrap": 20,
    "seeds": "[0]",
}


@dataclass(frozen=True)
class Run:
    """A matrix that ran, and all that it was told."""

    tree: Tree
    store: Path
    sets: list[str]
    said: subprocess.CompletedProcess[str]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table."""
        return json.loads(self.said.stdout)


def run(name: str, tree: Tree, store: Path, **others: object) -> Run:
    """Run a shipped matrix on a tree, in a process of its own."""
    paths = {"datasets.0.root": tree.root, "datasets.0.labels": tree.labels}
    given = paths | SMALL | others
    if "ours" not in str(given.get("methods", "ours")):
        given = {k: v for k, v in given.items() if not k.startswith("settings.ours.")}
    sets = [x for k, v in given.items() for x in ("--set", f"{k}={v}")]
    command = [*BENCH, "run", name, *sets, "--store", str(store), "--json", "--wandb", "off", "--jobs", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    said = subprocess.run(command, cwd=store.parent, capture_output=True, text=True, env=environment, check=False)
    assert said.returncode == 0, said.stderr[-3000:]
    return Run(tree, store, sets, said)


@pytest.fixture(scope="module")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The matrix `paper` on a tree of MIMIC-CXR-LT whose label files lie beside the pictures."""
    folder = tmp_path_factory.mktemp("paper")
    tree = mimic_tree(folder, n_patients=40, prefixes=("files/", ""))
    (tree.labels / "miccai-2023_mimic-cxr-lt").rename(tree.root / "miccai-2023_mimic-cxr-lt")
    return run("paper", tree, folder / "store", **{"datasets.0.labels": "null"})


def test_the_table_has_the_six_rows_and_the_control(paper: Run) -> None:
    assert [row["method"] for row in paper.rows] == ROWS
    for row in paper.rows:
        assert row["state"] == "done", row["reason"]
        assert row["n_test"] == len(paper.tree.part("test"))
        assert 0 < row["map_tail"] <= 1
        assert 0 < row["map_head"] <= 1
        assert (row["fid_tail"] is None) == (row["method"] == "baseline")
        assert row["n_synthetic"] == (0 if row["method"] == "baseline" else 2 * len(PAPER_TAIL))


def test_the_rows_are_counted_on_the_papers_classes_and_the_releases_parts(paper: Run) -> None:
    cell = load_matrix("paper", paper.sets[1::2]).cells[0]
    store = Store(paper.store)
    table, parts = store.open(cell.dataset), store.open(cell.split)
    assert set(table.head) == set(HEAD)
    assert set(table.tail) == set(PAPER_TAIL)
    for part in ("train", "val", "test"):
        mine = paper.tree.part(part)
        counts = dict(zip(table.class_names, table.labels[parts[part]].sum(axis=0), strict=True))
        assert counts == {name: sum(r[name] for r in mine) for name in counts}


def test_the_table_names_what_was_chosen_where_the_paper_is_silent(paper: Run, bench: Bench) -> None:
    said = bench("table", "paper", "--notes", *paper.sets, "--store", paper.store)
    assert said.code == 0, said.err
    table = " ".join(said.out.split())
    head, tail = (table.partition(f"{name} classes: ")[2].partition(".")[0] for name in ("Head", "Tail"))
    assert set(head.split(", ")) == set(HEAD)
    assert set(tail.split(", ")) == set(PAPER_TAIL)
    own = "(train / val / test, the data set's own split) at 64 px (release 1.1.0-19, views AP and PA, all patients)"
    for words in (
        own,
        "138.963",
        "from random weights",
        "Diffusion model: preset tiny, tiny (sha256",
        "that extractor is the baseline",
    ):
        assert words in table


def test_what_is_finished_is_not_run_again(paper: Run, bench: Bench) -> None:
    said = bench("run", "paper", *paper.sets, "--store", paper.store, "--json", "--wandb", "off")
    assert said.code == 0, said.err
    assert json.loads(said.out) == paper.rows
    assert "nothing to compute" in said.err


def test_the_public_data_set_has_its_matrix(tmp_path: Path) -> None:
    tree = nih_tree(tmp_path, packed=True, n_patients=40)
    found = run("paper-nih", tree, tmp_path / "store", methods="[baseline, roentgen@2]")
    assert [(row["method"], row["state"]) for row in found.rows] == [("baseline", "done"), ("roentgen@2", "done")]
    cell = load_matrix("paper-nih", found.sets[1::2]).cells[0]
    table = Store(found.store).open(cell.dataset)
    counts = {name: sum(r[name] for r in tree.part("train")) for name in table.class_names}
    assert len(table.head) == len(table.tail) == 5
    assert max(counts[c] for c in table.tail) <= min(counts[c] for c in table.head)
    assert cell.dataset.sharing == "open"


@pytest.mark.parametrize("name", ["paper", "paper-nih"])
def test_what_ships_is_the_papers_scale(name: str) -> None:
    given = yaml.safe_load((SHIPPED / f"{name}.yaml").read_text(encoding="utf-8"))
    assert given["methods"] == ROWS
    assert len(given["seeds"]) >= 3
    assert given["datasets"][0]["image_px"] == 512
    assert given["classifier"]["image_px"] == 224
    assert given["classifier"]["architecture"] == "densenet121"
