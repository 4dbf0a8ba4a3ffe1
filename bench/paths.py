"""Paths that people write in settings and lists: what they are relative to, and how their letters lie on disk."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

AFFECTS_RESULTS = False

_WRITTEN: dict[str, tuple[str, str]] = {}  # path → how it was written, and relative to what; for messages about it


def anchored(text: str, folder: Path, name: str) -> str:
    """Return a path that is written relative to `folder` as an absolute one. `~` and absolute paths stay.

    Args:
        text: the path as written.
        folder: what it is relative to.
        name: what a message calls the folder; see `counted_from`.

    Raises:
        ValueError: if the name of a folder is not UTF-8.
    """
    if text.startswith("~") or os.path.isabs(text):
        return as_on_disk(text)
    path = as_on_disk(str(Path.cwd() / folder / text))  # `..` stays: behind a link it is not the folder above the link
    check_utf8(path, name)
    _WRITTEN[path] = (text, name)
    return path


def check_utf8(path: str, what: str) -> None:
    """Refuse a path that no text file can hold, and that many libraries cannot open.

    Raises:
        ValueError: if a name in it is not UTF-8. The message names `what` and the first such folder.
    """
    for part in path.split("/"):
        try:
            part.encode()
        except UnicodeEncodeError:
            told = os.fsencode(part).decode("ascii", "backslashreplace")
            raise ValueError(f"{what}: the name '{told}' is not UTF-8; rename it, e.g. with convmv") from None


def counted_from(path: str | Path) -> str:
    """Return `, which is relative to <folder>` for a path that `anchored` made absolute, else an empty text."""
    text, base = _WRITTEN.get(str(path), ("", ""))
    if not base:
        return ""
    is_here = os.path.exists(text) and not os.path.exists(path)
    return f", which is relative to {base}{' and not to the working folder, where it is' if is_here else ''}"


def as_on_disk(path: str) -> str:
    """Return an absolute path in the Unicode normal form that its folders and file have on disk, if one of them has.

    Windows and Linux write `é` as one character, macOS as two. A list that was written on one and files that were
    copied from the other look the same, and yet no name in the list is found.
    """
    if path.isascii() or os.path.lexists(path):
        return path
    found = ""
    for part in path.split("/"):
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        found += next((form for form in forms if os.path.lexists(f"{found}{form}")), part) + "/"
    return found.removesuffix("/")
