"""The folder of a report. One that may be passed on has a folder of its own, which holds nothing else."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from bench.errors import ConfigError, listed

MARKER = "shared.txt"
LISTING = "files.txt"
_WROTE = (
    "Written by `bench report`. The next one into this folder removes those of these files that it does not write.\n"
)
_SAID = "Written by `bench report --share`: no pictures, paths or ids of credentialed data are in these files.\n"


@contextlib.contextmanager
def folder_for(out: Path, share: bool) -> Iterator[Path]:
    """Give the folder to write a report into. A report to be passed on appears there as a whole, or not at all.

    Raises:
        ConfigError: if the folder for a report to be passed on holds anything but such a report, or if the folder for a
            local report holds one to be passed on: no picture may lie beside it.
    """
    if not share:
        if (out / MARKER).exists():
            raise ConfigError(f"--out {out}: holds a report to be passed on; give a local one another folder")
        out.mkdir(parents=True, exist_ok=True)
        yield out
        return
    shown, out = out, out.resolve()  # a link is followed, `.` has a name
    if Path.cwd().is_relative_to(out):
        raise ConfigError(f"--out {shown}: is the folder that the command runs in, or above it; give a new one")
    if odd := _others(out):
        raise ConfigError(f"--out {shown}: holds files that no --share wrote ({listed(odd, 3)}); give a new folder")
    new = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        new.mkdir(parents=True)
        yield new
        names = sorted(str(p.relative_to(new)) for p in new.rglob("*") if p.is_file())
        (new / MARKER).write_text(_SAID + "".join(f"{name}\n" for name in names), encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        os.replace(new, out)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def forget_older(out: Path, names: list[Path]) -> None:
    """Remove the files of an older local report that are not among `names`, those of the new one, and note these.

    A figure of a row that is gone would otherwise lie beside the new figures and pass for one of them. A file that no
    report wrote is left alone.
    """
    listing = out / LISTING
    older = listing.read_text(encoding="utf-8").splitlines()[1:] if listing.is_file() else []
    for name in {*older} - {str(name) for name in names}:
        (out / name).unlink(missing_ok=True)
    listing.write_text(_WROTE + "".join(f"{name}\n" for name in names), encoding="utf-8")


def _others(out: Path) -> list[str]:
    """Return the files in a folder that do not belong to a report to be passed on."""
    if not out.exists():
        return []
    marker = out / MARKER
    known = set(marker.read_text(encoding="utf-8").splitlines()[1:]) | {MARKER} if marker.is_file() else set()
    return [name for p in out.rglob("*") if not p.is_dir() and (name := str(p.relative_to(out))) not in known]
