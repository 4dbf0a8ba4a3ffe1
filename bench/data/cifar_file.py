"""Read the pickled files of CIFAR-10 and CIFAR-100 without running what a pickle asks for.

A pickle is a program that may call any function of any module. These files ask for three things of numpy. Each is
replaced here by a record of its arguments, and anything else is refused. So numpy's own reading of pickled arrays,
which trusts its input, is not reached either.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import DataError
from bench.tables import Int64, UInt8

SIDE_PX = 32
_LARGEST_FILE = 1 << 30  # bytes; the largest of the official files has 155 MB
# The unpickler raises any of these for a file that is cut off, damaged, or no pickle at all.
_DAMAGED = (
    *(pickle.UnpicklingError, EOFError, AttributeError, ImportError, IndexError, KeyError, TypeError, ValueError),
    *(OverflowError, MemoryError, RecursionError),
)


class _Type:
    """What a pickle says of the type of an array."""

    def __init__(self, *said: object) -> None:
        self.code = said[0] if said else None

    def __setstate__(self, state: object) -> None:
        """Take the byte order and the like, which single bytes do not have."""


class _Array:
    """What a pickle says of an array."""

    def __init__(self, *said: object) -> None:
        self.state: object = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def table(self) -> UInt8 | None:
        """Return the array if it is `uint8 [n, 3072]`, else None."""
        match self.state:
            case (_, (int(n), int(width)), _Type(code=b"u1" | "u1"), fortran, bytes(raw)):
                if n >= 0 and width == 3 * SIDE_PX**2 and len(raw) == n * width:
                    return np.frombuffer(raw, np.uint8).reshape(n, width, order="F" if fortran else "C")
        return None


class _Refused(Exception):
    pass


class _Unpickler(pickle.Unpickler):
    """An unpickler that knows numbers, texts, bytes, lists, dicts, and what numpy's arrays ask for."""

    def find_class(self, module: str, name: str) -> type:
        """Return the record that stands for a name of numpy.

        Raises:
            _Refused: for any other name.
        """
        if (module, name) == ("numpy", "dtype"):
            return _Type
        if (module, name) == ("numpy", "ndarray") or (
            module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct"
        ):
            return _Array
        raise _Refused(repr(f"{module}.{name}")[:80])


def read_batch(path: Path, label_key: str, n_classes: int) -> tuple[UInt8, Int64]:
    """Return the images `uint8 [n, 32, 32, 3]` and the class numbers `int64 [n]` of a file.

    Raises:
        DataError: if it is not what the official file is. The message names the file and what to do.
    """
    found = _load(path)
    data, labels = found.get("data"), found.get(label_key)
    table = data.table() if isinstance(data, _Array) else None
    if table is None:
        raise DataError(f"{path}: 'data' is not uint8 [n, {3 * SIDE_PX**2}], as in the official file; {_AGAIN}")
    if not (isinstance(labels, list) and len(labels) == len(table) and all(type(one) is int for one in labels)):
        raise DataError(f"{path}: '{label_key}' is not a list of {len(table)} whole numbers; {_AGAIN}")
    wrong = next((one for one in labels if not 0 <= one < n_classes), None)
    if wrong is not None:
        raise DataError(f"{path}: '{label_key}' has {str(wrong)[:20]}; want numbers of 0 to {n_classes - 1}")
    # A row holds all of red, then green, then blue, each row by row.
    return table.reshape(-1, 3, SIDE_PX, SIDE_PX).transpose(0, 2, 3, 1), np.array(labels, np.int64)


def read_names(path: Path, key: str, n_classes: int) -> tuple[str, ...]:
    """Return the names of the classes.

    Raises:
        DataError: if the file does not hold so many different ones.
    """
    given = _load(path).get(key)
    names = tuple(_text(one) for one in given) if isinstance(given, list) else ()
    if (
        len(set(names)) != n_classes
        or len(names) != n_classes
        or not all(name.isprintable() and name for name in names)
    ):
        raise DataError(f"{path}: '{key}' is not a list of {n_classes} different names; {_AGAIN}")
    return names


_AGAIN = "unpack the official archive again"


def _load(path: Path) -> dict[str, Any]:
    try:
        if (size := path.stat().st_size) > _LARGEST_FILE:
            raise DataError(f"{path}: absurdly large ({size:,} bytes, at most {_LARGEST_FILE:,})")
        with open(path, "rb") as handle:
            found = _Unpickler(handle, encoding="bytes", fix_imports=False).load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _Refused as error:
        raise DataError(
            f"{path}: asks to run {error}, which the official file does not; nothing was run. Delete it, and {_AGAIN}"
        ) from error
    except _DAMAGED as error:
        said = " ".join(str(error).split())[:100] or type(error).__name__
        raise DataError(f"{path}: no file of CIFAR, or damaged ({said}); {_AGAIN}") from error
    if not isinstance(found, dict):
        raise DataError(f"{path}: holds a {type(found).__name__} and no dictionary; {_AGAIN}")
    return {_text(key): value for key, value in found.items()}


def _text(given: Sequence[object] | object) -> str:
    """Return a text that Python 2 has written as bytes, or Python 3 as text; any other value as an empty text."""
    if isinstance(given, bytes):
        return given.decode("utf-8", "replace")
    return given if isinstance(given, str) else ""
