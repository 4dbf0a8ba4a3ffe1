"""Find the three label files of a CXR-LT release, and compute the digest that stands for them in a key."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from bench.data.csv_file import quoted
from bench.data.kinds.cxr_lt.releases import Release
from bench.errors import DataError, listed
from bench.files import file_digest
from bench.paths import counted_from


def find_files(labels: Path, release: Release, where: str, others: Mapping[str, Release]) -> tuple[Path, ...]:
    """Return the label files of train, val and test.

    Args:
        labels: the folder that the user gave, which may be the release's own folder or the one above it.
        release: the release to look for.
        where: what messages call the data set.
        others: other releases, by name, one of which the user may have meant.

    Raises:
        DataError: if the folder or a file is missing. The message says what was looked for.
    """
    if not labels.is_dir():
        what = "is a file, want its folder" if labels.exists() else "no such folder"
        raise DataError(f"{where}: {labels}: {what}; check the setting 'labels'{counted_from(labels)}")
    folders = [f for f in dict.fromkeys((labels / release.folder, labels)) if f.is_dir()]
    for folder in folders:
        found = [next((folder / n for n in names if (folder / n).is_file()), None) for names in release.files]
        if all(found):
            return tuple(path for path in found if path)
    wanted = listed(names[0] for names in release.files)
    for name, other in others.items():
        places = (labels / other.folder, labels)
        if other is not release and all(any((p / n).is_file() for p in places for n in ns) for ns in other.files):
            raise DataError(f"{where}: {labels}: holds the files of release '{name}'; set `release` to it")
    have = listed(quoted(p.name)[1:-1] for f in folders for p in f.glob("*.csv")) or "none"
    raise DataError(f"{where}: {labels}: want {wanted} there or in {release.folder or 'it'} (CSV files there: {have})")


def digest(files: tuple[Path, ...]) -> str:
    """Return the digest of the label files that stands for them in a key, 32 hex digits."""
    # It is the digest of the digests of train, val and test, in this order, so the same file in another part gets
    # another key. File names do not count: a renamed copy of a release is the same data.
    return hashlib.sha256(" ".join(_file_digest(f, version(f)) for f in files).encode()).hexdigest()[:32]


def version(path: Path) -> tuple[int, ...]:
    """Return the inode, size and time of a file. One of them changes when the file changes."""
    found = path.stat()
    return (found.st_ino, found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=16)
def _file_digest(path: Path, seen: tuple[int, ...]) -> str:
    # `seen` is there only for the cache: a changed file has another version and is read again.
    return file_digest(path, 64)
