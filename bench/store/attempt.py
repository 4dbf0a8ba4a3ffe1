"""One attempt at a stage: its own folders, and the steps that make them the result.

Folders carry the claim's token, so that an attempt that was given up for dead and goes on (a stopped process, a
cancelled job) can neither write into its successor's files nor remove them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.files import file_digest

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_SAID = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
_FULL_BYTES = 1 << 20  # numpy and torch do not say why a file could not be written


def begin(work: Path, token: str) -> tuple[Path, Path]:
    """Make the folders `out` and `ckpt` of an attempt; files of dead attempts go, their checkpoints are taken over."""
    work.mkdir(parents=True, exist_ok=True)
    kept = []
    for left in work.iterdir():
        if left.name.startswith("ckpt"):
            kept.append(left)
        elif left.is_dir():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)
    out, ckpt = work / f"out.{token}", work / f"ckpt.{token}"
    kept.sort(key=lambda p: p.stat().st_mtime)
    if kept:
        os.rename(kept.pop(), ckpt)
    for left in kept:
        shutil.rmtree(left, ignore_errors=True)
    ckpt.mkdir(parents=True, exist_ok=True)
    out.mkdir(parents=True)
    return out, ckpt


def end(out: Path, ckpt: Path) -> None:
    """Remove what a finished attempt leaves, and nothing of any other."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(ckpt, ignore_errors=True)
    with contextlib.suppress(OSError):
        if not any(p.name.startswith(("out", "ckpt")) for p in out.parent.iterdir()):
            shutil.rmtree(out.parent, ignore_errors=True)


def publish(out: Path, target: Path) -> None:
    """Make `out` the result by one rename after everything in it is on disk.

    A folder without a manifest is no result and gives way.

    Raises:
        OSError: if a result is there by now (a copied store, a twin), which is kept.
    """
    for path in [*out.rglob("*"), out]:
        _fsync(path)
    if target.exists() and not is_result(target):
        shutil.rmtree(target)
    os.rename(out, target)
    _fsync(target.parent)
    _fsync(target.parent.parent)


def is_result(folder: Path) -> bool:
    """Tell whether a folder is a finished result."""
    return (folder / "manifest.json").is_file()


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield name and path of every file of a result, the manifest left out."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != "manifest.json":
            yield name, path


def file_record(path: Path) -> dict[str, Any]:
    """Return size and digest of a file, as they stand in a manifest."""
    return {"bytes": path.stat().st_size, "sha256": file_digest(path, 64)}


def first_cut_off(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Return the first file that is not there or has another size than its manifest says (no digest is computed)."""
    for name, record in manifest.get("files", {}).items():
        try:
            if (folder / name).stat().st_size == record["bytes"]:
                continue
        except OSError:
            pass
        return str(name)
    return None


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Tell whether an error comes of a full disk; libraries wrap it or tell no reason, so the disk is asked too."""
    chain: BaseException | None = error
    while chain is not None:
        said = str(chain)
        if (isinstance(chain, OSError) and chain.errno in _FULL) or any(text in said for text in _FULL_SAID):
            return True
        chain = chain.__cause__ or chain.__context__
    try:
        return shutil.disk_usage(folder).free < _FULL_BYTES
    except OSError:
        return False


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
