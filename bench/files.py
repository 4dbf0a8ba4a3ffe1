"""Files: small ones that a reader never sees half of, JSON, digests, arrays in memory maps."""

from __future__ import annotations

import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

AFFECTS_RESULTS = False


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folders above it, by a rename in its own folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")  # hosts may share the folder
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # a full disk: what was written of it takes space
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file by a rename; what JSON does not know is written as its text."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file, or None where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_strict_json(path: Path, value: Any) -> None:
    """Write a JSON file by a rename.

    Raises:
        ValueError: for NaN or an infinity, which no reader of JSON has to understand.
        TypeError: for what JSON does not know.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json_or_raise(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no JSON, or no UTF-8.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def file_digest(path: Path, hex_digits: int = 32) -> str:
    """Return the first digits of the SHA-256 of a file's bytes.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:hex_digits]


def new_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """Return a new npy file as a writable memory map, its space taken at once.

    Without that a full disk would be found out while a page is written, and the kernel would kill the process.

    Raises:
        OSError: if the disk has no room for it.
    """
    import numpy as np

    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with open(path, "rb+") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return array


def flatten(tree: dict[str, Any], prefix: str = "", separator: str = ".") -> Iterator[tuple[str, Any]]:
    """Yield (`a.b.c`, value) for every leaf of nested mappings."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}{separator}", separator)
        else:
            yield f"{prefix}{name}", value


def finite(value: Any) -> Any:
    """Return JSON values with NaN and infinities replaced by None, and what JSON does not know by its text."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return float(value) if abs(value) < float("inf") else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
