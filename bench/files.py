"""Helpers for files: atomic writes of text and JSON, digests, and memory-mapped arrays.

Several processes, often on several hosts, read and write one store at the same time. Small files are therefore written
beside their place and renamed into it: a reader sees the old file or the new one, and never half of one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

AFFECTS_RESULTS = False


def write_text(path: Path, text: str) -> None:
    """Write a text file by a rename in its own folder, and make the folders above it.

    Raises:
        OSError: if it cannot be written; no partial file is left.
    """
    write_bytes(path, text.encode("utf-8"))


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file by a rename in its own folder, and make the folders above it.

    Raises:
        OSError: if it cannot be written; no partial file is left.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The host is in the name because hosts that share the folder may have processes with equal pids. The file lies in
    # the same folder because a rename is atomic only within one file system.
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError:  # on a full disk, the partial file would take up space
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file by a rename. A value of a type that JSON lacks is written as `str(value)`."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file, or None if the file is missing, unreadable or not a mapping."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def write_strict_json(path: Path, value: Any) -> None:
    """Write a JSON file by a rename.

    Raises:
        ValueError: for NaN or an infinity, because standard JSON has no way to write them.
        TypeError: for a value of a type that JSON lacks.
    """
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json_or_raise(path: Path) -> Any:
    """Return the value in a JSON file.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is not JSON or not UTF-8.
    """
    return json.loads(path.read_text(encoding="utf-8"))


def file_digest(path: Path, hex_digits: int = 32) -> str:
    """Return the first `hex_digits` digits of the SHA-256 of a file's bytes.

    Raises:
        OSError: if the file cannot be read.
    """
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()[:hex_digits]


def new_array(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.memmap:
    """Return a new npy file as a writable memory map, with its disk space allocated.

    Raises:
        OSError: if the disk has no room for it.
    """
    import numpy as np

    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    # A memory map is a sparse file. If the disk fills up later, writing to a page kills the process with SIGBUS, which
    # Python cannot catch. Allocating all space now turns that into an ordinary OSError at the start.
    if hasattr(os, "posix_fallocate"):  # macOS lacks it
        with open(path, "rb+") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return array


def same_mode_below(folder: Path) -> None:
    """Let everything in a folder be read and written by those who may do so with the folder itself.

    Some libraries (safetensors, tempfile, W&B) make files for their owner alone, whatever the umask says. The folder
    was made by us, so its mode is what the umask, or an access list of the folder above, says. Files of other owners
    stay as they are.
    """
    mode = folder.stat().st_mode
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError, PermissionError):
            if path.is_symlink():
                continue
            now = path.stat().st_mode
            wanted = mode & 0o777 if path.is_dir() else mode & 0o666
            if now & 0o777 != wanted:
                path.chmod(now & 0o7000 | wanted)


def flatten(tree: dict[str, Any], prefix: str = "", separator: str = ".") -> Iterator[tuple[str, Any]]:
    """Yield (`a.b.c`, value) for every leaf of a tree of nested mappings."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}{separator}", separator)
        else:
            yield f"{prefix}{name}", value


def nested(flat: dict[str, Any]) -> dict[str, Any]:
    """Return the tree of nested mappings that `flatten` wrote as (`a.b.c`, value).

    A name that leads through a value, since the tree's own names have dots, keeps its dots.
    """
    tree: dict[str, Any] = {}
    for name, value in sorted(flat.items(), key=lambda item: item[0].count(".")):  # values before what lies below them
        *parents, last = name.split(".")
        place: Any = tree
        for parent in parents:
            place = place.setdefault(parent, {}) if isinstance(place, dict) else None
        if isinstance(place, dict):
            place[last] = value
        else:
            tree[name] = value
    return tree


def finite(value: Any) -> Any:
    """Return a copy of a JSON tree with NaN and infinities replaced by None, and other types by `str(value)`."""
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    if isinstance(value, float):
        return float(value) if abs(value) < float("inf") else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)
