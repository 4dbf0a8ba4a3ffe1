"""The maps of the train images, from whichever source."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.tables import Float32, Int64

NO_CLASS = -1  # Class of an entry without a map; its values are zero.


@dataclass(frozen=True)
class SaliencyTable:
    """The maps of the train images, memory-mapped. They are sorted by train row, and every train row has one.

    An entry is a position in this table. It is not a train row, because an image may have several maps.

    Attributes:
        cams: `float32 [m, h, w]` in [0, 1], at the latent's resolution.
        rows: `int64 [m]`, the train row of each map, ascending.
        classes: `int64 [m]`, the class (column) of each map, or `NO_CLASS` where no map was made.
    """

    cams: Float32
    rows: Int64
    classes: Int64

    @classmethod
    def open(cls, folder: Path) -> SaliencyTable:
        """Return the table in `cams.npy`, `rows.npy` and `classes.npy`, memory-mapped."""
        cams = np.load(folder / "cams.npy", mmap_mode="r")
        return cls(cams, np.load(folder / "rows.npy"), np.load(folder / "classes.npy"))

    def entries(self, row: int) -> Int64:
        """Return the entries of all maps of a train row."""
        return np.arange(*np.searchsorted(self.rows, [row, row + 1]))

    def entry(self, row: int, target_class: int) -> int:
        """Return the entry of a train row's map for `target_class`, or of its first map if there is no such map."""
        found = self.entries(row)  # `argmax` below returns 0, the first entry, if no map is for the class.
        return int(found[np.argmax(self.classes[found] == target_class)])
