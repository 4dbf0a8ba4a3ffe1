"""A small data set of pictures with one thing wrong, and its matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.e2e.driver import Said
from tests.pictures import write_png

N = 24
HEADER = "path,who,part,a,b"
ROW = f"row {N + 2}"  # of what a case adds


def good_rows() -> list[str]:
    """Return rows of two images a patient; every part has positives and negatives of both classes."""
    parts = ["train", "train", "val", "test"]
    return [f"{i}.png,p{i // 2},{parts[i // 2 % 4]},{i % 2},{int(i % 3 == 0)}" for i in range(N)]


@dataclass
class Case:
    """A change of the good data set and what is said of it.

    `add` are more rows, `edit` changes all rows, `raw` is the whole file, `prepare` changes the folder, and
    `settings`, `split` and `more` are those of the matrix.
    """

    said: str
    add: list[str] = field(default_factory=list)
    edit: Callable[[list[str]], list[str]] | None = None
    header: str = HEADER
    raw: bytes | None = None
    prepare: Callable[[Path], None] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)

    def matrix(self, folder: Path) -> Path:
        """Write the data set and its matrix; return the matrix."""
        root = folder / "data"
        root.mkdir()
        noise = np.random.default_rng(0).integers(0, 256, (N, 32, 32), dtype=np.uint8)
        for i in range(N):
            write_png(root / f"{i}.png", noise[i])
        rows = good_rows() + self.add
        text = "\n".join([self.header, *(self.edit(rows) if self.edit else rows)])
        (root / "labels.csv").write_bytes(text.encode() if self.raw is None else self.raw)
        if self.prepare:
            self.prepare(root)
        dataset = {"kind": "folder", "csv": str(root / "labels.csv"), "patient_column": "who", "image_px": 32}
        matrix = {
            "name": "mine",
            "datasets": [dataset | self.settings],
            "split": {"min_positives": 1} | self.split,
            "methods": ["baseline"],
            "classifier": {"steps": 1, "architecture": "resnet18", "n_validations": 1},
        }
        path = folder / "mine.yaml"
        path.write_text(yaml.safe_dump(matrix | self.more), encoding="utf-8")
        return path


def failed_line(said: Said) -> str:
    """Return the line that says why the one cell failed, after looking at everything else."""
    assert said.code == 1
    assert "Traceback" not in said.err
    lines = said.err.splitlines()
    lines = [line for line in lines if not line.startswith("classifier.weights in ")]  # what was taken of them
    assert len(lines) == 2, said.err
    assert lines[1].startswith("1 of 1 cells failed; why: ")
    return lines[0]
