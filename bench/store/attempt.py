"""One attempt to compute a stage: its folders, and the steps that turn them into the result.

The names of the folders carry the token of the claim. A stopped process can be taken for dead and wake up after another
has taken over. With folders of its own, it can neither write into its successor's files nor remove them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.files import file_digest, same_mode_below

_FULL = {errno.ENOSPC, errno.EDQUOT}
_FULL_SAID = ("No space left on device", "os error 28", "Disk quota exceeded", "os error 122")
_FULL_BYTES = 1 << 20  # numpy and torch do not say why a write failed, so less free space than this counts as full


def begin(work: Path, token: str) -> tuple[Path, Path]:
    """Make the folders `out` and `ckpt` of a new attempt, and return them.

    The output of dead attempts is removed. The newest folder of checkpoints among them becomes the new `ckpt`.
    """
    # We hold the claim, so every other folder here belongs to an attempt that is dead or has lost its claim. Partial
    # output cannot be trusted and is computed again, but a checkpoint has a digest, so hours of training can be kept.
    # The rename moves them out of reach of an old attempt that still runs.
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


def written_so_far(kind: Path, key: str, name: str) -> Path | None:
    """Return a file of a result; while it is computed, the newest of that name beside the checkpoints; None if none.

    Args:
        kind: the folder of all results of a kind of stage.
        key: the key of the stage.
        name: the name of the file.
    """
    if is_result(kind / key):
        return kind / key / name
    found = []
    for path in (kind / f"{key}.work").glob(f"ckpt*/{name}"):
        with contextlib.suppress(OSError):  # its folder was renamed since
            found.append((path.stat().st_mtime, path))
    return max(found)[1] if found else None


def end(out: Path, ckpt: Path) -> None:
    """Remove the folders of a finished attempt, and the work folder if no other attempt has a folder in it."""
    shutil.rmtree(out, ignore_errors=True)
    shutil.rmtree(ckpt, ignore_errors=True)
    with contextlib.suppress(OSError):
        if not any(p.name.startswith(("out", "ckpt")) for p in out.parent.iterdir()):
            shutil.rmtree(out.parent, ignore_errors=True)


def publish(out: Path, target: Path) -> None:
    """Make `out` the result by one rename, after everything in it is on disk.

    A folder at `target` without a manifest is not a result and is replaced.

    Raises:
        OSError: if there is a result at `target` by now (from another process, or copied there). That one is kept.
    """
    # Readers see the whole result or none, because the rename is atomic. The fsync comes first because a file system
    # may write the rename to disk before the data: after a power failure, a result with empty files would look finished
    # and never be computed again.
    same_mode_below(out)
    for path in [*out.rglob("*"), out]:
        _fsync(path)
    if target.exists() and not is_result(target):
        shutil.rmtree(target)
    os.rename(out, target)
    _fsync(target.parent)
    _fsync(target.parent.parent)


def is_result(folder: Path) -> bool:
    """Tell whether a folder is a finished result."""
    try:  # without a `Path`, which takes longer to make than to look up: a plan asks several times for each stage
        return stat.S_ISREG(os.stat(f"{folder}/manifest.json").st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False


def files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield the name and path of every file of a result except the manifest."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (name := path.relative_to(folder).as_posix()) != "manifest.json":
            yield name, path


def file_record(path: Path) -> dict[str, Any]:
    """Return the size and digest of a file, as a manifest records them."""
    return {"bytes": path.stat().st_size, "sha256": file_digest(path, 64)}


def first_cut_off(folder: Path, manifest: dict[str, Any]) -> str | None:
    """Return the first file that is missing or has another size than the manifest says, or None.

    Only sizes are compared: this runs every time a result is opened, and digests of large results take minutes.
    """
    for name, record in manifest.get("files", {}).items():
        try:
            if os.stat(f"{folder}/{name}").st_size == record["bytes"]:
                continue
        except (FileNotFoundError, NotADirectoryError):
            pass
        return str(name)
    return None


def is_disk_full(error: BaseException, folder: Path) -> bool:
    """Tell whether a full disk caused an error."""
    # Libraries wrap the OSError, or raise an error of their own that gives no reason. So the whole chain of causes is
    # searched, and then the free space is looked up.
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
