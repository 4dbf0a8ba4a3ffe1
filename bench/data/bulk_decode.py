"""Decode very many pictures into one table: with threads, in constant memory, and resumable to the last chunk.

Everything is kept in the checkpoint folder of the stage. `found.npy` holds the size of every picture, `images.npy` is
the table itself, `read.npy` holds what each row was read from, and `done.npy` marks the chunks that are finished. At
the end, the table becomes part of the result by a hard link. A chunk is marked only after its pixels are on disk. With
the mark first, a power failure could leave a chunk of black images that counts as done.
"""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.content_digests import Version, settled
from bench.content_digests import version as file_version
from bench.data.dataset import TableWriter
from bench.data.images import Fit, read_bytes, read_image, refuse_bombs
from bench.data.read_pictures import READ, Record
from bench.errors import DataError, SourceError
from bench.files import new_array
from bench.tables import Int64, UInt8

Tell = Callable[[float, float, str], None]
CHUNK = 64  # pictures that are decoded between two chances for Ctrl-C, and that are marked as done together
_LOOKED = 2048  # pictures that are looked up between two chances for Ctrl-C
_MARK_EVERY_S = 2.0  # seconds between two marks; each waits for the disk, and a kill costs this much work
_UNKNOWN, MISSING = 0, -1  # unknown is 0 because a power failure can turn pages to zeros: these are looked up again


def look_up(places: Sequence[Path], ckpt: Path, workers: int, tell: Tell) -> Int64:
    """Return the size of every picture in bytes plus one, `int64 [n]`, or `MISSING` if it is not there.

    No picture is opened. Pictures that an earlier attempt found are not looked up again.

    Args:
        places: the paths of the pictures.
        ckpt: the checkpoint folder.
        workers: the number of threads.
        tell: called with the number done, the number in all, and a note.

    Raises:
        SourceError: if a picture cannot be reached for any other reason than that it is not there.
    """
    path = ckpt / "found.npy"
    if not _open(path, (len(places),), np.int64):
        (ckpt / "images.npy").unlink(missing_ok=True)  # nobody knows any more which pictures its rows are
        new_array(path, (len(places),), np.int64)
    found = np.load(path, mmap_mode="r+")
    # Missing pictures have no row in the table. One that turns up later would shift all rows behind it. So once
    # decoding has begun, missing pictures stay missing.
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


def _open(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> bool:
    """Tell whether a checkpoint's array is there with the right shape and type. A wrong or damaged one is removed."""
    try:
        known = np.load(path, mmap_mode="r")
    except (OSError, ValueError, EOFError):  # it is missing, or was cut off while it was made
        path.unlink(missing_ok=True)
        return False
    if known.shape == shape and known.dtype == dtype:
        return True
    path.unlink()
    return False


class ResumableTable(TableWriter):
    """A table in the checkpoint folder whose rows are written in any order, and that a later attempt can continue.

    Rows are written with `pwrite` and not through a memory map: pages of a map count as memory of the process until the
    kernel writes them back, and a job with a memory limit would be killed.
    """

    def __init__(self, ckpt: Path, out: Path, n_images: int, image_px: int) -> None:
        """Continue the table in `ckpt`, or begin a new one. The finished table goes to `out`."""
        self.out, self.path = out, ckpt / "images.npy"
        shape, marks = (n_images, image_px, image_px), (-(-n_images // CHUNK),)
        there = _open(self.path, shape, np.uint8) and _open(ckpt / "read.npy", (n_images,), READ)
        if not (there and _open(ckpt / "done.npy", marks, np.uint8)):
            # The marks come first. A kill between the two lines must not leave old marks beside an empty table.
            new_array(ckpt / "done.npy", marks, np.uint8).flush()
            new_array(ckpt / "read.npy", (n_images,), READ)
            new_array(self.path, shape, np.uint8)
        self.read: Record = np.load(ckpt / "read.npy", mmap_mode="r+")
        self.done = np.load(ckpt / "done.npy", mmap_mode="r+")
        self.images: UInt8 = np.load(self.path, mmap_mode="r")
        self._offset, self._bytes = int(self.images.offset), image_px * image_px
        self._file = os.open(self.path, os.O_RDWR)

    def write(self, row: int, image: UInt8, version: Version, sha256: bytes) -> None:
        """Write one row, and what it was read from. Any number of threads may call this at once."""
        self.read[row] = version, np.frombuffer(sha256, np.uint8)
        os.pwrite(self._file, image.tobytes(), self._offset + row * self._bytes)

    def mark(self, chunks: list[int]) -> None:
        """Wait until everything written is on disk, and mark chunks as done."""
        os.fsync(self._file)
        self.read.flush()  # type: ignore[attr-defined]
        self.done[chunks] = 1
        self.done.flush()

    def close(self) -> None:
        """Close the file of the table."""
        os.close(self._file)

    def hand_over(self) -> None:
        """Make the table part of the result."""
        # A hard link keeps the table in the checkpoint as well. Publishing the result takes minutes, because of the
        # digest of a large file, and a kill in that time must not cost hours of decoding.
        try:
            os.link(self.path, self.out / "images.npy")
        except OSError:  # a file system without hard links
            os.rename(self.path, self.out / "images.npy")


def decode(
    places: Sequence[Path], table: ResumableTable, image_px: int, fit: Fit, draft: bool, workers: int, tell: Tell
) -> dict[int, str]:
    """Decode all pictures that are not done yet into the table; return what is wrong with pictures, by row.

    A chunk with a faulty picture is not marked as done, so only this chunk is decoded again once the picture is
    repaired.
    """
    faults: dict[int, str] = {}
    todo = [int(c) for c in np.flatnonzero(table.done == 0)]
    before = len(places) - sum(len(_rows(c, len(places))) for c in todo)
    started = marked = time.monotonic()
    done, waiting = 0, list[int]()

    def one(row: int) -> str | None:
        try:
            now, version = time.time_ns(), file_version(places[row])
            content = read_bytes(places[row])
            image = read_image(content, image_px, fit, "window", draft)
        except DataError as error:
            return str(error)
        except OSError as error:  # the error's own text holds the path, and no log may hold the path of a patient
            return f"cannot be read now ({error.strerror})"
        table.write(row, image, settled(version, now), hashlib.sha256(content).digest())
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
    """Yield the chunks in order, with the fault of each picture or None."""
    # One chunk ahead is always being decoded, so the threads do not idle while the caller handles the last one. More
    # than one ahead would only make Ctrl-C slower.
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
