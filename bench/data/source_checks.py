"""A quick look at what a data set is read from: its lists, its root, a few of its pictures, one of them decoded."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.checks import Check
from bench.data.images import refuse_bombs
from bench.errors import DataError, SourceError

_SAMPLED = 32  # pictures that are looked for, the first and the last among them


def look(what: str, see: Callable[[], str]) -> Check:
    """Return what `see` finds, or the error that it raises."""
    try:
        return Check(what, True, see())
    except DataError as error:
        return Check(what, False, str(error))


def sampled(n: int) -> list[int]:
    """Return the rows to look at of `n`: the first, the last and some between, the same every time."""
    between = range(1, n - 1)
    return sorted({0, n - 1, *random.Random(0).sample(between, min(_SAMPLED - 2, len(between)))}) if n else []


def is_there(path: Path) -> bool:
    """Tell whether a picture is there.

    Raises:
        SourceError: if that cannot be told; it names no path, for it may hold whose picture it is.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise SourceError(f"a picture cannot be reached ({error.strerror}); check the disk of 'root'") from None


def decoded(path: Path, read: Callable[[Path], Any]) -> str:
    """Return `2544 x 3056 px` of a picture that can be decoded.

    Raises:
        DataError: if it cannot, saying why; it names no path.
    """
    from PIL import Image

    with warnings.catch_warnings():
        refuse_bombs()
        try:
            read(path)
            with Image.open(path) as picture:
                return f"{picture.width} x {picture.height} px"
        except OSError as error:
            raise SourceError(f"cannot be read ({error.strerror})") from None
