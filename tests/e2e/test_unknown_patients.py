"""A list without patients: no table, page or description may count patients, and what looks like them is told."""

from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.e2e.driver import Bench
from tests.pictures import write_png

N = 36
MATRIX = {
    "name": "mine",
    "split": {"min_positives": 1},
    "augment": {"per_class": 2},
    "methods": ["baseline", "duplicate"],
    "classifier": {"steps": 1, "architecture": "resnet18", "n_validations": 1},
    "fidelity": {"extractor": {"kind": "classifier"}},
    "scores": {"n_bootstrap": 50},
}


def write(folder: Path, **settings: str) -> Path:
    """Write pictures, a list with three pictures of each patient and an age, and a matrix; return the matrix."""
    for i in range(N):
        write_png(folder / f"{i}.png", np.random.default_rng(i).integers(0, 256, (32, 32), dtype=np.uint8))
    rows = [f"{i}.png,s{i // 3},{30 + i % 7},{i % 2},{int(i % 3 == 0)},{int(i % 5 == 0)}" for i in range(N)]
    (folder / "labels.csv").write_text("\n".join(["path,subject_id,days,a,b,c", *rows]), encoding="utf-8")
    dataset = {"kind": "folder", "csv": "labels.csv", "image_px": 32} | settings
    (folder / "mine.yaml").write_text(yaml.safe_dump(MATRIX | {"datasets": [dataset]}), encoding="utf-8")
    return folder / "mine.yaml"


@pytest.mark.parametrize("known", [False, True])
def test_a_report_speaks_of_patients_only_if_they_are_known(bench: Bench, tmp_path: Path, known: bool) -> None:
    path = write(tmp_path, **({"patient_column": "subject_id"} if known else {}))
    store = ("--store", tmp_path / "store")
    assert bench("run", path, *store, "--wandb", "off", "--jobs", 1).code == 0
    assert bench("report", path, *store).code == 0
    folder = tmp_path / "store" / "reports" / "mine"
    texts = {name: (folder / name).read_text(encoding="utf-8") for name in ("report.html", "table.md", "effects.csv")}
    unit = "patient" if known else "image"
    assert f"split by {unit}" in texts["report.html"]
    assert f"split by {unit}" in texts["table.md"]
    assert f"When the test {unit}s are drawn again (50 times)" in texts["table.md"]
    assert f"test_{unit}s" in texts["effects.csv"]
    for text in texts.values():
        assert known or not ("split by patient" in text or "test patients" in text)
    hint = "column 'subject_id' looks like ids of patients; if it is, set patient_column: subject_id"
    table, described = texts["table.md"].replace("\\", ""), " ".join(bench("describe", path, *store).out.split())
    assert (hint in table, hint in described) == (not known, not known)
    assert "columns not taken: days (7 different numbers)" in table
    said = bench("doctor", path, *store).out
    assert f"days (7 different numbers){', subject_id' if not known else ''}" in said
    assert (hint in said, "1 to note: mine, folder, patients" in said) == (not known, not known)


def test_a_split_that_is_refused_speaks_of_images_only(bench: Bench, tmp_path: Path) -> None:
    path = write(tmp_path)
    described = " ".join(bench("describe", path, "--set", "split.min_positives=9").out.split())
    assert "split.min_positives asks for 9 (8 in all); use more images, another split.seed" in described
    assert "in brackets: patients" not in described
    assert " of 36 patients" not in described
