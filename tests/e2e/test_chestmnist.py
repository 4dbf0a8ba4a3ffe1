"""The matrix `chestmnist`, whole, on a generated file of the documented layout with the tiny diffusion model."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from bench.matrix.load import SHIPPED
from tests.e2e.driver import Bench
from tests.e2e.test_paper import ROWS, SMALL
from tests.medmnist_files import medmnist_file


def test_the_matrix_runs_on_a_file_of_the_documented_layout(tmp_path: Path, bench: Bench) -> None:
    file = medmnist_file(tmp_path / "files", n=(80, 60, 40))
    # All seven rows take a minute and a half. These are one of each kind.
    rows = ["baseline", "smote", "roentgen@2", "ours@1"]
    own = {
        "methods": f"[{', '.join(rows)}]",
        "datasets.0.root": file.parent,
        "classifier.steps": 2,
        "classifier.batch_size": 8,
        "classifier.epochs": "null",
    }
    sets = [x for k, v in (SMALL | own).items() for x in ("--set", f"{k}={v}")]
    store = tmp_path / "store"
    said = bench("run", "chestmnist", *sets, "--store", store, "--json", "--wandb", "off", "--jobs", "1")
    assert said.code == 0, said.err
    found = [(row["method"], row["state"], row["n_test"]) for row in json.loads(said.out)]
    assert found == [(name, "done", 40) for name in rows]


def test_doctor_says_where_the_file_and_the_diffusion_model_come_from(tmp_path: Path, bench: Bench) -> None:
    said = bench("doctor", "chestmnist", "--set", f"datasets.0.root={tmp_path}", "--store", tmp_path / "store")
    assert said.code != 0
    assert "pip install medmnist" in said.out
    assert "size=64" in said.out
    assert "bench pretrain diffusion" in said.out


def test_it_ships_with_seven_rows_at_64_pixels() -> None:
    given = yaml.safe_load((SHIPPED / "chestmnist.yaml").read_text(encoding="utf-8"))
    assert given["methods"] == ROWS
    assert given["datasets"][0]["image_px"] == 64
