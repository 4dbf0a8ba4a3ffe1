"""The matrix `cifar-lt`, whole, on generated files of the official layout, and what of it has colour."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score

from bench.matrix.load import load_matrix
from bench.store.store import Store
from tests.cifar_files import cifar_files
from tests.e2e.driver import Bench

SMALL = {
    "datasets.0.imbalance_factor": 4,
    "split.min_positives": 1,
    "augment.per_class": 2,
    "methods": "[baseline, smote, {row: redrawn, method: sdedit@1}]",
    "diffusion": "{preset: tiny}",
    "classifier.steps": 2,
    "classifier.batch_size": 8,
    "seeds": "[0]",
}


def test_the_matrix_runs_on_files_of_the_official_layout(tmp_path: Path, bench: Bench) -> None:
    own = {"datasets.0.root": cifar_files(tmp_path / "files").parent}
    sets = [x for k, v in (SMALL | own).items() for x in ("--set", f"{k}={v}")]
    store = tmp_path / "store"
    said = bench("run", "cifar-lt", *sets, "--store", store, "--json", "--wandb", "off", "--jobs", "1")
    assert said.code == 0, said.err
    found = [(row["method"], row["state"], row["n_test"]) for row in json.loads(said.out)]
    assert found == [(name, "done", 60) for name in ("baseline", "smote", "redrawn")]
    made = [np.load(file) for file in store.glob("augmented/*/images.npy")]
    assert sorted(images.shape for images in made) == [(0, 32, 32, 3), (6, 32, 32, 3), (6, 32, 32, 3)]
    said = bench("report", "cifar-lt", *sets, "--store", store)
    assert said.code == 0, said.err

    cell, kept = load_matrix("cifar-lt", sets[1::2]).cells[1], Store(store)
    table, scores = kept.open(cell.dataset), kept.open(cell.scores)
    truth = table.labels[kept.open(cell.split)["test"]].argmax(axis=1)
    predicted = np.load(kept.folder(cell.scores) / "predictions.npy").argmax(axis=1)
    tail = np.isin(truth, [table.class_names.index(name) for name in table.tail])
    assert scores["accuracy_all"] == pytest.approx(accuracy_score(truth, predicted))
    assert scores["accuracy_tail"] == pytest.approx(accuracy_score(truth[tail], predicted[tail]))
    asked = ["table", "cifar-lt", *sets, "--store", store, "--metrics", "accuracy"]
    rows = {row["method"]: row for row in json.loads(bench(*asked, "--json").out)}
    assert rows["smote"]["accuracy_tail"] == scores["accuracy_tail"]
    assert f"{scores['accuracy_tail']:.3f}" in bench(*asked).out
    with (store / "reports" / "cifar-lt" / "table.csv").open(encoding="utf-8") as file:
        written = {row["method"]: row for row in csv.DictReader(file)}
    for name in ("accuracy_all", "accuracy_all_low", "accuracy_tail_high"):
        assert float(written["smote"][name]) == scores[name]
    assert "top-1 accuracy tail" in (store / "reports" / "cifar-lt" / "table.md").read_text(encoding="utf-8")


def test_doctor_says_where_the_files_come_from(tmp_path: Path, bench: Bench) -> None:
    said = bench("doctor", "cifar-lt", "--set", f"datasets.0.root={tmp_path}", "--store", tmp_path / "store")
    assert said.code != 0
    assert "torchvision.datasets.CIFAR10(" in said.out
