"""CIFAR-10 and CIFAR-100 with a long tail, from the files that torchvision downloads: colour images of everyday things.

Krizhevsky 2009, "Learning multiple layers of features from tiny images"; the long tail is that of Cui et al. 2019,
"Class-balanced loss based on effective number of samples".
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench import seeds
from bench.checks import Check
from bench.content_digests import digests
from bench.data.cifar_file import SIDE_PX, read_batch, read_names
from bench.data.dataset import Dataset, KnownLabels, TableWriter
from bench.data.source_checks import look
from bench.errors import DataError, SourceError
from bench.paths import counted_from
from bench.pipeline.settings import not_semantic
from bench.pipeline.stage import Work
from bench.tables import Float32, Int64

_PARTS = ("train", "val", "test")


@dataclass(frozen=True)
class _Layout:
    """Where the files of a set are, and what they call the labels and the names of the classes."""

    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    labels_key: str
    names_key: str


_LAYOUTS = {
    10: _Layout(
        "cifar-10-batches-py",
        tuple(f"data_batch_{i}" for i in range(1, 6)),
        "test_batch",
        "batches.meta",
        "labels",
        "label_names",
    ),
    100: _Layout("cifar-100-python", ("train",), "test", "meta", "fine_labels", "fine_label_names"),
}


@dataclass(frozen=True)
class _Rows:
    """The chosen images, train first: `float32 [n, C]`, `int64 [n]`, and their numbers in the official part.

    Those of val are numbers in the official train part.
    """

    labels: Float32
    splits: Int64
    numbers: Int64


class CifarLt(Dataset):
    """CIFAR with an exponentially long tail: class i keeps `n * imbalance_factor ** (-i / (C - 1))` train images.

    Every class has a column, and every image one label. Test is the official test part. Val is drawn from the official
    train part before the imbalance is made, as many images of each class, so that val and test are both balanced; n is
    what is left of a class. The tail are the last classes. All draws are seeded.
    """

    kind: ClassVar[str] = "cifar_lt"
    sharing: ClassVar[Literal["open", "credentialed"]] = "open"
    image_px: ClassVar[int] = SIDE_PX

    n_classes: Literal[10, 100] = Field(10, description="CIFAR-10 or CIFAR-100")
    root: str = not_semantic(
        "~/.cifar", min_length=1, description="torchvision's root: the folder that holds cifar-10-batches-py"
    )
    imbalance_factor: float = Field(
        100, ge=1, le=1e6, description="train images of the first class, divided by those of the last; 1: balanced"
    )
    n_tail: int | None = Field(None, ge=1, description="how many of the last classes are tail; null: half")
    val_share: float = Field(0.1, gt=0, lt=1, description="share of each class of the official train part that is val")
    images_per_class: int | None = Field(
        None,
        ge=4,
        description="train images of a class that are drawn before all else, test keeps the share; null: all",
    )
    sample_seed: int = Field(0, ge=0, description="seed of all draws")

    @model_validator(mode="after")
    def _leaves_a_head(self) -> CifarLt:
        if self.n_tail is not None and self.n_tail >= self.n_classes:
            raise ValueError(f"n_tail: {self.n_tail} of {self.n_classes} classes leaves no head")
        return self

    @property
    def _layout(self) -> _Layout:
        return _LAYOUTS[self.n_classes]

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return Path(self.root).expanduser() / self._layout.folder

    @property
    def files(self) -> list[Path]:
        """The files: those of train, that of test, and that of the names."""
        return [self.folder / name for name in (*self._layout.train, self._layout.test, self._layout.names)]

    def known_classes(self) -> tuple[str, ...] | None:
        """Return the names of the classes, or None if the file with them is not there.

        Raises:
            DataError: if it is not the official file.
        """
        file = self.files[-1]
        return read_names(file, self._layout.names_key, self.n_classes) if file.exists() else None

    def known_labels(self) -> KnownLabels | None:
        """Return the labels and the parts, or None if not all files are there.

        Raises:
            DataError: if one of them is not the official file.
        """
        if not all(file.exists() for file in self.files):
            return None
        rows, (head, tail) = self._rows(), self._head_and_tail()
        each = np.arange(len(rows.labels))
        return KnownLabels(head + tail, rows.labels, each, rows.splits, head, tail, patients_known=False)

    def pilot_settings(self) -> dict[str, Any]:
        """Return settings for some 2,000 images of the official train part."""
        least = 2000 // self.n_classes
        return {"images_per_class": min(least, self.images_per_class or least)}

    def selection_note(self) -> str:
        """Return the set, its imbalance and how images are drawn."""
        some = (
            "" if self.images_per_class is None else f", {self.images_per_class:,} train images of a class drawn first"
        )
        return (
            f"CIFAR-{self.n_classes} in colour{some}, imbalance factor {self.imbalance_factor:g}, val is "
            f"{100 * self.val_share:g} % of train before the imbalance (draw {self.sample_seed})"
        )

    def content(self) -> dict[str, str]:
        """Return the digest of the files, which stands in the key for their place.

        Raises:
            SourceError: if one is not there. The message says how to get it.
        """
        self._require_files()
        return {"digest": self._digest()}

    def sources(self) -> Iterator[Check]:
        """Yield a check of the files."""
        yield look("files", self._see_files)

    def compute(self, work: Work) -> None:
        """Copy the chosen images into the table.

        Raises:
            DataError: if a file is not the official one, or changed after the key was computed.
        """
        self._require_files()
        if self._digest() != self.identity["content"]["digest"]:
            raise DataError(f"{self.folder}: a file changed since this run was planned; run it again")
        rows, (head, tail) = self._rows(), self._head_and_tail()
        writer, done = TableWriter(work.out, len(rows.labels), SIDE_PX, colour=True), 0
        for of_test, names in ((False, self._layout.train), (True, (self._layout.test,))):
            first, mine = 0, np.flatnonzero((rows.splits == 2) == of_test)
            for name in names:
                images, _ = self._batch(name)
                here = mine[(rows.numbers[mine] >= first) & (rows.numbers[mine] < first + len(images))]
                writer.images[here] = images[rows.numbers[here] - first]
                first, done = first + len(images), done + len(here)
                work.progress(done, len(rows.labels), "copy")
        each = np.arange(len(rows.labels))
        writer.finish(rows.labels, each, head + tail, head, tail, splits=rows.splits, patients_known=False)

    def name_of(self, row: int, folder: Path) -> str:
        """Return the number of an image in its official part."""
        rows = self._rows()
        return f"image {rows.numbers[row]} of {'test' if rows.splits[row] == 2 else 'train'}"

    def _batch(self, name: str) -> Any:
        return read_batch(self.folder / name, self._layout.labels_key, self.n_classes)

    def _digest(self) -> str:
        try:
            return hashlib.sha256(b"".join(digests(self.files, self.folder))).hexdigest()[:32]
        except OSError as error:
            raise SourceError(f"{error.filename}: cannot be read ({error.strerror})") from error

    def _require_files(self) -> None:
        for file in self.files:
            if not file.exists():
                get = (
                    f"torchvision.datasets.CIFAR{self.n_classes}(root='{Path(self.root).expanduser()}', download=True)"
                )
                raise SourceError(
                    f"{self.kind}: {file}: no such file{counted_from(self.root)}; to get the official files, "
                    f'python -c "import torchvision; {get}"'
                )

    def _see_files(self) -> str:
        self._require_files()
        rows, (head, tail) = self._rows(), self._head_and_tail()
        counts = ", ".join(f"{part} {int((rows.splits == i).sum()):,}" for i, part in enumerate(_PARTS))
        return f"{self.folder}, {counts} images, {len(head)} head and {len(tail)} tail classes"

    def _head_and_tail(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        names = read_names(self.files[-1], self._layout.names_key, self.n_classes)
        n_head = self.n_classes - (self.n_tail or self.n_classes // 2)
        return names[:n_head], names[n_head:]

    def _rows(self) -> _Rows:
        train = np.concatenate([self._batch(name)[1] for name in self._layout.train])
        _, test = self._batch(self._layout.test)
        parts = self._chosen(train, test)
        classes = np.concatenate([train[parts[0]], train[parts[1]], test[parts[2]]])
        return _Rows(
            (classes[:, None] == np.arange(self.n_classes)).astype(np.float32),
            np.repeat(np.arange(len(_PARTS)), [len(part) for part in parts]),
            np.concatenate(parts),
        )

    def _chosen(self, train: Int64, test: Int64) -> list[Int64]:
        """Return the numbers of the images of train, val and test, in rising order, for the class of each image.

        Raises:
            DataError: if a class has too few images.
        """
        counts = np.bincount(train, minlength=self.n_classes)
        least = self.images_per_class or 2
        if counts.min() < least or np.bincount(test, minlength=self.n_classes).min() < 1:
            raise DataError(
                f"{self.folder}: a class has {counts.min()} train images; want {least} or more, and one in test"
            )
        # Each class is shuffled once, and parts are cut from its beginning. So with another factor the images of the
        # smaller choice are among those of the larger, and val is the same.
        kept, val, tests = [], [], []
        for c in range(self.n_classes):
            mine, of_test = (self._shuffled(labels, c, part) for labels, part in ((train, "train"), (test, "test")))
            share = 1.0 if self.images_per_class is None else self.images_per_class / len(mine)
            mine = mine[: self.images_per_class]
            n_val = min(max(1, round(self.val_share * len(mine))), len(mine) - 1)
            val.append(mine[:n_val])
            kept.append(mine[n_val:])
            tests.append(of_test[: max(1, round(share * len(of_test)))])
        sizes = long_tailed_sizes(min(map(len, kept)), self.n_classes, self.imbalance_factor)
        kept = [rows[:n] for rows, n in zip(kept, sizes, strict=True)]
        return [np.sort(np.concatenate(part)) for part in (kept, val, tests)]

    def _shuffled(self, labels: Int64, c: int, part: str) -> Int64:
        return seeds.rng(self.sample_seed, "cifar_lt", part, c).permutation(np.flatnonzero(labels == c))


def long_tailed_sizes(n: int, n_classes: int, imbalance_factor: float) -> list[int]:
    """Return how many images each class keeps of n: `n * imbalance_factor ** (-i / (n_classes - 1))`, at least one."""
    return [max(1, int(n * imbalance_factor ** (-i / (n_classes - 1)))) for i in range(n_classes)]
