"""Check that a store can be used from this machine: free space, writing, locks."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.filesize import decimal

from bench.checks import Check
from bench.errors import StoreError, in_words
from bench.run.machine_file import Machine
from bench.store.claims import Locks

USE_LEASES = "set `locks: lease` in the machine file, or BENCH_LOCKS=lease, for every process at this store"
LEAST_FREE = 1 << 30  # bytes
_TRY_CLAIM = """
import sys
from pathlib import Path
from bench.store.claims import Locks
sys.exit(0 if Locks(Path(sys.argv[1]), sys.argv[2]).try_claim("doctor", {}) else 9)
"""


def examine_store(machine: Machine, store: Path) -> Iterator[Check]:
    """Yield the checks of a store's folder, and leave the folder as it was."""
    there = next(p for p in (store, *store.parents) if p.exists())
    free = shutil.disk_usage(there).free
    said = f"{decimal(free)} free at {store}, file system {file_system(there)}"
    full = f"{said}; make room (`bench gc`), or choose another with --store"
    yield Check("store's disk", free >= LEAST_FREE, said if free >= LEAST_FREE else full)
    try:
        with scratch(store) as folder:
            yield Check("store is writable", True, "a file was written, brought to disk and renamed")
            yield _locks(machine, store, folder)
    except StoreError as error:
        yield Check("store is writable", False, str(error))


def file_system(path: Path) -> str:
    """Return the type of the file system that holds a path: `ext4`, `nfs4`, `lustre`; `unknown` if not on Linux."""
    mounts = Path("/proc/self/mountinfo")
    best, kind = "", "unknown"
    for line in mounts.read_text(encoding="utf-8").splitlines() if mounts.exists() else ():
        before, _, after = line.partition(" - ")
        point = before.split()[4].replace("\\040", " ")
        if len(point) >= len(best) and path.resolve().is_relative_to(point):
            best, kind = point, after.split()[0]
    return kind


@contextmanager
def scratch(store: Path) -> Iterator[Path]:
    """Yield a new folder inside a store and remove it after the block, with the store itself if that was new.

    Raises:
        StoreError: if the store cannot be written.
    """
    made = [p for p in (store, *store.parents) if not p.exists()]
    try:
        store.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".doctor-", dir=store)).resolve()
        with open(folder / "written", "wb") as handle:
            handle.write(os.urandom(4096))
            handle.flush()
            os.fsync(handle.fileno())
        os.rename(folder / "written", folder / "renamed")
    except OSError as error:
        why = error.strerror or in_words(error)
        raise StoreError(f"store {store}: cannot be written: {why}; choose another with --store") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()


def lock_kind(machine: Machine, store: Path) -> str:
    """Return how the stages of a store are claimed: `flock` or `lease`."""
    return Locks(store / "locks", machine.locks).kind


def _locks(machine: Machine, store: Path, folder: Path) -> Check:
    kind = lock_kind(machine, store)
    try:
        claim = Locks(folder / "locks", kind).try_claim("doctor", {})
        if claim is None:
            return Check("locks", False, f"{kind}: a free lock cannot be taken; {USE_LEASES}")
        while_held = _other_process_claims(folder / "locks", kind)
        claim.release()
        after = _other_process_claims(folder / "locks", kind)
    except OSError as error:
        return Check("locks", False, f"{kind}: {error.strerror}; {USE_LEASES}")
    except StoreError as error:
        return Check("locks", False, str(error))
    if (while_held, after) == (False, True):
        return Check("locks", True, f"{kind}: a second process has to wait, and gets the lock once it is free")
    wrong = "a second process is let in" if while_held else "a released lock is still held"
    return Check("locks", False, f"{kind}: {wrong}; {USE_LEASES}")


def _other_process_claims(folder: Path, kind: str) -> bool:
    command = [sys.executable, "-P", "-c", _TRY_CLAIM, str(folder), kind]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode not in (0, 9):
        said = (done.stderr.strip() or f"code {done.returncode}").splitlines()[-1]
        raise StoreError(f"a second {sys.executable} cannot use the store's locks: {said}; is bench installed for it?")
    return done.returncode == 0
