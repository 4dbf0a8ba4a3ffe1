"""Find the pictures of a list below one root, and check that each is there and is listed only once.

No picture is opened.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.data.csv_file import Problems, quoted
from bench.errors import DataError
from bench.paths import as_on_disk, counted_from

_ABSENT = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
_HINTED = 3  # only so many missing pictures get a hint, because each lists a folder, which may be very large


class Found(NamedTuple):
    """A picture that was looked up.

    Attributes:
        path: the path to open.
        real: the path behind all links.
        fault: what is wrong with it, or None.
        absent: whether there is no such file.
    """

    path: str
    real: str = ""
    fault: str | None = None
    absent: bool = False


def find_pictures(where: str, root: Path, paths: Sequence[str], lines: Sequence[int], follow_links: bool) -> list[Path]:
    """Return the path of every picture.

    A path may be absolute or hold `..`, but it must lead to a place below the root. A link that leads out of the root
    is followed only if `follow_links` is true.

    Args:
        where: the file that lists the pictures, for messages.
        root: the folder that the paths are relative to.
        paths: the paths, as they are written.
        lines: the line of each path, for messages.
        follow_links: whether links may lead out of the root.

    Raises:
        DataError: if the root is not a folder or pictures cannot be used, naming the first bad rows and their number.
    """
    # A CSV file or an archive may come from anybody. It must not be able to make us read other files of the user.
    if not root.is_dir():
        raise DataError(f"{where}: {root}: no such folder; check the setting 'root'{counted_from(root)}")
    places = _Places(root, follow_links)
    problems, first = Problems(where), dict[str, int]()
    found, n_absent = [], 0
    for line, text in zip(lines, paths, strict=True):
        picture = places.find(text)
        fault = picture.fault
        if picture.absent:
            n_absent += 1
            fault = f"{fault}{_hint(text, picture.path)}" if n_absent <= _HINTED else fault
        elif fault is None and first.setdefault(picture.real, line) != line:
            fault = f"the same picture as row {first[picture.real]}"
        if fault is not None:
            problems.add(line, f"{quoted(text)[1:-1]}: {fault}" if text else fault)
        found.append(picture)
    if n_absent == len(found) > 1:
        at = f"first: {quoted(paths[0])[1:-1]}"
        none = f"none of the {n_absent} pictures is below the root {root} ({at})"
        raise DataError(f"{where}: {none}; check 'root'{counted_from(root)}{_hint(paths[0], found[0].path)}")
    problems.raise_if_any("row")
    return [Path(p.path) for p in found]


class _Places:
    """Looks up paths below a root. Each folder is resolved only once, because a list may hold half a million paths."""

    def __init__(self, root: Path, follow_links: bool) -> None:
        self.given, self.root = os.path.abspath(root), os.path.realpath(root)
        self._given_below, self._root_below = (p.rstrip("/") + "/" for p in (self.given, self.root))
        self.follow_links = follow_links
        self._real = {self.root.rstrip("/"): self.root.rstrip("/")}

    def find(self, text: str) -> Found:
        if not text:
            return Found("", fault="the path is blank")
        path = os.path.normpath(os.path.join(self.given, text))
        if path.startswith(self._given_below):  # the root may itself be reached by a link: use its real place
            path = self._root_below + path[len(self._given_below) :]
        # First the path as it is written, and below the place that links lead to. One check alone would let through
        # either `../..` or a link.
        if not self._inside(path):
            return Found(path, fault=f"leads out of the root {self.root} (by '..' or an absolute path)")
        path = as_on_disk(path)
        try:
            info = os.lstat(path)
        except OSError as error:
            if error.errno in _ABSENT:
                return Found(path, fault="no such file", absent=True)
            return Found(path, fault=f"cannot be reached ({error.strerror})")
        folder, _, name = path.rpartition("/")
        real = path if path == self.root else f"{self._folder(folder)}/{name}"
        if stat.S_ISLNK(info.st_mode):
            real = os.path.realpath(path)
            try:
                info = os.stat(path)
            except OSError:
                return Found(path, fault="a link to nowhere")
        if not self._inside(real) and not self.follow_links:
            return Found(path, fault="a link that leads out of the root; set follow_links: true if it may")
        return Found(path, real, _fault(info))

    def _inside(self, path: str) -> bool:
        return path.startswith(self._root_below) or path == self.root

    def _folder(self, path: str) -> str:
        """Return the real place of a folder below the root, behind all links."""
        if path not in self._real:
            above, _, name = path.rpartition("/")
            self._real[path] = os.path.realpath(path) if os.path.islink(path) else f"{self._folder(above)}/{name}"
        return self._real[path]


def _fault(info: os.stat_result) -> str | None:
    if stat.S_ISDIR(info.st_mode):
        return "is a folder"
    if not stat.S_ISREG(info.st_mode):
        return "not a file"
    return "the file is empty" if info.st_size == 0 else None


def _hint(text: str, path: str) -> str:
    """Return a hint at what may be meant by a path that leads to no file, or an empty text."""
    if "\\" in text:
        return "; write / between folders"
    folder, name = os.path.split(path)
    try:
        same = next((n for n in os.listdir(folder) if n.casefold() == name.casefold()), None)
    except OSError:
        return ""
    return f"; there is {quoted(same)}, capitals count" if same else ""
