"""The values that stages hand to each other: tables of images, the train split, augmented sets."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]
Int64 = npt.NDArray[np.int64]


class ImageRows:
    """Read-only rows of a memory-mapped image array: indexable like `uint8 [n, H, W]`, nothing copied until asked."""

    def __init__(self, images: UInt8, rows: Int64 | None = None) -> None:
        """View `images` at `rows` (all when None)."""
        self._images = images
        self._rows = np.arange(len(images)) if rows is None else np.asarray(rows, dtype=np.int64)

    def __len__(self) -> int:
        """Return the number of images in view."""
        return len(self._rows)

    def __getitem__(self, index: int | slice | npt.NDArray[np.integer] | list[int]) -> UInt8:
        """Return a copy of the chosen images, `uint8 [..., H, W]`."""
        return np.array(self._images[self._rows[index]])

    @property
    def image_px(self) -> int:
        """Side of the (square) images in pixels."""
        return int(self._images.shape[-1])


@dataclass(frozen=True)
class ImageTable:
    """A whole data set as read: one row an image.

    Attributes:
        images: `uint8 [n, H, W]`, grey, memory-mapped.
        labels: `float32 [n, C]`, observed labels, 0 or 1; NaN = unknown.
        patients: `int64 [n]`, patient number; splits never cut through one.
        class_names, head, tail: names; head and tail are disjoint parts of class_names.
        true_labels: `float32 [n, C]` where the truth is known (the phantom), else None.
        splits: `int64 [n]` official split, 0 train, 1 val, 2 test; None where the data set has none.
    """

    images: UInt8
    labels: Float32
    patients: Int64
    class_names: tuple[str, ...]
    head: tuple[str, ...]
    tail: tuple[str, ...]
    true_labels: Float32 | None = None
    splits: Int64 | None = None


@dataclass(frozen=True)
class TrainSet:
    """The train split, all that a method may see. Row i here is what `parents` refer to.

    Attributes:
        images: rows of `uint8 [n, H, W]`.
        labels: `float32 [n, C]` observed labels, 0 or 1; NaN = unknown.
        class_names, head, tail: names; `head_index`, `tail_index` their columns.
    """

    images: ImageRows
    labels: Float32
    class_names: tuple[str, ...]
    head: tuple[str, ...]
    tail: tuple[str, ...]

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.labels)

    @property
    def head_index(self) -> list[int]:
        """Columns of the head classes."""
        return [self.class_names.index(c) for c in self.head]

    @property
    def tail_index(self) -> list[int]:
        """Columns of the tail classes."""
        return [self.class_names.index(c) for c in self.tail]

    @property
    def counts(self) -> Int64:
        """Positives per class, `int64 [C]`."""
        return np.nansum(self.labels, axis=0).astype(np.int64)

    def rows_with(self, class_index: int) -> Int64:
        """Return the rows whose observed label for the class is 1."""
        return np.flatnonzero(self.labels[:, class_index] == 1)


@dataclass(frozen=True)
class AugmentedBatch:
    """What a method yields: some synthetic samples, in the order of `Context.samples`.

    Attributes:
        images: `uint8 [b, H, W]` grey, the size of the train images.
        labels: `float32 [b, C]` in [0, 1]; NaN = unknown (masked from the loss).
        parents: `int64 [b, p]` train rows that the sample was made from; -1 = none.
        extras: further arrays with first axis b, stored beside (masks, maps); names are file names. Two are read by
            label policies: `parent_share` `float32 [b, p]`, each parent's share of the image (default: equal ones),
            and `claimed_class` `int64 [b]`, the class that the method takes a sample to be of (default: its target).
    """

    images: UInt8
    labels: Float32
    parents: Int64
    extras: dict[str, npt.NDArray[np.generic]] = field(default_factory=dict)


@dataclass(frozen=True)
class AugmentedSet:
    """A method's finished output, memory-mapped; `target_class` is `int64 [n]`, the column each was made for."""

    images: UInt8
    labels: Float32
    parents: Int64
    target_class: Int64
    extras: dict[str, npt.NDArray[np.generic]]

    def __len__(self) -> int:
        """Return the number of synthetic images."""
        return len(self.labels)
