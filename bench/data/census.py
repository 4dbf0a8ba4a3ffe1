"""A census of images: which are black, white, constant, inverted or there twice. A loader or a model may have failed.

An image is judged by its middle, half as wide and half as high as the whole, where no padding is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.files import write_strict_json
from bench.pixels import has_colour, luma
from bench.tables import Float32, Int64, UInt8

FLAWS = {"constant": 1, "nearly_black": 2, "nearly_white": 4}  # name: its bit in `flaws`; words in `in_words`
_BRIGHT_CORNERS = 8
_SHARE = 0.99  # of the pixels of a nearly black image that are at most `_BLACK`
_BLACK, _WHITE = 15, 240
_CLEARLY = 32  # grey levels between corners and middle. 1 % of ChestX-ray14 have such bright corners: white frames
_FEW_INVERTED = 0.02  # share; fewer are what white frames explain
_ROWS = 512  # images that are judged together

FLAWS_FILE, SAME_FILE, COUNTS_FILE = "flaws.npy", "same_as.npy", "census.json"


def flaws(images: UInt8) -> UInt8:
    """Return what is odd about each image, as a sum of bits, `uint8 [n]`. One with colour is judged by its luma.

    The bits are those of `FLAWS`; 8 says that the corners of a grey one are clearly brighter than its middle.
    """
    return np.concatenate([np.zeros(0, np.uint8), *(_flaws(rows) for rows in _blocks(images))])


def _blocks(images: UInt8) -> Iterator[UInt8]:
    for start in range(0, len(images), _ROWS):
        yield np.array(images[start : start + _ROWS])


def _flaws(given: UInt8) -> UInt8:
    images = luma(given)
    n, height, width = images.shape
    middle = images[:, height // 4 : height - height // 4, width // 4 : width - width // 4].reshape(n, -1)
    constant = middle.min(axis=1) == middle.max(axis=1)
    black = (middle <= _BLACK).mean(axis=1) >= _SHARE
    white = (middle >= _WHITE).mean(axis=1) >= _SHARE
    # Bright corners tell of inverted radiographs, which are grey. Photographs have them as often as not.
    bright = (_corners(images) - middle.mean(axis=1) > _CLEARLY) & (not has_colour(given))
    bits = constant * 1 + (black & ~constant) * 2 + (white & ~constant) * 4 + bright * _BRIGHT_CORNERS
    return bits.astype(np.uint8)


def _corners(images: UInt8) -> Float32:
    """Return the mean of the corners of each image without its black margins, `float32 [n]`.

    A corner is an eighth as wide and as high as the image.
    """
    found = np.zeros(len(images), np.float32)
    side = max(1, images.shape[-1] // 8)
    for i, image in enumerate(images):
        rows, columns = (np.flatnonzero(image.any(axis=axis)) for axis in (1, 0))
        if len(rows):
            inner = image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
            found[i] = np.mean([inner[y, x].mean() for y in _ends(side) for x in _ends(side)])
    return found


def _ends(side: int) -> tuple[slice, slice]:
    return slice(None, side), slice(-side, None)


def same_as(images: UInt8) -> Int64:
    """Return for each image the first row with equal pixels, `int64 [n]`; mostly its own."""
    first: dict[bytes, int] = {}
    rows = (row for block in _blocks(images) for row in block)
    return np.array(
        [first.setdefault(hashlib.blake2b(row.tobytes(), digest_size=16).digest(), i) for i, row in enumerate(rows)],
        np.int64,
    )


def write_census(out: Path, images: UInt8) -> None:
    """Write the census of a table into its folder: what is odd about each row, equal rows, and the counts."""
    found = flaws(images)
    np.save(out / FLAWS_FILE, found)
    np.save(out / SAME_FILE, same_as(images))
    write_strict_json(out / COUNTS_FILE, counts(found))


def counts(found: UInt8) -> dict[str, int]:
    """Return how many images there are, and how many of each flaw."""
    bits = FLAWS | {"bright_corners": _BRIGHT_CORNERS}
    return {"images": len(found)} | {name: int((found & bit > 0).sum()) for name, bit in bits.items()}


def by_group(images: UInt8, group: Int64) -> dict[str, dict[str, int]]:
    """Return the `counts` of the images of each group, by its number as text; `group` is `int64 [n]`."""
    found = flaws(images)
    return {str(g): counts(found[group == g]) for g in np.unique(group).tolist()}


def in_words(found: dict[str, int]) -> str:
    """Return `3 constant, 2 nearly black` for the counts of a census; empty if there is none."""
    return ", ".join(f"{found[name]:,} {name.replace('_', ' ')}" for name in FLAWS if found.get(name))


def odd_corners(found: UInt8) -> Int64:
    """Return the rows that differ from most others in whether their corners are clearly brighter than their middle.

    The result is empty if they are so few that white frames explain them.
    """
    bright = found & _BRIGHT_CORNERS > 0
    odd = np.flatnonzero(bright if bright.mean() <= 0.5 else ~bright) if len(found) else np.zeros(0, np.int64)
    return odd if len(odd) > _FEW_INVERTED * len(found) else odd[:0]


def odd_rows(folder: Path) -> dict[str, Int64]:
    """Return the rows of a finished table that its notes count, by what is odd about them."""
    found, same = _read(folder)
    rows = {name.replace("_", " "): np.flatnonzero(found & bit > 0) for name, bit in FLAWS.items()}
    rows |= {"odd corners": odd_corners(found), "equal to another": _twins(found, same)}
    return {what: odd for what, odd in rows.items() if len(odd)}


def _read(folder: Path) -> tuple[UInt8, Int64]:
    try:
        return np.load(folder / FLAWS_FILE), np.load(folder / SAME_FILE)
    except FileNotFoundError:  # a data set that writes its table without a `TableWriter`
        return np.zeros(0, np.uint8), np.zeros(0, np.int64)


def table_notes(folder: Path, labels: Float32, part: Int64) -> list[str]:
    """Return sentences on what is odd about the images of a finished table, in counts.

    Args:
        folder: the folder of the table.
        labels: `float32 [n, C]`; NaN = unknown.
        part: `int64 [n]`, the part of the split of each row.
    """
    found, same = _read(folder)
    notes = []
    if said := in_words(counts(found)):
        notes.append(f"of {len(found):,} pictures as they were read, {said}")
    if n := len(odd_corners(found)):
        corners = "brighter" if (found & _BRIGHT_CORNERS > 0).mean() <= 0.5 else "not brighter"
        notes.append(
            f"{n:,} of {len(found):,} pictures are {corners} in their corners than in their middle, unlike the others; "
            "they may be inverted (MONOCHROME1)"
        )
    if len(twins := _twins(found, same)):
        first, known = same[twins], np.nan_to_num(labels, nan=-1)
        apart = int((part[twins] != part[first]).sum())
        unlike = int((known[twins] != known[first]).any(axis=1).sum())
        apart_said = f", {apart:,} of one in another part of the split" if apart else ""
        unlike_said = f", {unlike:,} of one with other labels" if unlike else ""
        notes.append(
            f"{len(twins):,} {'picture has' if len(twins) == 1 else 'pictures have'} exactly the pixels of another"
            f"{apart_said}{unlike_said}"
        )
    return notes


def _twins(found: UInt8, same: Int64) -> Int64:
    """Return the rows that equal an earlier one; constant images are left out, which are told as such."""
    return np.flatnonzero((same != np.arange(len(same))) & (found & FLAWS["constant"] == 0))
