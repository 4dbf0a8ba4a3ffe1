"""Digests of whole files, remembered for each user: a file that has not changed since is not read again.

What is remembered of a file counts only while its size, both of its times and its inode are what they were. The files
of one folder share one small file in the user's cache. It holds digests alone: no name and no path.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.files import write_bytes

AFFECTS_RESULTS = False  # a digest is a fact about a file, and no line here can change it

Version = tuple[int, int, int, int]
ABSENT: Version = (-1, 0, 0, 0)  # of a file that is not there
UNSURE: Version = (-2, 0, 0, 0)  # of a file that changed so lately that it may change again unseen; equals no version
_SETTLED_NS = 2 * 10**9  # the coarsest clock of a file system ticks every two seconds
_NAME, _ROW = 16, 80  # bytes: the digest of a path; with it a version (four int64) and a SHA-256
_SAID_BYTES = 1 << 30  # reading less than this takes seconds, and nothing is said
_BATCH = 256  # files between two chances for Ctrl-C and for the bar to move


def version(path: Path) -> Version:
    """Return size, mtime, ctime (in ns) and inode of a file, or `ABSENT` if it is not there.

    Raises:
        OSError: if that cannot be found out.
    """
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ABSENT
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def settled(found: Version, now_ns: int) -> Version:
    """Return the version of a file if a later change of it would show, else `UNSURE`.

    Args:
        found: its version before it was read.
        now_ns: the time before it was read, in ns since 1970.
    """
    # A file that is written twice within one tick of the clock can have equal times, and the same size and inode.
    return found if max(found[1], found[2]) < now_ns - _SETTLED_NS else UNSURE


def versions(paths: Sequence[Path], workers: int) -> npt.NDArray[np.int64]:
    """Return the `version` of every file, `int64 [n, 4]`, looked up by threads.

    Raises:
        OSError: if one cannot be found out.
    """
    if len(paths) == 1:  # thousands of cells may ask for the same file; threads would cost more than all else
        return np.array([version(paths[0])], np.int64)
    blocks = [paths[start : start + _BATCH] for start in range(0, len(paths), _BATCH)]
    with ThreadPoolExecutor(workers) as pool:  # a task for each file would cost more than the look at a local one
        found = pool.map(lambda block: [version(path) for path in block], blocks)
        return np.array([one for block in found for one in block], np.int64).reshape(-1, 4)


def digest_of(path: Path, hex_digits: int = 32) -> str:
    """Return the first `hex_digits` digits of the SHA-256 of a file.

    Raises:
        OSError: if the file cannot be read.
    """
    return digests([path], path.parent)[0].hex()[:hex_digits]


def digests(paths: Sequence[Path], root: Path, workers: int = 4) -> list[bytes]:
    """Return the SHA-256 of every file, 32 bytes each. Files that have not changed are not read again.

    A long reading shows a bar on a terminal, and one line elsewhere.

    Args:
        paths: the files.
        root: the folder whose files are remembered together.
        workers: how many threads look the files up and read them.

    Raises:
        OSError: if a file cannot be read. What was read before it is remembered.
    """
    known = _Remembered.of(root)
    names = [hashlib.blake2b(os.fsencode(os.path.abspath(p)), digest_size=16).digest() for p in paths]
    now, seen = time.time_ns(), versions(paths, workers)
    found = [known.get(name, seen[i].tobytes()) for i, name in enumerate(names)]
    left = [i for i, there in enumerate(found) if there is None]
    if not left:
        return [digest for digest in found if digest is not None]
    try:
        for i, read in zip(left, _read([paths[i] for i in left], seen[left, 0], workers), strict=True):
            found[i] = read
            before: Version = tuple(seen[i].tolist())
            if settled(before, now) == before == version(paths[i]):
                known.add(names[i], seen[i].tobytes(), read)
    finally:
        known.save()
    return [digest for digest in found if digest is not None]


def _read(paths: list[Path], sizes: npt.NDArray[np.int64], workers: int) -> Iterator[bytes]:
    """Yield the SHA-256 of every file, in order."""
    with _bar(len(paths), int(sizes.clip(0).sum())) as advance, ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(paths), _BATCH):
            batch = slice(start, start + _BATCH)
            for digest, size in zip(pool.map(_sha256, paths[batch]), sizes[batch].tolist(), strict=True):
                advance(size)
                yield digest


def _sha256(path: Path) -> bytes:
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").digest()


@contextlib.contextmanager
def _bar(n: int, n_bytes: int) -> Iterator[Callable[[int], None]]:
    """Say that a long reading begins, show a bar if stderr is a terminal, and yield what moves it by some bytes."""
    if n_bytes < _SAID_BYTES:
        yield lambda done: None
        return
    from rich.console import Console
    from rich.filesize import decimal
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    what = f"reading {n:,} {'file' if n == 1 else 'files'} ({decimal(n_bytes)}) once, to know them by their content"
    console = Console(stderr=True)
    if not console.is_terminal:
        sys.stderr.write(f"{what}\n")
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=n_bytes)
        yield lambda done: bar.advance(task, done)


class _Remembered:
    """What is remembered of the files of one folder."""

    def __init__(self, path: Path) -> None:
        """Load what the file `path` holds."""
        self.path, self._known, self._new = path, _load(path), dict[bytes, bytes]()

    @classmethod
    def of(cls, root: Path) -> _Remembered:
        """Return what is remembered of the files of a folder, loaded once per process."""
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        name = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:32]
        return _once(home / "bench" / "digests" / f"{name}")

    def get(self, name: bytes, seen: bytes) -> bytes | None:
        """Return the SHA-256 of a file whose version is `seen`, or None if it is not remembered."""
        entry = self._known.get(name, b"")
        return entry[len(seen) :] if entry.startswith(seen) else None

    def add(self, name: bytes, seen: bytes, digest: bytes) -> None:
        """Remember the SHA-256 of a file from the next `save` on."""
        self._new[name] = seen + digest

    def save(self) -> None:
        """Write what is new beside what other processes have written. A home that cannot be written stays as it is."""
        if not self._new:
            return
        self._known = self._known | _load(self.path) | self._new
        self._new = {}
        rows = b"".join(name + entry for name, entry in self._known.items())
        with contextlib.suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_bytes(self.path, hashlib.sha256(rows).digest() + rows)


@functools.cache
def _once(path: Path) -> _Remembered:
    return _Remembered(path)


def _load(path: Path) -> dict[bytes, bytes]:
    """Return name → version and SHA-256 of the files in a file of the cache; nothing if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return {}
    rows = content[32:]
    # After a power failure, parts of the file can be zeros: a version without its digest would be taken for a content.
    if hashlib.sha256(rows).digest() != content[:32]:
        return {}
    return {rows[i : i + _NAME]: rows[i + _NAME : i + _ROW] for i in range(0, len(rows), _ROW)}
