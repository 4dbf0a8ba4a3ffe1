"""Verify that every result still holds what was written, by comparing the digests of all files in parallel."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import StoreError
from bench.files import read_json
from bench.pipeline.key import key_of
from bench.store import attempt
from bench.store.cleanup import discard
from bench.store.inventory import results
from bench.store.store import Store

Problem = Literal["missing", "changed", "extra", "manifest", "key", "unreadable"]


@dataclass(frozen=True)
class Damage:
    """What is wrong with one file of a result. If the result as a whole is wrong, `file` is `manifest.json`.

    A file that we may not read is `unreadable`: whether it is whole, nobody knows.
    """

    stage: str
    key: str
    file: str
    problem: Problem
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Verified:
    """The result of `verify`: the number of stages, files and bytes that were read, and all damage."""

    stages: int
    files: int
    bytes: int
    damage: list[Damage]

    def damaged(self) -> list[tuple[str, str]]:
        """Return the kind and key of every damaged result, without those that have a file that we may not read."""
        return sorted({(d.stage, d.key) for d in self.damage} - set(self.unreadable()))

    def unreadable(self) -> list[tuple[str, str]]:
        """Return the kind and key of every result that we may not read."""
        return sorted({(d.stage, d.key) for d in self.damage if d.problem == "unreadable"})


def verify(
    store: Store,
    keys: Collection[str] | None = None,
    *,
    jobs: int = 1,
    on_progress: Callable[[int, int], object] = lambda done, total: None,
) -> Verified:
    """Compare every file of every result with its manifest, and return what is damaged.

    Args:
        store: the store; it is only read.
        keys: the keys of the results to look at; None means all.
        jobs: how many results are read in parallel.
        on_progress: called with the number of bytes done and the number in all.
    """
    found = [r for r in results(store) if keys is None or r[1] in keys]
    total = sum(_size_from_manifest(path)[1] for _, _, path in found)
    damage: list[Damage] = []
    n_stages = n_files = n_bytes = 0
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for seen in pool.map(lambda r: _result(store, *r), found):
            if seen is not None:
                damage += seen.damage
                n_stages, n_files, n_bytes = n_stages + 1, n_files + seen.files, n_bytes + seen.bytes
                on_progress(n_bytes, total)
    return Verified(n_stages, n_files, n_bytes, damage)


def _result(store: Store, stage: str, key: str, path: Path) -> Verified | None:
    """Return what was found in one result; None if it was cleaned away, or not yet finished, while we read it."""
    manifest = read_json(path / "manifest.json")
    try:
        damage = list(_whole(stage, key, path, manifest)) or list(_files(stage, key, path, manifest or {}))
    except PermissionError as error:
        damage = [Damage(stage, key, "manifest.json", "unreadable", _may_not(error))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        said = f"cannot be understood ({type(error).__name__}: {error})"
        damage = [Damage(stage, key, "manifest.json", "manifest", said)]
    # Runs and clean-up may be active. A result that is removed or computed again while we read it looks damaged, but
    # is not.
    if damage and (not path.exists() or (store.locks.holder(key) and not attempt.is_result(path))):
        return None
    return Verified(1, *_size_from_manifest(path), damage)


def _size_from_manifest(path: Path) -> tuple[int, int]:
    """Return the number of files and of bytes in a manifest; 0 for what it does not say."""
    manifest = read_json(path / "manifest.json") or {}
    files, size = manifest.get("files"), manifest.get("bytes")
    return len(files) if isinstance(files, dict) else 0, size if isinstance(size, int) else 0


def _whole(stage: str, key: str, path: Path, manifest: dict[str, Any] | None) -> Iterator[Damage]:
    """Yield what is wrong with the manifest of a result."""
    if manifest is None:
        with contextlib.suppress(FileNotFoundError), open(path / "manifest.json", "rb"):
            pass  # a PermissionError says that it is not for us to read; then nothing is known to be wrong with it
    if manifest is None or not isinstance(manifest.get("files"), dict):
        there = "cannot be read" if (path / "manifest.json").exists() else "is not there"
        yield Damage(stage, key, "manifest.json", "manifest", there)
    elif (manifest.get("stage"), manifest.get("key")) != (stage, key):
        other = f"{manifest.get('stage')}/{manifest.get('key')}"
        yield Damage(stage, key, "manifest.json", "key", f"is that of {other}")
    elif key_of(manifest.get("identity", {})) != key:
        yield Damage(stage, key, "manifest.json", "key", "its settings are not those that the key stands for")


def _files(stage: str, key: str, path: Path, manifest: dict[str, Any]) -> Iterator[Damage]:
    """Yield what is wrong with the files of a result."""
    told: dict[str, Any] = manifest["files"]
    there = dict(attempt.files_of(path))
    for name in sorted(there.keys() - told.keys()):
        if not os.path.basename(name).startswith(".nfs"):  # NFS keeps a removed file so while a process has it open
            yield Damage(stage, key, name, "extra", f"{there[name].stat().st_size} bytes")
    for name in sorted(told):  # also what was not listed: it may lie in a folder that we may not list
        try:
            record = attempt.file_record(path / name)
        except FileNotFoundError:
            yield Damage(stage, key, name, "missing", f"{told[name]['bytes']} bytes")
            continue
        except PermissionError as error:
            yield Damage(stage, key, name, "unreadable", _may_not(error))
            continue
        except OSError as error:
            yield Damage(stage, key, name, "changed", f"cannot be read: {error.strerror}")
            continue
        if record["bytes"] != told[name]["bytes"]:
            yield Damage(stage, key, name, "changed", f"{record['bytes']} bytes, not {told[name]['bytes']}")
        elif record["sha256"] != told[name]["sha256"]:
            yield Damage(stage, key, name, "changed", "another content")


def _may_not(error: OSError) -> str:
    return f"may not be read: {error.strerror}"


def delete_damaged(store: Store, found: Verified) -> list[tuple[str, str]]:
    """Remove damaged results, so that they are computed again, and return their kinds and keys.

    A result that a process computes at this moment is left alone, and so is one that we may not read.

    Raises:
        StoreError: if the store cannot be written.
    """
    gone = []
    for stage, key in found.damaged():
        try:
            claim = store.locks.try_claim(key, {})
            if claim is None:
                continue
            try:
                discard(store, store.root / stage / key)
            finally:
                claim.release()
        except FileNotFoundError:  # another process has removed it already
            continue
        except OSError as error:
            raise StoreError(f"store {store.root}: {key[:8]} cannot be removed: {error.strerror}") from error
        gone.append((stage, key))
    return gone
