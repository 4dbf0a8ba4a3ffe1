"""Very many pictures into one table: looked up once, decoded by threads, resumable to the chunk, memory flat.

All of it is kept in the stage's checkpoint folder: `found.npy`, what is known of every picture, and `images.npy`, the
table itself, which becomes part of the result by a link at the end. A chunk counts as done once its pixels are on
disk, so that neither a kill nor a power failure leaves a row that is neither.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.data.dataset import TableWriter
from bench.data.images import Fit, read_image, refuse_bombs
from bench.errors import DataError, SourceError
from bench.files import new_array
from bench.tables import Int64, UInt8

Tell = Callable[[float, float, str], None]
CHUNK = 64  # pictures between two looks at Ctrl-C, and what a kill can cost
_LOOKED = 2048  # pictures looked up between two looks at Ctrl-C
_MARK_EVERY_S = 2.0  # seconds between two waits for the disk
_UNKNOWN, MISSING = 0, -1  # zero, so that a page that a power failure took is looked up again


def look_up(places: Sequence[Path], ckpt: Path, workers: int, tell: Tell) -> Int64:
    """Return the size of every picture in bytes plus one, `MISSING` where it is not there.

    Nothing is opened. What was found before is not looked at again, what was missing is, unless decoding has begun:
    rows must stay what they are from then on.

    Raises:
        SourceError: if a picture cannot be reached for another reason than that it is not there.
    """
    path = ckpt / "found.npy"
    if not _open(path, (len(places),), np.int64):
        (ckpt / "images.npy").unlink(missing_ok=True)  # which rows it holds is not known any more
        new_array(path, (len(places),), np.int64)
    found = np.load(path, mmap_mode="r+")
    begun = (ckpt / "images.npy").exists()
    left = np.flatnonzero(found == _UNKNOWN if begun else found <= _UNKNOWN)
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(left), _LOOKED):
            rows = left[start : start + _LOOKED]
            found[rows] = list(pool.map(_size, [places[i] for i in rows]))
            tell(len(places) - len(left) + start + len(rows), len(places), "look up")
    found.flush()
    return np.array(found)


def _size(path: Path) -> int:
    try:
        return os.stat(path).st_size + 1
    except (FileNotFoundError, NotADirectoryError):
        return MISSING
    except OSError as error:
        raise SourceError(f"a picture cannot be reached ({error.strerror}); check the disk of 'root'") from None


def _open(path: Path, shape: tuple[int, ...], dtype: type) -> bool:
    """Tell whether a checkpoint's array is there as it should be; one that is not is removed."""
    try:
        known = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # not there, or cut off while it was made
        path.unlink(missing_ok=True)
        return False
    if known.shape == shape and known.dtype == dtype:
        return True
    path.unlink()
    return False


class ResumableTable(TableWriter):
    """A table that is written into the checkpoint folder, in any order, through no memory map: memory stays flat."""

    def __init__(self, ckpt: Path, out: Path, n_images: int, image_px: int) -> None:
        """Go on with the table that is in `ckpt`, or begin one."""
        self.out, self.path = out, ckpt / "images.npy"
        shape, marks = (n_images, image_px, image_px), (-(-n_images // CHUNK),)
        there = _open(self.path, shape, np.uint8)
        if not (there and _open(ckpt / "done.npy", marks, np.uint8)):
            new_array(ckpt / "done.npy", marks, np.uint8).flush()  # before the table: it must not count old marks
            new_array(self.path, shape, np.uint8)
        self.done = np.load(ckpt / "done.npy", mmap_mode="r+")
        self.images: UInt8 = np.load(self.path, mmap_mode="r")
        self._offset, self._bytes = int(self.images.offset), image_px * image_px
        self._file = os.open(self.path, os.O_RDWR)

    def write(self, row: int, image: UInt8) -> None:
        """Write one row; any number of threads may."""
        os.pwrite(self._file, image.tobytes(), self._offset + row * self._bytes)

    def mark(self, chunks: list[int]) -> None:
        """Count chunks as done, once they are on disk."""
        os.fsync(self._file)
        self.done[chunks] = 1
        self.done.flush()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def hand_over(self) -> None:
        """Let the table be part of the result, and of the checkpoint until that is there: its digest takes minutes."""
        try:
            os.link(self.path, self.out / "images.npy")
        except OSError:  # a file system without links
            os.rename(self.path, self.out / "images.npy")


def decode(
    places: Sequence[Path], table: ResumableTable, image_px: int, fit: Fit, draft: bool, workers: int, tell: Tell
) -> dict[int, str]:
    """Decode what is left into the table; return what is wrong with pictures, by row.

    A chunk with a picture at fault is not marked: once that is mended, it alone is decoded again.
    """
    faults: dict[int, str] = {}
    todo = [int(c) for c in np.flatnonzero(table.done == 0)]
    before = len(places) - sum(len(_rows(c, len(places))) for c in todo)
    started = marked = time.monotonic()
    done, waiting = 0, list[int]()

    def one(row: int) -> str | None:
        try:
            image = read_image(places[row], image_px, fit, "minmax", draft)
        except DataError as error:
            return str(error)
        except OSError as error:  # its own words hold the path, which no log may
            return f"cannot be read now ({error.strerror})"
        table.write(row, image)
        return None

    with warnings.catch_warnings(), ThreadPoolExecutor(workers) as pool:
        refuse_bombs()
        for chunk, told in _ahead(pool, one, todo, len(places)):
            rows = _rows(chunk, len(places))
            wrong = {row: what for row, what in zip(rows, told, strict=True) if what}
            faults |= wrong
            waiting += [] if wrong else [chunk]
            done += len(rows)
            now = time.monotonic()
            if now - marked >= _MARK_EVERY_S:
                table.mark(waiting)
                waiting, marked = [], now
            tell(before + done, len(places), f"decode, {done / max(now - started, 1e-9):.0f} images/s")
        table.mark(waiting)
    return faults


def _rows(chunk: int, n: int) -> range:
    return range(chunk * CHUNK, min((chunk + 1) * CHUNK, n))


def _ahead(
    pool: ThreadPoolExecutor, one: Callable[[int], str | None], todo: list[int], n: int
) -> Iterator[tuple[int, list[str | None]]]:
    """Yield chunks in order with what was said of their pictures; the next one is under way meanwhile."""
    running: list[tuple[int, Iterator[str | None]]] = []
    try:
        for chunk in todo:
            running.append((chunk, pool.map(one, _rows(chunk, n))))
            if len(running) > 1:
                first, said = running.pop(0)
                yield first, list(said)
        for chunk, said in running:
            yield chunk, list(said)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
