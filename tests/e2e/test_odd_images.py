"""Pictures and synthetic images that are constant, or equal to others, are told: in counts, and by file in doctor."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.e2e.driver import Bench

LINE = "look at the images: folder: "


@pytest.fixture
def matrix(tmp_path: Path) -> Path:
    """48 pictures; those of the tail are black, and three of test are those of train under another name."""
    draw = np.random.default_rng(0)
    lines = ["path,who,part,a,b,c"]
    for i in range(48):
        tail = i % 6 == 0
        pixels = draw.integers(0, 200, (24, 24), dtype=np.uint8) * (not tail)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        part = "train" if i < 24 else "val" if i < 36 else "test"
        lines.append(f"{i}.png,p{i},{part},{i % 2},{i % 3 % 2},{int(tail)}")
    for i in (37, 38, 39):
        shutil.copy(tmp_path / f"{i - 36}.png", tmp_path / f"{i}.png")
    (tmp_path / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    dataset = {
        "kind": "folder",
        "csv": str(tmp_path / "labels.csv"),
        "image_px": 32,
        "n_tail": 1,
        "split_column": "part",
    }
    settings = {
        "name": "odd",
        "datasets": [dataset | {"patient_column": "who"}],
        "split": {"min_positives": 1},
        "augment": {"per_class": 3},
        "methods": ["baseline", "duplicate"],
        "classifier": {"architecture": "resnet18", "steps": 1, "batch_size": 8, "n_validations": 1},
        "fidelity": {"extractor": {"kind": "classifier"}},
        "scores": {"n_bootstrap": 20},
    }
    path = tmp_path / "odd.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def test_what_is_odd_is_told_wherever_the_numbers_are(bench: Bench, matrix: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    said = bench("run", matrix, "--store", store, "--wandb", "off", "--jobs", 1, "--quiet")
    assert said.code == 0, said.err
    told = [line.removeprefix(LINE) for line in said.err.splitlines() if line.startswith(LINE)]
    assert told == [
        "of 48 pictures as they were read, 8 constant",
        "3 pictures have exactly the pixels of another, 3 of one in another part of the split",
        "duplicate: of 3 synthetic images of c, 3 constant",
    ]
    notes = " ".join(bench("table", matrix, "--notes", "--store", store).out.split())
    assert all(f"Look at the images: {line}." in notes for line in told)
    described = bench("describe", matrix, "--store", store, "--json")
    assert json.loads(described.out)["odd"] == told[:2]
    doctor = " ".join(bench("doctor", matrix, "--store", store).out.split())
    assert "8 constant: row 2 (0.png), row 8 (6.png), row 14 (12.png) and 5 more" in doctor
    assert "3 equal to another: row 39 (37.png), row 40 (38.png), row 41 (39.png)" in doctor
    [record] = store.glob("cells/odd/folder__duplicate__s0/record.json")
    kept = json.loads(record.read_text())["stage_records"]
    assert kept["augmented/census"] == {
        "2": {"images": 3, "constant": 3, "nearly_black": 0, "nearly_white": 0, "bright_corners": 0}
    }
    assert kept["dataset-folder/census"]["constant"] == 8
