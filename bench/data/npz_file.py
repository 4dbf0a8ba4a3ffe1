"""Read the arrays of an `.npz` file in blocks of rows. `numpy.load` would hold a whole array in memory."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from bench.errors import DataError

_DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError)
Header = tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]


def shape_of(path: Path, name: str) -> tuple[tuple[int, ...], np.dtype[np.generic]]:
    """Return the shape and the type of an array, without reading it.

    Raises:
        DataError: if the file is no archive of arrays, or lacks the array.
    """
    with _opened(path, name) as (_, (shape, _, dtype)):
        return shape, dtype


def blocks(path: Path, name: str, n_rows: int) -> Iterator[npt.NDArray[np.generic]]:
    """Yield an array in blocks of at most `n_rows` rows.

    Raises:
        DataError: if the file is damaged or ends early.
    """
    with _opened(path, name) as (member, (shape, by_column, dtype)):
        if by_column and len(shape) > 1:
            raise DataError(f"{path}: array '{name}' is stored by columns; save it in C order")
        size = dtype.itemsize * int(np.prod(shape[1:]))
        for start in range(0, shape[0], n_rows):
            n = min(n_rows, shape[0] - start)
            content = member.read(n * size)
            if len(content) != n * size:
                raise DataError(
                    f"{path}: array '{name}' ends in row {start + len(content) // size}; copy the file again"
                )
            yield np.frombuffer(content, dtype).reshape(n, *shape[1:])


@contextmanager
def _opened(path: Path, name: str) -> Iterator[tuple[IO[bytes], Header]]:
    try:
        with zipfile.ZipFile(path) as archive:
            have = sorted(n.removesuffix(".npy") for n in archive.namelist())
            if name not in have:
                raise DataError(f"{path}: no array '{name}' (have: {', '.join(have) or 'none'})")
            with archive.open(f"{name}.npy") as member:
                header = _header(member)
                if header[2].hasobject:
                    raise DataError(f"{path}: array '{name}' holds Python objects and not numbers")
                yield member, header
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error
    except _DAMAGED as error:
        raise DataError(f"{path}: no archive of arrays, or damaged ({error}); copy the file again") from error


def _header(member: IO[bytes]) -> Header:
    version = np.lib.format.read_magic(member)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return read(member)
