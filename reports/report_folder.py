"""The folder of a report: it appears as a whole, and never in place of a file that no report wrote.

A report that may be passed on has a folder of its own, which holds nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError, listed

if TYPE_CHECKING:
    from bench.matrix.matrix import Matrix

MARKER = "shared.txt"
LISTING = "files.txt"
_WROTE = (
    "Written by `bench report`. The next one into this folder removes those of these files that it does not write.\n"
)
_SAID = "Written by `bench report --share`: no pictures, paths or ids of credentialed data are in these files.\n"


@contextlib.contextmanager
def folder_for(out: Path, matrix: Matrix, share: bool) -> Iterator[Path]:
    """Give a new folder to write a report into. What is in it then appears in `out`.

    A report to be passed on replaces the whole folder. A local one replaces an older one there, and leaves alone what
    no report wrote. If writing fails, `out` stays as it was.

    Raises:
        ConfigError: if the folder for a report to be passed on holds anything but such a report, if that for a local
            report holds one to be passed on (no picture may lie beside it), or if a file would be written over that no
            report wrote.
    """
    if not share:
        if (out / MARKER).exists():
            raise ConfigError(f"--out {out}: holds a report to be passed on; give a local one another folder")
        new_here = not out.exists()
        try:
            with _temporary(out / f".new-{os.getpid()}") as new:
                yield new
                _move_in(new, out, matrix)
        except BaseException:
            if new_here:
                shutil.rmtree(out, ignore_errors=True)
            raise
        return
    shown, out = out, out.resolve()  # a link is followed, `.` has a name
    if Path.cwd().is_relative_to(out):
        raise ConfigError(f"--out {shown}: is the folder that the command runs in, or above it; give a new one")
    if odd := _others(out):
        raise ConfigError(f"--out {shown}: holds files that no --share wrote ({listed(odd, 3)}); give a new folder")
    with _temporary(out.with_name(f".{out.name}.{os.getpid()}")) as new:
        yield new
        (new / MARKER).write_text(_SAID + "".join(f"{name}\n" for name in _files(new)), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        os.replace(new, out)


def is_of(folder: Path, matrix: Matrix) -> bool:
    """Tell whether the local report in a folder is of just the cells of a matrix, with their settings and code."""
    return _read(folder)[0] == _digest(matrix)


@contextlib.contextmanager
def _temporary(new: Path) -> Iterator[Path]:
    try:
        new.mkdir(parents=True)
        yield new
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _move_in(new: Path, out: Path, matrix: Matrix) -> None:
    """Move the files of a new local report to those of an older one, and remove what only the older one had.

    A figure of a row that is gone would otherwise lie beside the new figures and pass for one of them.
    """
    names, older = _files(new), _read(out)[1]
    ours = [*older, LISTING] if older else []  # a `files.txt` of somebody else lists files that are not ours to remove
    if odd := [name for name in [*names, LISTING] if (out / name).exists() and name not in ours]:
        raise ConfigError(
            f"--out {out}: holds files that no report wrote ({listed(odd, 3)}); give another folder, or remove them"
        )
    _note(out, "", [*dict.fromkeys([*older, *names])])  # if this is killed half-way, the next one may replace them all
    for name in names:
        (out / name).parent.mkdir(exist_ok=True)
        os.replace(new / name, out / name)
    for name in set(older) - set(names):
        (out / name).unlink(missing_ok=True)
    _note(out, _digest(matrix), names)


def _note(out: Path, digest: str, names: list[str]) -> None:
    (out / LISTING).write_text(_WROTE + "".join(f"{line}\n" for line in [f"cells {digest}", *names]), encoding="utf-8")


def _read(out: Path) -> tuple[str, list[str]]:
    """Return the digest of the cells of the local report in a folder and the names of its files; empty without one."""
    listing = out / LISTING
    text = listing.read_text(encoding="utf-8", errors="replace") if listing.is_file() else ""
    if not text.startswith(f"{_WROTE}cells "):
        return "", []
    lines = text.splitlines()
    return lines[1].removeprefix("cells "), lines[2:]


def _digest(matrix: Matrix) -> str:
    """Return what tells the cells of a matrix from others: their names, and the keys of their stages."""
    said = "\n".join(" ".join([cell.name, *(stage.key for stage in cell.targets)]) for cell in matrix.cells)
    return hashlib.sha256(said.encode()).hexdigest()


def _files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def _others(out: Path) -> list[str]:
    """Return the files in a folder that do not belong to a report to be passed on."""
    if not out.exists():
        return []
    marker = out / MARKER
    known = set(marker.read_text(encoding="utf-8").splitlines()[1:]) | {MARKER} if marker.is_file() else set()
    return [name for p in out.rglob("*") if not p.is_dir() and (name := str(p.relative_to(out))) not in known]
