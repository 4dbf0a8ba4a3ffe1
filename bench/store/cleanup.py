"""Clean up a store: keep what the named matrices and sweeps need, and remove the rest, also while runs are active.

Three things are never removed: what a living process computes or uses; what waits in SLURM's queue, with all its
inputs; and what was written less than a grace period ago, so that a matrix that has just been started keeps its inputs.
A result is first renamed into `<store>/.trash/` and then deleted. So a reader sees a whole result or none, and a
process that has its files open can go on reading them.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

from bench.errors import StoreError
from bench.files import read_json
from bench.store.attempt import is_result
from bench.store.inventory import TRASH, Entry, clock, inventory, weigh
from bench.store.store import Store
from bench.store.submissions import jobs_in

GRACE_S = 3600.0
_LOOK_AGAIN_S = 1.0


def in_use(store: Store) -> set[str]:
    """Return the keys that living processes hold or use, and those of stages in SLURM's queue with all their inputs."""
    # A stage in the queue has no process yet that could claim its inputs, so these are read from its recipe.
    keys: set[str] = set()
    for holder in store.locks.held():
        keys |= {holder.get("key", ""), *holder.get("uses", ())}
    for entry in (store.root / "slurm" / "submitted").glob("*.json"):
        for key in jobs_in(entry):
            if not any(is_result(folder) for folder in store.root.glob(f"*/{key}")):
                recipe = read_json(store.root / "slurm" / "stages" / f"{key}.json") or {}
                keys |= {key, *recipe.get("stages", ())}
    return keys


def unwanted(
    store: Store,
    keep: Collection[str],
    *,
    grace_s: float = GRACE_S,
    older_than_s: float = 0.0,
    keep_kinds: Collection[str] = (),
) -> list[Entry]:
    """Return what clean-up would remove. Nothing is removed here.

    Args:
        store: the store.
        keep: the keys of all stages to keep.
        grace_s: everything that was written within this many seconds is kept.
        older_than_s: results that were written within this many seconds are kept.
        keep_kinds: all results of these kinds of stages are kept.
    """
    # Ages are measured with the clock of the file system. The clock of this host may differ from it by more than the
    # grace period.
    entries, now = list(inventory(store)), clock(store.root)
    wanted = set(keep) | in_use(store) | {e.key for e in entries if e.stage in keep_kinds}

    def goes(entry: Entry) -> bool:
        if entry.what == "trash":
            return True
        if entry.what == "lock":
            return store.locks.holder(entry.key) is None
        if entry.what == "temporary":
            return now - entry.touched >= grace_s
        least = max(grace_s, older_than_s) if entry.what == "result" else grace_s
        return entry.key not in wanted and now - entry.touched >= least

    going = [e for e in entries if goes(e)]
    staying = {e.key for e in entries if e.what in ("result", "work", "failure")} - {
        e.key for e in going if e.what != "log"
    }
    return [e for e in going if e.what != "log" or e.key not in staying]


def remove(
    store: Store,
    entries: Iterable[Entry],
    keep: Collection[str] = (),
    on_each: Callable[[Entry], object] = lambda e: None,
) -> list[Entry]:
    """Remove the entries that `unwanted` returned, and return those that were removed.

    An entry that has come into use in the meantime stays.

    Args:
        store: the store.
        entries: what to remove.
        keep: the keys of all stages to keep.
        on_each: called with each entry that was removed.

    Raises:
        StoreError: if the store cannot be written.
    """
    gone, looked, wanted = [], float("-inf"), set(keep)
    for entry in entries:
        # Removing a large store takes hours, and a run may start meanwhile and reuse old results. So what is in use is
        # looked up again every second.
        if time.monotonic() - looked > _LOOK_AGAIN_S:
            wanted, looked = set(keep) | in_use(store), time.monotonic()
        if entry.what not in ("trash", "temporary", "lock") and entry.key in wanted:
            continue
        try:
            removed = _remove(store, entry)
        except OSError as error:
            raise StoreError(f"store {store.root}: {entry.path.name} cannot be removed: {error.strerror}") from error
        if removed:
            gone.append(entry)
            on_each(entry)
    return gone


def _remove(store: Store, entry: Entry) -> bool:
    if entry.what == "trash":
        _delete(entry.path)
        return True
    if entry.what == "temporary":
        entry.path.unlink(missing_ok=True)
        return True
    if entry.what == "lock":
        store.locks.forget(entry.key)
        return not entry.path.exists()
    claim = store.locks.try_claim(entry.key, {})
    if claim is None:
        return False
    try:
        # The key may have been computed again since the inventory was made. Only what was listed then is removed.
        if weigh(entry.path) != (entry.bytes, entry.touched):
            return False
        discard(store, entry.path)
    finally:
        claim.release()
    store.locks.forget(entry.key)
    return True


def discard(store: Store, path: Path) -> None:
    """Take a file or folder out of the store by one rename, then delete it.

    Raises:
        OSError: if it cannot be renamed.
    """
    # Deleting a folder takes time, and a reader in between would see half a result. The rename takes it away at once.
    # If we are killed before the deletion, the next clean-up empties the trash.
    trash = store.root / TRASH
    trash.mkdir(exist_ok=True)
    target = trash / f"{uuid.uuid4().hex[:8]}-{path.name}"
    os.rename(path, target)
    _delete(target)
    with contextlib.suppress(OSError):
        trash.rmdir()


def _delete(path: Path) -> None:
    """Delete a file, a link (never what it points to) or a folder. What cannot be deleted stays in the trash."""
    with contextlib.suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def summary(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """Return one row for each kind of entry: what, stage, count, bytes. The largest comes first."""
    groups: dict[tuple[str, str], list[int]] = {}
    for e in entries:
        groups.setdefault((e.what, e.stage), []).append(e.bytes)
    rows = [{"what": w, "stage": s, "count": len(b), "bytes": sum(b)} for (w, s), b in groups.items()]
    return sorted(rows, key=lambda r: (-r["bytes"], r["what"], r["stage"]))
