"""Turn boxes into masks of the square images that pictures become."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.data.boxes import Boxes
from bench.data.csv_file import Problems
from bench.data.images import Fit, refuse_bombs
from bench.data.picture_paths import find_pictures
from bench.data.source_checks import sampled
from bench.errors import DataError
from bench.tables import Int64

Bools = npt.NDArray[np.bool_]
Size = tuple[int, int]  # width and height in pixels
_ORIENTATION = 0x0112  # the EXIF tag; 1 means upright
_BEYOND_PX = 1.0  # how far a box may reach beyond its picture; that is taken for rounding
_ROUNDING = 1e-9  # of shares of a site, so that a half is a half whatever its last bit


@dataclass(frozen=True)
class BoxedPictures:
    """The boxes of a data set with its pictures.

    Attributes:
        boxes: the boxes.
        root: the folder that the paths of the pictures are relative to.
        fit: how a picture becomes square.
        follow_links: whether links may lead out of the root.
        workers: how many threads open pictures.
    """

    boxes: Boxes
    root: Path
    fit: Fit
    follow_links: bool
    workers: int

    def see(self) -> str:
        """Return what is known of the boxes, for the user's own terminal, after a look at a few of their pictures.

        Raises:
            DataError: as `sizes` does.
        """
        rows = list(self.boxes.paths)
        self.sizes([rows[i] for i in sampled(len(rows))])
        return f"{self.boxes.where}, {self.boxes.note(with_rows=True)}"

    def sizes(self, rows: Iterable[int] | None = None) -> dict[int, Size]:
        """Return row → size of the pictures that have boxes, after checking that the boxes lie in them.

        Args:
            rows: the rows of pictures to look at, whether they have boxes or not; None for all that have.

        Raises:
            DataError: if a picture is missing or cannot be used, or if a box is not inside its picture. The message
                names the rows of the boxes.
        """
        boxes = self.boxes
        chosen = sorted(boxes.paths.keys() if rows is None else boxes.paths.keys() & set(map(int, rows)))
        line_of = {int(row): line for row, line in zip(boxes.rows[::-1], boxes.lines[::-1], strict=True)}  # the first
        texts, lines = [boxes.paths[row] for row in chosen], [line_of[row] for row in chosen]
        pictures = find_pictures(boxes.where, self.root, texts, lines, self.follow_links)
        problems = Problems(boxes.where)
        with warnings.catch_warnings(), ThreadPoolExecutor(self.workers) as pool:
            refuse_bombs()
            sizes = dict(zip(chosen, pool.map(_size_or_fault, pictures), strict=True))
        for line, row, corners in zip(boxes.lines, boxes.rows.tolist(), boxes.corners.tolist(), strict=True):
            if row in sizes and (fault := _fault(corners, sizes[row])):
                problems.add(line, f"{boxes.paths[row]}: {fault}")
        problems.raise_if_any("row")
        return {row: size for row, size in sizes.items() if not isinstance(size, str)}

    def masks(self, rows: Int64, side: int) -> Bools:
        """Return where the boxes of each class are, `bool [len(rows), C, side, side]`; empty where there is no box.

        Args:
            rows: `int64 [n]`, rows of the list of pictures; a row may be there several times.
            side: the number of sites along an edge.

        Raises:
            DataError: as `sizes` does.
        """
        boxes = self.boxes
        different, place = np.unique(rows, return_inverse=True)
        sizes = self.sizes(different)
        found = np.zeros((len(different), boxes.n_classes, side, side), dtype=bool)
        for i in np.flatnonzero(np.isin(boxes.rows, different)):
            row = int(boxes.rows[i])
            mask = box_mask(boxes.corners[i], sizes[row], self.fit, side)
            found[np.searchsorted(different, row), boxes.classes[i]] |= mask
        return found[place]


def box_mask(corners: Sequence[float] | npt.NDArray[np.float64], size: Size, fit: Fit, side: int) -> Bools:
    """Return the sites that a box covers by half or more, `bool [side, side]`.

    If there are none, it is the site that holds the centre of the box. What `fit: crop` cuts off counts for nothing: a
    box that lies outside of the crop has an empty mask.

    Args:
        corners: left, top, right and bottom edge in pixels of the picture.
        size: width and height of the picture.
        fit: how the picture becomes square, as `bench.data.images.read_image` does it.
        side: the number of sites along an edge of the square.
    """
    across, down = (
        _sites(n, size, fit, side, np.array([start, end]))
        for n, start, end in zip(size, corners[:2], corners[2:], strict=True)
    )
    shares = np.outer(_shares(down, side), _shares(across, side))
    found = shares >= 0.5 - _ROUNDING
    if shares.any() and not found.any():
        found[min(int(down.mean()), side - 1), min(int(across.mean()), side - 1)] = True
    return found


def _sites(n: int, size: Size, fit: Fit, side: int, ends: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the ends of a box along an edge of `n` pixels in sites of the square, without what lies outside of it."""
    length = {"pad": max(size), "crop": min(size), "stretch": n}[fit]
    first = (n - length) // 2 if fit == "crop" else -((length - n) // 2)  # of the square, counted in the picture
    return np.clip((ends.clip(0, n) - first) * side / length, 0, side)


def _shares(span: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float64]:
    """Return how much of each site from 0 to `side` lies between the two ends of `span`."""
    sites = np.arange(side)
    return (np.minimum(span[1], sites + 1) - np.maximum(span[0], sites)).clip(min=0)


def _fault(corners: Sequence[float], size: Size | str) -> str | None:
    if isinstance(size, str):
        return size
    (left, top, right, bottom), (width, height) = corners, size
    within = min(left, top) >= -_BEYOND_PX and right <= width + _BEYOND_PX and bottom <= height + _BEYOND_PX
    if within and left < width and top < height and min(right, bottom) > 0:
        return None
    box = f"the box is from {left:g} to {right:g} across and from {top:g} to {bottom:g} down"
    return f"{box}, but the picture is {width} x {height} px; want pixels of the picture's file"


def _size_or_fault(path: Path) -> Size | str:
    try:
        info = path.stat()
        return _size(path, (info.st_ino, info.st_size, info.st_mtime_ns))
    except (DataError, OSError) as error:
        return str(error)


# Fusion asks for the same pictures for each of its rows, and a PNG must be decoded to know that no EXIF follows.
@functools.lru_cache(maxsize=1 << 16)
def _size(path: Path, version: tuple[int, int, int]) -> Size:
    """Return the size of a picture that is upright. `version` tells whether the file has changed.

    Raises:
        DataError: if it is no PNG or JPEG, or if its EXIF turns it.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            try:
                orientation = picture.getexif().get(_ORIENTATION, 1)
            except Exception:  # EXIF that cannot be read turns nothing; damaged pixels are told when they are decoded
                orientation = 1
            size = picture.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError("the picture is absurdly large") from error
    except OSError as error:
        raise DataError("the picture cannot be read as PNG or JPEG") from error
    if orientation in range(2, 9):
        raise DataError(f"EXIF turns the picture (orientation {orientation}); save it upright, and its boxes too")
    return size
