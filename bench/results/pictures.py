"""The images of one finished cell, real and synthetic, and what a method that fuses two parents stored of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench.results.cells import CellResult
from bench.results.tiles import overlay, tile, two_colours
from bench.store.store import Store
from bench.tables import AugmentedSet, ImageTable, UInt8

FUSED_EXTRAS = ("anchor_cam", "mask", "partner_cam")


@dataclass(frozen=True)
class Pictures:
    """The images of one cell: the table of its data set, the train rows in it, and the synthetic images."""

    label: str
    seed: int
    table: ImageTable
    train_rows: np.ndarray
    augmented: AugmentedSet

    def made_for(self, name: str, n: int) -> np.ndarray:
        """Return the first `n` samples made for a class; their order is random."""
        return np.flatnonzero(self.augmented.target_class == self.table.class_names.index(name))[:n]

    def real_of(self, name: str, n: int) -> UInt8:
        """Return `n` train images that have the class, evenly spaced, so that they are not all of one patient."""
        labels = self.table.labels[self.train_rows, self.table.class_names.index(name)]
        rows = self.train_rows[labels == 1]
        return np.array(self.table.images[np.sort(rows[_evenly(len(rows), n)])])

    def parent(self, sample: int, which: int) -> UInt8:
        """Return the image of a parent."""
        return np.array(self.table.images[self.train_rows[self.augmented.parents[sample, which]]])

    @property
    def shown_classes(self) -> list[str]:
        """The classes that images were made for, tail classes first."""
        made = {self.table.class_names[c] for c in np.unique(self.augmented.target_class)}
        return [c for c in (*self.table.tail, *sorted(made - set(self.table.tail))) if c in made]


def _evenly(length: int, n: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(n, length)).astype(int)) if length else np.zeros(0, dtype=int)


def load_pictures(result: CellResult, store: Store) -> Pictures | None:
    """Return the images of a cell, or None if the store lacks some of them or the method made none."""
    cell = result.cell
    if not all(store.has(stage) for stage in (cell.dataset, cell.split, cell.augmented)):
        return None
    augmented = cell.augmented.open(store.folder(cell.augmented))
    if not len(augmented):
        return None
    rows = cell.split.open(store.folder(cell.split))["train"]
    table = cell.dataset.open(store.folder(cell.dataset))
    return Pictures(cell.label, cell.seed, table, rows, augmented)


def is_fused(augmented: AugmentedSet) -> bool:
    """Tell whether a method stored both parents of each image, their maps and the mask."""
    parents = augmented.parents
    has_maps = all(name in augmented.extras for name in FUSED_EXTRAS)
    return has_maps and parents.shape[1] >= 2 and bool((parents >= 0).all())


def fused_tiles(pictures: Pictures, sample: int, px: int) -> dict[str, UInt8]:
    """Return what a fused image was made of, as tiles `uint8 [px, px, 3]`, in the order in which it is looked at.

    A map is bright where the method takes the finding to be. The mask is orange where the image was taken from the
    anchor, and blue where it was taken from the partner.
    """
    extras = pictures.augmented.extras
    anchor, partner = pictures.parent(sample, 0), pictures.parent(sample, 1)
    return {
        "anchor": tile(anchor, px),
        "anchor map": overlay(anchor, extras["anchor_cam"][sample], px),
        "mask": two_colours(extras["mask"][sample], px),
        "partner map": overlay(partner, extras["partner_cam"][sample], px),
        "partner": tile(partner, px),
    }
