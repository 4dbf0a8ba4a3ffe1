"""List everything that stages have in a store, finished or not. Sizes, clean-up and verification all use this list.

Records of cells, reports, studies and the folders of trackers are not in it, so clean-up never touches them. The only
exception are temporary files of records that were never finished.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.store.store import Store

What = Literal["result", "work", "failure", "log", "lock", "temporary", "trash"]
_KEY = re.compile(r"[0-9a-f]{32}")
_TEMPORARY = re.compile(r"\..+\.\d+")  # a file of `bench.files.write_text` that a killed process left behind
_SUFFIXES: dict[str, What] = {"": "result", ".work": "work", ".failed.json": "failure", ".log": "log"}
TRASH = ".trash"


@dataclass(frozen=True)
class Entry:
    """One thing in a store.

    Attributes:
        what: the kind of entry.
        stage: the kind of the stage; empty if the entry belongs to no stage.
        key: the key of the stage, or a name if there is no stage.
        path: the file or folder.
        bytes: the size of everything in it.
        touched: when the newest file in it was written (seconds, by the clock of the file system).
    """

    what: What
    stage: str
    key: str
    path: Path
    bytes: int
    touched: float

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that are printed."""
        return {"what": self.what, "stage": self.stage, "key": self.key, "bytes": self.bytes}


def inventory(store: Store) -> Iterator[Entry]:
    """Yield everything that stages have in a store. Entries that vanish while we look are left out."""
    for what, stage, key, path in _listed(store.root):
        if weight := weigh(path):
            yield Entry(what, stage, key, path, *weight)
    for key in store.locks.names():
        for name in (key, f"{key}.lease"):
            if weight := weigh(store.locks.folder / name):
                yield Entry("lock", "", key, store.locks.folder / name, *weight)


def results(store: Store) -> Iterator[tuple[str, str, Path]]:
    """Yield the kind, key and folder of every result, readable or not."""
    for what, stage, key, path in _listed(store.root):
        if what == "result" and path.is_dir():
            yield stage, key, path


def _listed(root: Path) -> Iterator[tuple[What, str, str, Path]]:
    for kind in _names(root):
        if kind == TRASH:
            yield from (("trash", "", name, root / TRASH / name) for name in _names(root / TRASH))
        elif kind == "logs":
            for stage in _names(root / kind):
                yield from (e for e in _of_stages(root / kind / stage) if e[0] == "log")
        elif kind in ("cells", "studies"):
            for path in sorted((root / kind).rglob(".*")):
                yield from _temporary(path.parent, path.name)
        else:
            yield from (e for e in _of_stages(root / kind) if e[0] != "log")


def _of_stages(folder: Path) -> Iterator[tuple[What, str, str, Path]]:
    for name in _names(folder):
        key, suffix = name[:32], name[32:]
        if suffix in _SUFFIXES and _KEY.fullmatch(key):
            yield _SUFFIXES[suffix], folder.name, key, folder / name
        yield from _temporary(folder, name)


def _temporary(folder: Path, name: str) -> Iterator[tuple[What, str, str, Path]]:
    if _TEMPORARY.fullmatch(name):
        yield "temporary", "", name, folder / name


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return []


def weigh(path: Path) -> tuple[int, float] | None:
    """Return the size of a file or folder in bytes and when its newest part was written; None if it has gone."""
    try:
        status = path.lstat()
        is_folder = stat.S_ISDIR(status.st_mode)  # for a link, its own size counts, not that of its target
        size, newest = (0 if is_folder else status.st_size), status.st_mtime
        if is_folder:
            for entry in os.scandir(path):
                below = weigh(Path(entry.path))
                size, newest = (size + below[0], max(newest, below[1])) if below else (size, newest)
    except OSError:
        return None
    return size, newest


def clock(root: Path) -> float:
    """Return the time by the clock that stamps the store's files. On a network disk, that is the file server's."""
    try:
        with tempfile.TemporaryFile(dir=root) as handle:
            return os.fstat(handle.fileno()).st_mtime
    except OSError:
        return time.time()


def size_rows(store: Store) -> list[dict[str, Any]]:
    """Return one row for each kind of stage (count, bytes, the largest and its key), then one for everything else."""
    groups: dict[tuple[str, str], list[tuple[int, str]]] = {}
    for entry in inventory(store):
        groups.setdefault((entry.what, entry.stage if entry.what == "result" else ""), []).append(
            (entry.bytes, entry.key)
        )
    for name in _names(store.root):
        path = store.root / name
        if name in ("cells", "reports", "studies", "wandb", "slurm") and (weight := weigh(path)):
            groups[(name, "")] = [(weight[0], "")]
    rows = []
    for (what, stage), found in groups.items():
        size, key = max(found)
        row = {"what": what, "stage": stage, "count": len(found), "bytes": sum(b for b, _ in found)}
        rows.append(row | {"largest_bytes": size, "largest_key": key})
    return sorted(rows, key=lambda r: (r["what"] != "result", -r["bytes"]))
