"""Tools for a quick check of the source of a data set: its lists, its root and a few pictures, one of them decoded."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from pathlib import Path

from bench.checks import Check
from bench.data.images import refuse_bombs
from bench.errors import DataError, SourceError

_SAMPLED = 32  # how many pictures are looked for, including the first and the last


def look(what: str, see: Callable[[], str]) -> Check:
    """Return the text that `see` returns as a good check, or the error that it raises as a failed one."""
    try:
        return Check(what, True, see())
    except DataError as error:
        return Check(what, False, str(error))


def sampled(n: int) -> list[int]:
    """Return which of `n` rows to look at: the first, the last, and some between, which are the same every time."""
    between = range(1, n - 1)
    return sorted({0, n - 1, *random.Random(0).sample(between, min(_SAMPLED - 2, len(between)))}) if n else []


def is_there(path: Path) -> bool:
    """Tell whether a picture is there.

    Raises:
        SourceError: if this cannot be found out. The message has no path, because that may identify a patient.
    """
    try:
        return path.is_file()
    except OSError as error:
        raise SourceError(f"a picture cannot be reached ({error.strerror}); check the disk of 'root'") from None


def decoded(path: Path, read: Callable[[Path], object]) -> str:
    """Return the size of a picture as text, e.g. `2544 x 3056 px`, after `read` has decoded it.

    Raises:
        DataError: if it cannot be decoded. The message says why and has no path.
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
