"""The store: one folder per finished stage, computed once, that appears by one rename and never changes after.

- `<root>/<stage>/<key>/`: the result, plain files and manifest.json
- `<root>/<stage>/<key>.work/`: while computing: out/ (wiped per attempt), ckpt/ (kept), progress.json
- `<root>/<stage>/<key>.failed.json`: why the last attempt failed
- `<root>/locks/<key>`: held with flock, which the kernel frees when its holder dies
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import socket
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from bench.errors import StageError, StoreError
from bench.files import read_json, versions, write_json
from bench.stage import Stage

State = Literal["done", "running", "failed", "missing"]
_NOT_STICKY = (MemoryError, OSError, ImportError, StoreError)  # the machine's fault: the next attempt may succeed


@dataclass(frozen=True)
class Execution:
    """Where a computation runs: never part of a key. One thread by default, so that results do not depend on jobs."""

    device: str = "auto"
    threads: int = 1
    on_progress: Callable[[Stage, float, float, str], None] | None = field(default=None, compare=False)

    def apply(self) -> str:
        """Set torch's threads and return the device to use: `cuda`, `mps` or `cpu`."""
        import torch

        torch.set_num_threads(self.threads)
        if self.device != "auto":
            return self.device
        return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass
class Work:
    """What a stage sees while it computes."""

    store: Store
    stage: Stage
    out: Path
    ckpt: Path
    execution: Execution
    used_device: str | None = None
    _told: float = field(default=0.0, repr=False)

    def get(self, stage: Stage) -> Any:
        """Return an input's result, computing it first if it is not there."""
        return self.store.get(stage, self.execution)

    @property
    def device(self) -> str:
        """The torch device to compute on (also applies the number of threads)."""
        self.used_device = self.execution.apply()
        return self.used_device

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell how far the computation is; cheap enough to call on every step (written twice a second at most)."""
        if self.execution.on_progress:
            self.execution.on_progress(self.stage, done, total, note)
        now = time.monotonic()
        if now - self._told >= 0.5 or done >= total:
            self._told = now
            write_json(self.out.parent / "progress.json", {"done": done, "total": total, "note": note})


class Store:
    """Finished stages under one root folder, safe for any number of processes at once."""

    def __init__(self, root: Path | str) -> None:
        """Use `root`, made when something is first written."""
        self.root = Path(root)

    def folder(self, stage: Stage) -> Path:
        """Return the folder where the result of `stage` is or would be."""
        return self.root / stage.stage_name() / stage.key

    def has(self, stage: Stage) -> bool:
        """Tell whether `stage` is finished."""
        return (self.folder(stage) / "manifest.json").is_file()

    def state(self, stage: Stage) -> State:
        """Tell whether `stage` is done, being computed by a living process, failed, or none of these."""
        if self.has(stage):
            return "done"
        if _is_held(self._lock_path(stage)):
            return "running"
        return "failed" if self._failure_path(stage).is_file() else "missing"

    def manifest(self, stage: Stage) -> dict[str, Any]:
        """Return the manifest of a finished stage.

        Raises:
            StoreError: if it is not there or cannot be read.
        """
        path = self.folder(stage) / "manifest.json"
        if (found := read_json(path)) is None:
            raise StoreError(f"{path.parent} is damaged (no readable manifest.json); delete it to compute it anew")
        return found

    def open(self, stage: Stage) -> Any:
        """Return the result of a finished stage.

        Raises:
            StoreError: if its files cannot be read.
        """
        folder = self.folder(stage)
        try:
            return stage.open(folder)
        except Exception as error:  # every format has its own way to say that a file is cut off
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise StoreError(f"{folder} cannot be read ({said}); if damaged, delete it to compute it anew") from error

    def failure(self, stage: Stage) -> dict[str, Any] | None:
        """Return the record of the last failed attempt, or None."""
        return read_json(self._failure_path(stage))

    def progress(self, stage: Stage) -> dict[str, Any] | None:
        """Return `{done, total, note}` as last told by a running computation, or None."""
        return read_json(self._work_path(stage) / "progress.json")

    def forget_failure(self, stage: Stage) -> None:
        """Let a failed stage be tried again."""
        self._failure_path(stage).unlink(missing_ok=True)

    def get(self, stage: Stage, execution: Execution | None = None) -> Any:
        """Return the result of `stage`, computing it (and what it needs) if it is not there.

        What the computation raises is recorded and passed on.

        Raises:
            StageError: if it failed before and was not forgotten (see `forget_failure`).
            StoreError: if the store cannot be written, or the result in it cannot be read.
        """
        if not self.has(stage):
            self.compute(stage, execution or Execution())
        return self.open(stage)

    def compute(self, stage: Stage, execution: Execution) -> bool:
        """Compute `stage` unless it is finished; wait if a living process is at it. Return whether we computed."""
        if self.has(stage):
            return False
        with self._claim(stage):
            if self.has(stage):
                return False
            failed = self.failure(stage)
            if failed and failed.get("sticky", True):
                raise StageError(f"stage {stage.stage_name()} {stage.key[:8]} failed before: {failed['error']}")
            self._attempt(stage, execution)
        return True

    def _attempt(self, stage: Stage, execution: Execution) -> None:
        work_path = self._work_path(stage)
        work = Work(self, stage, work_path / "out", work_path / "ckpt", execution)
        shutil.rmtree(work.out, ignore_errors=True)
        work.out.mkdir(parents=True)
        work.ckpt.mkdir(exist_ok=True)
        (work_path / "progress.json").unlink(missing_ok=True)
        started = time.time()
        try:
            stage.compute(work)
            self._commit(stage, work, started)
        except Exception as error:
            self.record_failure(stage, error)
            raise

    def _commit(self, stage: Stage, work: Work, started: float) -> None:
        """Make the attempt's folder the result, by one rename after everything in it is on disk.

        A result that is there by now (a copied store) is kept; a folder without a manifest is none and gives way.
        """
        write_json(work.out / "manifest.json", _manifest(stage, work, started))
        for path in [*work.out.rglob("*"), work.out]:
            _fsync(path)
        target = self.folder(stage)
        if target.exists() and not self.has(stage):
            shutil.rmtree(target)
        if not target.exists():
            os.rename(work.out, target)
            _fsync(target.parent)
        self._failure_path(stage).unlink(missing_ok=True)
        shutil.rmtree(self._work_path(stage), ignore_errors=True)

    def record_failure(self, stage: Stage, error: Exception, sticky: bool | None = None) -> None:
        """Write why an attempt failed; a sticky failure (by default: not the machine's fault) stops later attempts."""
        attempt = (self.failure(stage) or {}).get("attempt", 0) + 1
        record = {
            "stage": stage.stage_name(),
            "key": stage.key,
            "error": f"{type(error).__name__}: {error}",
            "traceback": "".join(traceback.format_exception(error)),
            "attempt": attempt,
            "sticky": not _machines_fault(error) if sticky is None else sticky,
            "host": socket.gethostname(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # a full disk must not hide the error that it caused
            write_json(self._failure_path(stage), record)

    @contextlib.contextmanager
    def _claim(self, stage: Stage) -> Iterator[None]:
        path = self._lock_path(stage)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = open(path, "a")  # noqa: SIM115 - held for the length of the computation
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            handle.close()

    def require_writable(self) -> None:
        """Refuse a store that cannot be written before anything is computed for it.

        Raises:
            StoreError: with the reason.
        """
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / "locks"):
                pass
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"store {self.root}: cannot be written: {error.strerror}; choose another with --store")

    def tidy(self) -> None:
        """Remove work folders of finished stages: left where a process was killed just after its rename."""
        for work in self.root.glob("*/*.work"):
            if (work.with_suffix("") / "manifest.json").is_file():
                shutil.rmtree(work, ignore_errors=True)

    def _lock_path(self, stage: Stage) -> Path:
        return self.root / "locks" / stage.key

    def _work_path(self, stage: Stage) -> Path:
        return self.root / stage.stage_name() / f"{stage.key}.work"

    def _failure_path(self, stage: Stage) -> Path:
        return self.root / stage.stage_name() / f"{stage.key}.failed.json"

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Yield the manifest of every finished stage."""
        for path in sorted(self.root.glob("*/*/manifest.json")):
            if path.parent.suffix != ".work" and (found := read_json(path)) and "stage" in found:
                yield found


def _manifest(stage: Stage, work: Work, started: float) -> dict[str, Any]:
    files = {str(p.relative_to(work.out)): _file_record(p) for p in sorted(work.out.rglob("*")) if p.is_file()}
    return {
        "stage": stage.stage_name(),
        "key": stage.key,
        "identity": stage.identity,
        "inputs": {s.key: s.stage_name() for s in stage.inputs()},
        "files": files,
        "bytes": sum(f["bytes"] for f in files.values()),
        "seconds": round(time.time() - started, 3),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": work.used_device,
        "threads": work.execution.threads,
        "host": socket.gethostname(),
        "versions": versions(),
    }


def _file_record(path: Path) -> dict[str, Any]:
    with open(path, "rb") as handle:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def _machines_fault(error: Exception) -> bool:
    return isinstance(error, _NOT_STICKY) or type(error).__name__ == "OutOfMemoryError"  # torch's, without importing it


def _is_held(path: Path) -> bool:
    try:
        with open(path) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask do not see each other
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
