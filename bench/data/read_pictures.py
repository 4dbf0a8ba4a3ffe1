"""What the pictures of a table were when they were read, and which of them have changed since.

A table of a quarter of a million pictures is keyed by its label files, because a digest of all pictures would take
hours at every start. So the table has a record of what was read beside it. At the next start every file is looked up;
only a file that looks different is read, and its content decides.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.content_digests import ABSENT, digests, versions
from bench.errors import DataError
from bench.tables import Int64

Record = npt.NDArray[np.void]
READ = np.dtype([("version", "<i8", 4), ("sha256", "u1", 32)])  # of one picture, see `bench.content_digests`
FILE = "pictures.npy"


@dataclass(frozen=True)
class Changes:
    """How many of `n` pictures are not what they were when the table was made, by what became of them.

    `compared` is false if none of them is where it was; then nothing is known of them.
    """

    n: int
    replaced: int = 0
    gone: int = 0
    new: int = 0
    compared: bool = True

    def __bool__(self) -> bool:
        """Tell whether any has changed."""
        return bool(self.replaced or self.gone or self.new)

    def __str__(self) -> str:
        """Return the counts in words."""
        if not self.compared:
            return f"none of the {self.n:,} pictures is where it was, so they were not compared with the table"
        said = {"replaced": self.replaced, "gone": self.gone, "newly there": self.new}
        counts = ", ".join(f"{n:,} {what}" for what, n in said.items() if n)
        return f"of {self.n:,} pictures, since the table was made: {counts or 'none changed'}"


def write_record(out: Path, places: Sequence[Path], there: Int64, read: Record) -> None:
    """Write the record of a table into its folder.

    Args:
        out: the folder.
        places: where each picture that the table asks for should be.
        there: `int64 [k]`, which of them were there.
        read: `READ [k]`, what was read of these.
    """
    names = [os.fsencode(os.path.abspath(place)) for place in places]
    longest = max(map(len, names), default=1)
    record = np.zeros(len(places), [("path", f"S{longest}"), *READ.descr])
    record["path"], record["version"] = names, ABSENT
    for field in ("version", "sha256"):
        record[field][there] = read[field]
    np.save(out / FILE, record)


def changes(folder: Path, places: Sequence[Path] | None = None, workers: int = 16) -> Changes | None:
    """Return what became of the pictures of a finished table, or None if it has no record of them.

    Args:
        folder: the folder of the table.
        places: where each picture should be now, in the order of the record; None means where it was.
        workers: how many threads look pictures up.

    Raises:
        DataError: if a picture cannot be reached or read. The message has no path.
    """
    try:
        record = np.load(folder / FILE)
    except FileNotFoundError:
        return None
    if places is None:
        places = [Path(os.fsdecode(name)) for name in record["path"].tolist()]
    try:
        now = versions(places, workers)
        here, was_here = now[:, 0] != ABSENT[0], record["version"][:, 0] != ABSENT[0]
        if not here.any():
            return Changes(len(places), compared=False)
        looked = np.flatnonzero(here & was_here & (now != record["version"]).any(axis=1)).tolist()
        # The table's folder stands for its pictures, so that they are remembered together whoever asks.
        found = digests([places[i] for i in looked], folder, workers)
    except OSError as error:
        raise DataError(f"a picture cannot be reached ({error.strerror}); check the disk of 'root'") from error
    replaced = sum(bytes(record["sha256"][i]) != digest for i, digest in zip(looked, found, strict=True))
    return Changes(len(places), replaced, int((was_here & ~here).sum()), int((here & ~was_here).sum()))
