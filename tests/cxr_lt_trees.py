"""Trees of exactly the shape of MIMIC-CXR-LT and NIH-CXR-LT downloads, small, of phantoms, with their irregularities."""

from __future__ import annotations

import csv
import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.data.kinds.cxr_lt.releases import MIMIC, NIH
from bench.data.kinds.phantom import PhantomSettings, render

# as in the releases: the paper's head is the five most frequent, its tail ranks among the others
BY_FREQUENCY = (
    "Support Devices", "Lung Opacity", "Cardiomegaly", "Pleural Effusion", "Atelectasis", "Pneumonia", "Edema",
    "No Finding", "Enlarged Cardiomediastinum", "Consolidation", "Pneumothorax", "Fracture",
    "Calcification of the Aorta", "Tortuous Aorta", "Subcutaneous Emphysema", "Lung Lesion", "Pneumomediastinum",
    "Pneumoperitoneum", "Pleural Other",
)  # fmt: skip
HEAD = BY_FREQUENCY[:5]
FIRST_PATIENT, FIRST_STUDY = 10_000_001, 50_000_001


@dataclass
class Tree:
    """A download: the folders that settings name, and every row as it was meant (canonical names)."""

    labels: Path
    root: Path
    rows: list[dict[str, Any]]
    files: dict[str, Path] = field(default_factory=dict)

    def part(self, name: str) -> list[dict[str, Any]]:
        """Return the rows of train, val or test."""
        return [r for r in self.rows if r["part"] == name]

    def settings(self, **others: Any) -> dict[str, Any]:
        """Return settings of a small data set over it."""
        return {"labels": str(self.labels), "root": str(self.root), "image_px": 16, "workers": 2, **others}


@dataclass(frozen=True)
class Shape:
    """How a MIMIC tree is written.

    Attributes:
        release: as the setting.
        n_patients: of two studies each, with two pictures a study.
        path_column: `path` or `fpath`.
        prefixes: what stands before `pXX/` in paths, row by row in turn.
        files_folder: whether the root has the folder `files`.
        without: columns that are left out.
        spell: class → what the header calls it.
        laterals: whether every study's second picture is lateral, where the release says views.
        size: width and height of the pictures.
    """

    release: str = "1.1.0-19"
    n_patients: int = 60
    path_column: str = "path"
    prefixes: Sequence[str] = ("files/",)
    files_folder: bool = True
    without: Sequence[str] = ()
    spell: dict[str, str] = field(default_factory=dict)
    laterals: bool = True
    size: tuple[int, int] = (40, 48)
    seed: int = 0


def mimic_tree(folder: Path, shape: Shape | None = None, **changes: Any) -> Tree:
    """Write a tree of MIMIC-CXR-LT below `folder`."""
    shape = replace(shape or Shape(), **changes)
    release = MIMIC[shape.release]
    rng = np.random.default_rng(shape.seed)
    rows = _mimic_rows(shape, release.classes, release.frontal, rng)
    tree = Tree(folder / "labels", folder / "jpg", rows)
    base = tree.root / "files" if shape.files_folder else tree.root
    for i, row in enumerate(rows):
        write_picture(base / row["rest"], i, shape.size)
    known = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", shape.path_column]
    if release.frontal:
        known.remove("ViewPosition")
    columns = [c for c in known if c not in shape.without] + list(release.classes)
    for i, row in enumerate(rows):
        row[shape.path_column] = shape.prefixes[i % len(shape.prefixes)] + row["rest"]
    _write_parts(tree, tree.labels / release.folder, release.files, columns, shape.spell, rng)
    return tree


def _mimic_rows(shape: Shape, classes: Sequence[str], frontal: bool, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for p in range(shape.n_patients):
        part = "train" if p % 10 < 6 else "val" if p % 10 < 8 else "test"
        patient = FIRST_PATIENT + 37 * ((p * 17) % shape.n_patients)  # not in the order of the rows
        for s in range(2):
            study = FIRST_STUDY + 2 * p + s
            found = _findings(len(rows) // 2, classes, rng)  # labels are of studies
            for k in range(2):
                name = "-".join(f"{x:08x}" for x in rng.integers(0, 2**32, 5))
                view = ("PA", "AP")[(p + k) % 2] if frontal or not (shape.laterals and k) else "LATERAL"
                rows.append(
                    {
                        "part": part, "dicom_id": name, "subject_id": patient, "study_id": study, "ViewPosition": view,
                        "ViewCodeSequence_CodeMeaning": "antero-posterior, erect",
                        "rest": f"p{str(patient)[:2]}/p{patient}/s{study}/{name}.jpg", **found,
                    }
                )  # fmt: skip
    return rows


def nih_tree(folder: Path, release: str = "multi-label", n_patients: int = 60, packed: bool = False, seed: int = 0,
             spell: dict[str, str] | None = None) -> Tree:  # fmt: skip
    """Write a tree of NIH-CXR-LT below `folder`; `packed` in the folders that the archives unpack to."""
    known, rng = NIH[release], np.random.default_rng(seed)
    tree, single = Tree(folder / "labels", folder / "nih", []), release != "multi-label"
    for p in range(n_patients):
        part = "train" if p % 10 < 6 else "val" if p % 10 < 8 else "test"
        for k in range(3):
            i = len(tree.rows)
            name = f"{p + 1:08d}_{k:03d}.png"
            found = {c: int(j == i % 20) for j, c in enumerate(known.classes)} if single else {}
            found = found or _findings(i, known.classes, rng)
            tree.rows.append({"part": part, "id": name, "subj_id": p + 1, "rest": name, **found})
            where = f"images_{1 + i % 3:03d}/images" if packed else "images"
            write_picture(tree.root / where / name, i, (48, 48))
    columns = ["id", *known.classes] + ([] if single else ["subj_id"])
    _write_parts(tree, tree.labels, known.files, columns, spell or {}, rng, shuffle=False)
    return tree


def write_picture(path: Path, index: int, size: tuple[int, int]) -> None:
    """Write phantom `index` as grey PNG or JPEG of a width and height."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(_phantom(index)).resize(size, Image.Resampling.BILINEAR)
    picture.save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


@functools.cache
def _phantom(index: int) -> np.ndarray:
    return render(PhantomSettings(image_px=32), index).image


def _findings(i: int, classes: Sequence[str], rng: np.random.Generator) -> dict[str, int]:
    """Return labels: common ones in half of the rows, the others rarer, every one of them somewhere in each part."""
    order = [c for c in BY_FREQUENCY if c in classes] + [c for c in classes if c not in BY_FREQUENCY]
    rates = {c: 0.62 - 0.05 * k if k < 5 else 0.28 - 0.006 * (k - 5) for k, c in enumerate(order)}
    return {c: int(rng.random() < rates[c]) for c in classes}


def _write_parts(
    tree: Tree,
    folder: Path,
    names: Sequence[Sequence[str]],
    columns: list[str],
    spell: dict[str, str],
    rng: np.random.Generator,
    shuffle: bool = True,
) -> None:
    """Write the three label files, each with its columns in another order."""
    folder.mkdir(parents=True)
    for part, (name, *_) in zip(("train", "val", "test"), names, strict=True):
        order = [columns[i] for i in rng.permutation(len(columns))] if shuffle else columns
        tree.files[part] = folder / name
        with open(folder / name, "w", newline="", encoding="utf-8") as handle:
            writer = csv.writer(handle)
            writer.writerow([spell.get(c, c) for c in order])
            writer.writerows([row[c] for c in order] for row in tree.part(part))
