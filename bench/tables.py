"""The values that stages pass to each other: tables of images, the train split, and augmented sets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class ImageRows:
    """A read-only view of some rows of a memory-mapped image array, indexed like the images (`bench.pixels`).

    Only the rows that are indexed are read from disk and copied.
    """

    def __init__(self, images: UInt8, rows: Int64 | None = None) -> None:
        """View the given `rows` of `images`, or all of them if `rows` is None."""
        self._images = images
        self._rows = np.arange(len(images)) if rows is None else np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of rows in the view."""
        return len(self._rows)

    def __getitem__(self, index: int | slice | npt.NDArray[np.integer] | list[int]) -> UInt8:
        """Return a copy of the chosen images, `uint8 [..., H, W]` or `uint8 [..., H, W, 3]`."""
        return np.array(self._images[self._rows[index]])

    @property
    def image_px(self) -> int:
        """Side length of the square images in pixels."""
        return int(self._images.shape[1])

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image: `(H, W)` if the images are grey, `(H, W, 3)` if they have colour."""
        return self._images.shape[1:]

    @property
    def colour(self) -> bool:
        """Whether the images have colour."""
        return len(self.image_shape) == 3


@dataclass(frozen=True)
class ImageTable:
    """A whole data set with one row per image.

    Attributes:
        images: `uint8 [n, H, W]` (grey) or `uint8 [n, H, W, 3]` (red, green, blue), memory-mapped.
        labels: `float32 [n, C]`, observed labels, 0 or 1; NaN = unknown.
        patients: `int64 [n]`, patient numbers. A split never puts one patient into two parts.
        class_names, head, tail: class names; head and tail are disjoint subsets of class_names.
        true_labels: `float32 [n, C]` if the true labels are known (as in the phantom), else None.
        splits: `int64 [n]`, the official split: 0 train, 1 val, 2 test; None if the data set has none.
        patients_known: whether `patients` are patients. Otherwise every image counts as a patient of its own, and no
            text may speak of patients.
        excludes: `bool [C, C]`, True in row i where class i cannot be present beside class j; None: nowhere.
    """

    images: UInt8
    labels: Float32
    patients: Int64
    class_names: tuple[str, ...]
    head: tuple[str, ...]
    tail: tuple[str, ...]
    true_labels: Float32 | None = None
    splits: Int64 | None = None
    patients_known: bool = True
    excludes: npt.NDArray[np.bool_] | None = None

    @property
    def image_px(self) -> int:
        """Side length of the square images in pixels."""
        return int(self.images.shape[1])


@dataclass(frozen=True)
class TrainSet:
    """The train split, which is all that a method may see. `parents` of synthetic images are row numbers in it.

    Attributes:
        images: a view of `uint8 [n, H, W]` or `uint8 [n, H, W, 3]`; `images.image_shape` is that of one image.
        labels: `float32 [n, C]`, observed labels, 0 or 1; NaN = unknown.
        class_names, head, tail: class names; `head_index` and `tail_index` are their columns in `labels`.
        excludes: `bool [C, C]`, True in row i where class i ("No Finding") cannot be present beside class j; None:
            nowhere.
    """

    images: ImageRows
    labels: Float32
    class_names: tuple[str, ...]
    head: tuple[str, ...]
    tail: tuple[str, ...]
    excludes: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def head_index(self) -> list[int]:
        """Columns of the head classes in `labels`."""
        return [self.class_names.index(c) for c in self.head]

    @property
    def tail_index(self) -> list[int]:
        """Columns of the tail classes in `labels`."""
        return [self.class_names.index(c) for c in self.tail]

    @property
    def without_tail(self) -> npt.NDArray[np.bool_]:
        """Which rows have no observed tail class, `bool [n]`: the candidates for a partner of a tail image."""
        return ~(self.labels[:, self.tail_index] == 1).any(axis=1)

    @property
    def counts(self) -> Int64:
        """Number of positives per class, `int64 [C]`."""
        return np.nansum(self.labels, axis=0).astype(np.int64)

    def rows_with(self, class_index: int) -> Int64:
        """Return the rows whose observed label for the class is 1."""
        return np.flatnonzero(self.labels[:, class_index] == 1)


@dataclass(frozen=True)
class AugmentedBatch:
    """A batch of synthetic samples that a method yields, in the order of `Context.samples`.

    Attributes:
        images: `uint8 [b, H, W]`, or `uint8 [b, H, W, 3]` if the train images have colour; of their size.
        labels: `float32 [b, C]` in [0, 1]; NaN = unknown (masked from the loss).
        parents: `int64 [b, p]`, the train rows that each sample was made from; -1 = none.
        extras: further arrays with first axis b, such as masks or maps. They are stored in files of these names. Label
            policies read two of them: `parent_share` `float32 [b, p]` is each parent's share of the image (default:
            equal shares), and `claimed_class` `int64 [b]` is the class that the method says the sample belongs to
            (default: its target class).
    """

    images: UInt8
    labels: Float32
    parents: Int64
    extras: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True)
class AugmentedSet:
    """A method's finished output, memory-mapped. `target_class` `int64 [n]` is the column each image was made for."""

    images: UInt8
    labels: Float32
    parents: Int64
    target_class: Int64
    extras: dict[str, npt.NDArray[np.generic]]

    def __len__(self) -> int:
        """Return the number of synthetic images."""
        return len(self.labels)
