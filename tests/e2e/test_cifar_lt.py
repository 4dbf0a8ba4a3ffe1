"""The matrix `cifar-lt`, whole, on generated files of the official layout, and what of it has colour."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

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


def test_doctor_says_where_the_files_come_from(tmp_path: Path, bench: Bench) -> None:
    said = bench("doctor", "cifar-lt", "--set", f"datasets.0.root={tmp_path}", "--store", tmp_path / "store")
    assert said.code != 0
    assert "torchvision.datasets.CIFAR10(" in said.out
