"""ChestMNIST and its siblings, grey or in colour: open medical images, from the file that the package `medmnist` loads.

Yang et al. 2023, "MedMNIST v2: a large-scale lightweight benchmark for 2D and 3D biomedical image classification".
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench import seeds
from bench.checks import Check
from bench.content_digests import digest_of
from bench.data.dataset import Dataset, KnownLabels, TableWriter
from bench.data.head_and_tail import head_and_tail
from bench.data.npz_file import blocks, shape_of
from bench.data.source_checks import look
from bench.errors import DataError, SourceError
from bench.paths import counted_from
from bench.pipeline.settings import not_semantic
from bench.pipeline.stage import Work
from bench.pixels import image_shape
from bench.tables import Float32, Int64, UInt8

_PARTS = ("train", "val", "test")
_SIDES = (28, 64, 128, 224)
_BLOCK = 4096  # images that are in memory at once
_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver", "lung-left"),
    *("lung-right", "pancreas", "spleen"),
)
_CHEST = (
    *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax"),
    *("consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
)
_TISSUES = (
    "Collecting Duct, Connecting Tubule",
    "Distal Convoluted Tubule",
    "Glomerular endothelial cells",
    "Interstitial endothelial cells",
    "Leukocytes",
    "Podocytes",
    "Proximal Tubule Segments",
    "Thick Ascending Limb",
)
_COLON = (
    *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
    *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
)
_SKIN = (
    *("actinic keratoses and intraepithelial carcinoma", "basal cell carcinoma", "benign keratosis-like lesions"),
    *("dermatofibroma", "melanoma", "melanocytic nevi", "vascular lesions"),
)
_BLOOD = (
    *("basophil", "eosinophil", "erythroblast"),
    "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
    *("lymphocyte", "monocyte", "neutrophil", "platelet"),
)
_RETINA = ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")
# The file holds numbers alone. These are the names of the package's `INFO`, in their order.
CLASS_NAMES: dict[str, tuple[str, ...]] = {
    "pathmnist": _COLON,
    "dermamnist": _SKIN,
    "bloodmnist": _BLOOD,
    "chestmnist": _CHEST,
    "pneumoniamnist": ("normal", "pneumonia"),
    "octmnist": _RETINA,
    "breastmnist": ("malignant", "normal, benign"),
    "tissuemnist": _TISSUES,
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
}
Flag = Literal[
    "pathmnist",
    "dermamnist",
    "bloodmnist",
    "chestmnist",
    "pneumoniamnist",
    "octmnist",
    "breastmnist",
    "tissuemnist",
    "organamnist",
    "organcmnist",
    "organsmnist",
]
_PYTHON_CLASS = {"chestmnist": "ChestMNIST", "octmnist": "OCTMNIST", "pneumoniamnist": "PneumoniaMNIST"} | {
    "breastmnist": "BreastMNIST",
    "tissuemnist": "TissueMNIST",
    **{f"{part}mnist": f"{part.capitalize()}MNIST" for part in ("path", "derma", "blood")},
    **{f"organ{view}mnist": f"Organ{view.upper()}MNIST" for view in "acs"},
}


@dataclass(frozen=True)
class _Rows:
    """The chosen rows of the file, train first: `float32 [n, C]`, `int64 [n]`, and the rows of each part."""

    labels: Float32
    splits: Int64
    chosen: dict[str, Int64]


class MedMnist(Dataset):
    """Images of MedMNIST with their official split. The package downloads one file for each set and size.

    A set of one label an image (all but ChestMNIST) gets a column for each class. Patients are not known. Images are
    grey or have colour as those of the file.
    """

    kind: ClassVar[str] = "medmnist"
    sharing: ClassVar[Literal["open", "credentialed"]] = "open"  # CC BY 4.0; DermaMNIST: CC BY-NC 4.0

    flag: Flag = Field("chestmnist", description="which set, by the package's name for it")
    image_px: Literal[28, 64, 128, 224] = Field(64, description="which of the package's sizes, side in pixels")
    root: str = not_semantic(
        "~/.medmnist", min_length=1, description="folder of the file; the package's own by default"
    )
    head: tuple[str, ...] | None = Field(None, min_length=1, description="null: every class that is not in the tail")
    tail: tuple[str, ...] | None = Field(None, min_length=1, description="null: the rarest classes, see n_tail")
    n_tail: int | None = Field(None, ge=1, description="how many classes are tail: the rarest in train; null: half")
    limit: int | None = Field(
        None, ge=3, description="images that are drawn, each part keeps its share; null: all are used"
    )
    sample_seed: int = Field(0, ge=0, description="seed of the draw that a limit makes")

    @model_validator(mode="after")
    def _settings_agree(self) -> MedMnist:
        if self.tail is not None and self.n_tail is not None:
            raise ValueError("give tail or n_tail, not both")
        if self.limit is None and self.sample_seed:
            raise ValueError("sample_seed says how a limit draws; give a limit")
        return self

    @property
    def file(self) -> Path:
        """The file of the package: `chestmnist.npz` has 28 px, `chestmnist_64.npz` has 64."""
        size = "" if self.image_px == _SIDES[0] else f"_{self.image_px}"
        return Path(self.root).expanduser() / f"{self.flag}{size}.npz"

    def known_classes(self) -> tuple[str, ...]:
        """Return the names of the classes, which the set fixes."""
        return CLASS_NAMES[self.flag]

    def known_labels(self) -> KnownLabels | None:
        """Return the labels and the official parts, or None if the file is not there.

        Raises:
            DataError: if the file is not what the package downloads.
        """
        if not self.file.exists():
            return None
        rows = self._rows()
        head, tail = (tuple(names) for names in self._head_and_tail(rows))
        each = np.arange(len(rows.labels))
        return KnownLabels(self.known_classes(), rows.labels, each, rows.splits, head, tail, patients_known=False)

    def pilot_settings(self) -> dict[str, Any]:
        """Return settings for at most 2,000 images."""
        return {"limit": min(2000, self.limit or 2000)}

    def selection_note(self) -> str:
        """Return the set and its size, and how images are drawn."""
        drawn = "" if self.limit is None else f", at most {self.limit:,} images drawn (draw {self.sample_seed})"
        return f"{_PYTHON_CLASS[self.flag]}, {self.image_px} px{drawn}"

    def content(self) -> dict[str, str]:
        """Return the digest of the file, which stands in the key for its place.

        Raises:
            SourceError: if it is not there. The message says how to get it.
        """
        self._require_file()
        return {"digest": self._digest()}

    def sources(self) -> Iterator[Check]:
        """Yield a check of the file."""
        yield look("file", self._see_file)

    def compute(self, work: Work) -> None:
        """Copy the images into the table.

        Raises:
            DataError: if the file is not what the package downloads, or changed after the key was computed.
        """
        self._require_file()
        if self._digest() != self.identity["content"]["digest"]:
            raise DataError(f"{self.file}: the file changed since this run was planned; run it again")
        rows = self._rows()
        head, tail = self._head_and_tail(rows)
        n, done = len(rows.labels), 0
        writer = TableWriter(work.out, n, self.image_px, self._colour())
        for part in _PARTS:
            for images in self._chosen_images(part, rows.chosen[part]):
                writer.images[done : done + len(images)] = images
                done += len(images)
                work.progress(done, n, "copy")
        each = np.arange(n)
        writer.finish(rows.labels, each, self.known_classes(), head, tail, splits=rows.splits, patients_known=False)

    def name_of(self, row: int, folder: Path) -> str:
        """Return the part of an image and its number in it."""
        rows = self._rows()
        part = _PARTS[int(rows.splits[row])]
        first = int(np.argmax(rows.splits == rows.splits[row]))
        return f"image {int(rows.chosen[part][row - first])} of {part}"

    def _digest(self) -> str:
        try:
            return digest_of(self.file)
        except OSError as error:
            raise SourceError(f"{self.file}: cannot be read ({error.strerror})") from error

    def _require_file(self) -> None:
        if self.file.exists():
            return
        name, licence = _PYTHON_CLASS[self.flag], "CC BY-NC 4.0" if self.flag == "dermamnist" else "CC BY 4.0"
        made = "" if self.file.parent.is_dir() else f"make the folder {self.file.parent}, then "
        get = f"medmnist.{name}(split='train', download=True, size={self.image_px}, root='{self.file.parent}')"
        raise SourceError(
            f"{self.kind}: {self.file}: no such file{counted_from(self.root)}; to get it ({name}, {licence}), {made}"
            f'pip install medmnist, and python -c "import medmnist; {get}"'
        )

    def _see_file(self) -> str:
        self._require_file()
        rows = self._rows()
        counts = ", ".join(f"{part} {len(rows.chosen[part]):,}" for part in _PARTS)
        head, tail = self._head_and_tail(rows)
        return f"{self.file}, {counts} images, {len(head)} head and {len(tail)} tail classes"

    def _head_and_tail(self, rows: _Rows) -> tuple[list[str], list[str]]:
        return head_and_tail(
            str(self.file), self.known_classes(), rows.labels, rows.splits, self.head, self.tail, self.n_tail
        )

    def _rows(self) -> _Rows:
        """Return the labels of the chosen rows.

        Raises:
            DataError: if the arrays do not have the documented names, shapes and types.
        """
        labels = {part: self._labels(part) for part in _PARTS}
        total = sum(map(len, labels.values()))
        chosen = {part: np.arange(len(found)) for part, found in labels.items()}
        if self.limit is not None and self.limit < total:
            for part, found in labels.items():
                n = max(1, self.limit * len(found) // total)
                drawn = seeds.rng(self.sample_seed, "medmnist", part).choice(len(found), n, replace=False)
                chosen[part] = np.sort(drawn)
        splits = np.repeat(np.arange(len(_PARTS)), [len(chosen[part]) for part in _PARTS])
        return _Rows(np.concatenate([labels[part][chosen[part]] for part in _PARTS]), splits, chosen)

    def _labels(self, part: str) -> Float32:
        """Return the labels of a part as 0 and 1, `float32 [n, C]`."""
        names, where = self.known_classes(), f"{self.file}: array '{part}_labels'"
        images, image_type = shape_of(self.file, f"{part}_images")
        wanted = image_shape(self.image_px, self._colour())
        if images[1:] != wanted or image_type != np.uint8:
            raise DataError(
                f"{self.file}: array '{part}_images' is {image_type} {list(images)}, want uint8 "
                f"[n, {', '.join(map(str, wanted))}]"
            )
        shape, dtype = shape_of(self.file, f"{part}_labels")
        columns = len(names) if self.flag == "chestmnist" else 1
        if shape != (images[0], columns) or dtype.kind not in "iu":
            raise DataError(f"{where} is {dtype} {list(shape)}, want whole numbers [{images[0]}, {columns}]")
        if not images[0]:
            raise DataError(f"{where} is empty")
        found = np.concatenate(list(blocks(self.file, f"{part}_labels", images[0]))).astype(np.int64)
        highest = 1 if self.flag == "chestmnist" else len(names) - 1
        if found.min() < 0 or found.max() > highest:
            odd = int(np.argmax(((found < 0) | (found > highest)).any(axis=1)))
            raise DataError(f"{where}: row {odd} is {found[odd].tolist()}; want numbers of 0 to {highest}")
        return (found if self.flag == "chestmnist" else found == np.arange(len(names))).astype(np.float32)

    def _colour(self) -> bool:
        """Tell whether the train images have colour; all parts must be alike."""
        return shape_of(self.file, "train_images")[0][3:] == (3,)

    def _chosen_images(self, part: str, chosen: Int64) -> Iterator[UInt8]:
        start = 0
        for block in blocks(self.file, f"{part}_images", _BLOCK):
            mine = chosen[(chosen >= start) & (chosen < start + len(block))] - start
            yield block[mine].astype(np.uint8)
            start += len(block)
