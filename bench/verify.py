"""Does every result hold what was written? Digests of all files, computed beside each other."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from bench import attempt
from bench.errors import StoreError
from bench.files import read_json
from bench.housekeeping import discard
from bench.inventory import results
from bench.stage import key_of
from bench.store import Store

Problem = Literal["missing", "changed", "extra", "manifest", "key"]


@dataclass(frozen=True)
class Damage:
    """What is wrong with one file of a result, or with the whole (`file` is `manifest.json`)."""

    stage: str
    key: str
    file: str
    problem: Problem
    detail: str

    def as_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Verified:
    """What `verify` saw: numbers of stages, files and bytes, and all damage."""

    stages: int
    files: int
    bytes: int
    damage: list[Damage]

    def damaged(self) -> list[tuple[str, str]]:
        """Return kind and key of every damaged result."""
        return sorted({(d.stage, d.key) for d in self.damage})


def verify(
    store: Store,
    keys: Collection[str] | None = None,
    *,
    jobs: int = 1,
    on_progress: Callable[[int, int], Any] = lambda done, total: None,
) -> Verified:
    """Compare every file of every result (or of those in `keys`) with its manifest.

    Args:
        store: the store; it is only read.
        keys: look at these results alone.
        jobs: files read at once.
        on_progress: hears bytes done and bytes in all.
    """
    found = [r for r in results(store) if keys is None or r[1] in keys]
    manifests = {path: read_json(path / "manifest.json") for _, _, path in found}
    total = sum(int((m or {}).get("bytes", 0)) for m in manifests.values())
    damage, n_files, n_bytes = [], 0, 0
    with ThreadPoolExecutor(max_workers=jobs) as pool:
        for stage, key, path in found:
            seen = list(_whole(stage, key, path, manifests[path])) or list(
                _files(stage, key, path, manifests[path] or {}, pool)
            )
            if not path.exists() or (store.locks.holder(key) and not attempt.is_result(path)):
                continue  # cleaned away, or on its way, while we read
            damage += seen
            n_files += len((manifests[path] or {}).get("files", {}))
            n_bytes += int((manifests[path] or {}).get("bytes", 0))
            on_progress(n_bytes, total)
    return Verified(len(found), n_files, n_bytes, damage)


def _whole(stage: str, key: str, path: Path, manifest: dict[str, Any] | None) -> Iterator[Damage]:
    """Yield what is wrong with a manifest."""
    if manifest is None or not isinstance(manifest.get("files"), dict):
        there = "cannot be read" if (path / "manifest.json").exists() else "is not there"
        yield Damage(stage, key, "manifest.json", "manifest", there)
    elif (manifest.get("stage"), manifest.get("key")) != (stage, key):
        other = f"{manifest.get('stage')}/{manifest.get('key')}"
        yield Damage(stage, key, "manifest.json", "key", f"is that of {other}")
    elif key_of(manifest.get("identity", {})) != key:
        yield Damage(stage, key, "manifest.json", "key", "its settings are not those that the key stands for")


def _files(stage: str, key: str, path: Path, manifest: dict[str, Any], pool: ThreadPoolExecutor) -> Iterator[Damage]:
    """Yield what is wrong with the files of a result."""
    told: dict[str, Any] = manifest["files"]
    there = dict(attempt.files_of(path))
    for name in sorted(told.keys() - there.keys()):
        yield Damage(stage, key, name, "missing", f"{told[name]['bytes']} bytes")
    for name in sorted(there.keys() - told.keys()):
        if not os.path.basename(name).startswith(".nfs"):  # a file that was removed while somebody reads it
            yield Damage(stage, key, name, "extra", f"{there[name].stat().st_size} bytes")
    common = sorted(there.keys() & told.keys())
    for name, record in zip(common, pool.map(_record, [there[n] for n in common]), strict=True):
        if isinstance(record, str):
            yield Damage(stage, key, name, "changed", record)
        elif record["bytes"] != told[name]["bytes"]:
            yield Damage(stage, key, name, "changed", f"{record['bytes']} bytes, not {told[name]['bytes']}")
        elif record["sha256"] != told[name]["sha256"]:
            yield Damage(stage, key, name, "changed", "another content")


def _record(path: Path) -> dict[str, Any] | str:
    try:
        return attempt.file_record(path)
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def delete_damaged(store: Store, found: Verified) -> list[tuple[str, str]]:
    """Take damaged results out of the store so that they are computed anew; one that is just computed is left.

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
        except FileNotFoundError:  # gone already
            continue
        except OSError as error:
            raise StoreError(f"store {store.root}: {key[:8]} cannot be removed: {error.strerror}") from error
        gone.append((stage, key))
    return gone
