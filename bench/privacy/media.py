"""Pictures and tables that a tracker gets beside numbers, and the file in which they wait beside a cell's record.

What W&B shows of a cell's images has to be picked where the stages are known. The process that sends it knows the
record alone, so it waits in a file of the record's folder. Only `bench.privacy.border` reads it.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import StoreError
from bench.files import write_bytes
from bench.tables import UInt8

FILE = "shown.npz"
_PICTURE = "picture"  # in the file a picture stands as {"picture": its number, "caption": …}


@dataclass(frozen=True)
class Picture:
    """A picture: pixels `uint8 [H, W]` or `[H, W, 3]`, and a caption, which may be empty."""

    pixels: UInt8
    caption: str = ""


@dataclass(frozen=True)
class Table:
    """A table. A cell is a text, a number, a picture, or None where there is nothing."""

    columns: tuple[str, ...]
    rows: list[list[Any]]

    @property
    def has_pictures(self) -> bool:
        """Whether at least one cell is a picture."""
        return any(isinstance(cell, Picture) for row in self.rows for cell in row)


Medium = Picture | Table


def as_json(medium: Medium, pictures: list[UInt8]) -> Any:
    """Return a medium as JSON values; its pictures are appended to `pictures`, and stand as numbers in it."""

    def told(cell: Any) -> Any:
        if not isinstance(cell, Picture):
            return cell
        pictures.append(cell.pixels)
        return {_PICTURE: len(pictures) - 1, "caption": cell.caption}

    if isinstance(medium, Picture):
        return told(medium)
    return {"columns": list(medium.columns), "rows": [[told(cell) for cell in row] for row in medium.rows]}


def write_media(folder: Path, key: str, media: Mapping[str, Medium]) -> None:
    """Write the media of the results with a key into a folder, by one rename.

    Raises:
        OSError: if they cannot be written.
    """
    pictures: list[UInt8] = []
    told = {"key": key, "media": {name: as_json(medium, pictures) for name, medium in media.items()}}
    arrays: dict[str, Any] = {str(i): pixels for i, pixels in enumerate(pictures)}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, about=np.array(json.dumps(told, allow_nan=False)), **arrays)
    write_bytes(folder / FILE, buffer.getvalue())


def key_of(folder: Path) -> str | None:
    """Return the key of the results whose media wait in a folder, or None if there is no file that can be read."""
    try:
        with np.load(folder / FILE, allow_pickle=False) as found:
            return str(json.loads(str(found["about"]))["key"])
    except Exception:  # a damaged file raises errors of many kinds
        return None


def read_media(folder: Path, key: str) -> dict[str, Medium]:
    """Return the media that wait in a folder by their names; none if there is no file, or one of other results.

    Raises:
        StoreError: if the file cannot be read.
    """
    path = folder / FILE
    try:
        with np.load(path, allow_pickle=False) as found:
            told = json.loads(str(found["about"]))
            if told["key"] != key:
                return {}
            return {name: _medium(medium, found) for name, medium in told["media"].items()}
    except FileNotFoundError:
        return {}
    except Exception as error:  # a damaged file raises errors of many kinds
        said = " ".join(f"{type(error).__name__}: {error}".split())
        raise StoreError(f"{path} cannot be read ({said}); delete it, and `bench upload` writes it anew") from error


def _medium(told: dict[str, Any], arrays: Mapping[str, UInt8]) -> Medium:
    if _PICTURE in told:
        return _cell(told, arrays)
    return Table(tuple(told["columns"]), [[_cell(cell, arrays) for cell in row] for row in told["rows"]])


def _cell(told: Any, arrays: Mapping[str, UInt8]) -> Any:
    if not isinstance(told, dict):
        return told
    return Picture(arrays[str(told[_PICTURE])], told["caption"])
