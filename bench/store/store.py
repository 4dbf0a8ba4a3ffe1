"""The store has one folder per finished stage. It is computed once, appears by one rename, and never changes again.

- `<root>/<stage>/<key>/`: the result: plain files and manifest.json
- `<root>/<stage>/<key>.work/`: the computation: out.<attempt>/, ckpt.<attempt>/ (from which the next attempt resumes)
  and progress.json
- `<root>/<stage>/<key>.failed.json`: why the last attempt failed
- `<root>/locks/`: which process computes what; see `bench.store.claims`
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import socket
import tempfile
import time
import traceback
import uuid
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NoReturn

from bench.errors import StageBusy as StageBusy
from bench.errors import StageError, StoreError, in_words
from bench.files import read_json, write_json
from bench.pipeline.stage import Stage, walk
from bench.store import attempt
from bench.store.claims import Claim, Locks
from bench.store.manifest import manifest_of
from bench.store.work import Execution, TakenOver, Work

State = Literal["done", "running", "failed", "missing"]

_LOG = logging.getLogger(__name__)

_LOOKS = 3  # how often `get` tries, because clean-up may remove a result before it is read

# A sticky failure is the fault of the code or of its settings: the next attempt would fail too, so none is made. These
# errors are the fault of the machine, and the next attempt may succeed.
_NOT_STICKY = (MemoryError, OSError, ImportError, StoreError)

# torch raises a plain RuntimeError with these texts on a machine that is too small or broken. One bad node of a cluster
# must not make a matrix fail for good.
_MACHINES_SAID = (
    *("CUDA out of memory", "DefaultCPUAllocator: ", "Found no NVIDIA driver", "No CUDA GPUs are available"),
    *("CUDA driver", "CUDNN_STATUS", "Torch not compiled with CUDA", "uncorrectable", "unspecified launch"),
)


class Store:
    """Finished stages under one root folder, safe for any number of processes at once."""

    def __init__(self, root: Path | str, locks: str | None = None, **lease: float) -> None:
        """Use the store in `root`. The folder is made when something is first written.

        Args:
            root: the folder of the store.
            locks: the kind of claims, `flock` or `lease`; None chooses (see `bench.store.claims`).
            lease: `lease_s` and `beat_s` of leases; see `bench.store.claims.Locks`.
        """
        self.root = Path(root)
        self.locks = Locks(self.root / "locks", locks, **lease)
        self._folders: dict[tuple[str, str], Path] = {}  # making a path takes longer than a look at the disk

    def folder(self, stage: Stage) -> Path:
        """Return the folder where the result of `stage` is, or will be."""
        name = stage.stage_name(), stage.key
        if (found := self._folders.get(name)) is None:
            found = self._folders[name] = self.root.joinpath(*name)
        return found

    def has(self, stage: Stage) -> bool:
        """Tell whether `stage` is finished."""
        return attempt.is_result(self.folder(stage))

    def state(self, stage: Stage) -> State:
        """Return whether `stage` is done, running in a living process, failed, or missing."""
        if self.has(stage):
            return "done"
        if self.holder(stage):
            return "running"
        return "failed" if self._failure_path(stage).is_file() else "missing"

    def holder(self, stage: Stage) -> dict[str, Any] | None:
        """Return the living process that computes `stage`, or None.

        Its facts are host, pid, since, job (the SLURM job id or None) and log.
        """
        return self.locks.holder(stage.key)

    def manifest(self, stage: Stage) -> dict[str, Any]:
        """Return the manifest of a finished stage.

        Raises:
            StoreError: if it is missing or cannot be read.
        """
        path = self.folder(stage) / "manifest.json"
        if (found := read_json(path)) is None:
            try:
                path.read_bytes()
            except PermissionError as error:
                raise _may_not_be_read(error, path.parent) from error
            except OSError:
                pass
            raise StoreError(f"{path.parent} is damaged (no readable manifest.json); delete it to compute it anew")
        return found

    def open(self, stage: Stage) -> Any:
        """Return the result of a finished stage.

        Raises:
            StoreError: if its files cannot be read.
        """
        folder = self.folder(stage)
        manifest = self.manifest(stage)
        try:
            if name := attempt.first_cut_off(folder, manifest):
                raise EOFError(f"{name} is missing or cut off")
            return stage.open(folder)
        except PermissionError as error:
            raise _may_not_be_read(error, folder) from error
        except Exception as error:  # each file format raises errors of its own for a file that is cut off
            said = " ".join(f"{type(error).__name__}: {error}".split())
            raise StoreError(f"{folder} cannot be read ({said}); if damaged, delete it to compute it anew") from error

    def failure(self, stage: Stage) -> dict[str, Any] | None:
        """Return the record of the last failed attempt, or None."""
        return read_json(self._failure_path(stage))

    def progress(self, stage: Stage) -> dict[str, Any] | None:
        """Return `{done, total, note}` as the running computation last reported it, or None."""
        return read_json(self._work_path(stage) / "progress.json")

    def forget_failure(self, stage: Stage) -> None:
        """Remove the record of a failure, so that the stage is tried again."""
        self._failure_path(stage).unlink(missing_ok=True)

    def get(self, stage: Stage, execution: Execution | None = None) -> Any:
        """Return the result of `stage`. If it is not there, compute it and the inputs that it needs.

        An error of the computation is recorded and raised again.

        Raises:
            StageError: if the stage failed before and the failure was not forgotten (see `forget_failure`).
            StoreError: if the store cannot be written, or if the result in it cannot be read.
        """
        # Clean-up may remove a result between our look and our reading. A result that we compute ourselves is therefore
        # opened before the claim is released, because clean-up must hold the claim to remove it.
        opened: list[Any] = []
        for _ in range(_LOOKS):
            if self.has(stage):
                with contextlib.suppress(StoreError):
                    return self.open(stage)
            elif self._compute(stage, execution or Execution(), None, lambda: opened.append(self.open(stage))):
                return opened[0]
        return self.open(stage)

    def compute(self, stage: Stage, execution: Execution, wait_s: float | None = None) -> bool:
        """Compute `stage` unless it is finished, and return whether this process computed it.

        If another living process computes it, wait until that has finished.

        Args:
            stage: the stage to compute; inputs that are missing are computed first.
            execution: the device and the number of threads.
            wait_s: seconds to wait for another process that computes it; None waits as long as it takes.

        Raises:
            StageBusy: if another process still computed it after `wait_s` seconds.
            StageError: if the stage failed before and the failure was not forgotten (see `forget_failure`).
            StoreError: if the store cannot be written or its disk is full.
        """
        return self._compute(stage, execution, wait_s, lambda: None)

    def _compute(
        self, stage: Stage, execution: Execution, wait_s: float | None, before_release: Callable[[], object]
    ) -> bool:
        # The state is looked up again under the claim: the process that we waited for may have finished the stage, or
        # have failed, and neither may be computed a second time.
        stage.require_inputs()
        while not self.has(stage):
            claim = self._claim(stage, wait_s)
            if claim is None:
                break
            try:
                if self.has(stage):
                    break
                failed = self.failure(stage)
                if failed and failed.get("sticky", True):
                    raise StageError(f"stage {stage.stage_name()} {stage.key[:8]} failed before: {failed['error']}")
                if self._attempt(stage, execution, claim):
                    before_release()
                    return True
            finally:
                claim.release()
                if self.has(stage):
                    self.locks.forget(stage.key)
        return False

    def _claim(self, stage: Stage, wait_s: float | None) -> Claim | None:
        # The claim names all stages below this one, so that clean-up does not remove an input while we compute.
        facts = {"stage": stage.stage_name(), "key": stage.key, "uses": sorted(s.key for s in walk([stage]))}
        log = f"logs/{stage.stage_name()}/{stage.key}.log"
        if (self.root / log).is_file():
            facts["log"] = log
        try:
            return self.locks.claim(stage.key, facts, wait_s=wait_s, finished=lambda: self.has(stage))
        except OSError as error:
            raise self._unwritable(error) from error

    def _attempt(self, stage: Stage, execution: Execution, claim: Claim) -> bool:
        """Compute the stage and publish its result; return False if another process took over our lease meanwhile."""
        try:
            out, ckpt = attempt.begin(self._work_path(stage), claim.token)
        except OSError as error:
            raise self._unwritable(error) from error
        work = Work(self, stage, out, ckpt, execution, claim=claim)
        started = time.monotonic()
        try:
            stage.compute(work)
            took = time.monotonic() - started
            manifest = manifest_of(stage, out, took, work.used_device, execution.threads)
            write_json(out / "manifest.json", manifest)
            # Without this, a process that slept past the end of its lease would publish beside its successor.
            if not claim.confirm():
                raise TakenOver
            attempt.publish(out, self.folder(stage))
        except KeyboardInterrupt:  # a person or the scheduler stopped us: nothing failed, and nothing is recorded
            raise
        except BaseException as error:
            # If the result is there all the same, an equal one came from elsewhere while we computed (our successor, a
            # copied store), and the stage has not failed.
            if not self.has(stage):
                if claim.lost():
                    attempt.end(out, ckpt)
                    _LOG.warning("stage %s %s: another process took over", stage.stage_name(), stage.key[:8])
                    return False
                self._fail(stage, _as_exception(error), out)
        self._failure_path(stage).unlink(missing_ok=True)
        attempt.end(out, ckpt)
        return True

    def _fail(self, stage: Stage, error: Exception, out: Path) -> NoReturn:
        """Record why an attempt failed, and raise the error. If the disk is full, free space and raise a StoreError."""
        if attempt.is_disk_full(error, out.parent):
            shutil.rmtree(out, ignore_errors=True)
            full = StoreError(
                f"store {self.root}: disk full while computing {stage.stage_name()} {stage.key[:8]}; finished results "
                "and checkpoints are kept: make room (`bench gc`, `bench ls --size`) and run it again"
            )
            self.record_failure(stage, full)
            raise full from error
        self.record_failure(stage, error)
        raise error

    def record_failure(self, stage: Stage, error: Exception, sticky: bool | None = None) -> None:
        """Record why an attempt failed.

        A sticky failure stops later attempts. By default, a failure is sticky unless the machine is at fault.
        """
        before = (self.failure(stage) or {}).get("attempt", 0)
        record = {
            "stage": stage.stage_name(),
            "key": stage.key,
            "error": f"{type(error).__name__}: {error}",
            "traceback": "".join(traceback.format_exception(error)),
            "attempt": before + 1,
            "sticky": not _machines_fault(error) if sticky is None else sticky,
            "host": socket.gethostname(),
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        with contextlib.suppress(OSError):  # a full disk must not hide the error that it caused
            write_json(self._failure_path(stage), record)

    def require_writable(self) -> None:
        """Refuse a store that cannot be written, before anything is computed for it.

        Raises:
            StoreError: if it cannot be written, with the reason.
        """
        try:
            (self.root / "locks").mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.root / "locks"):
                pass
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> StoreError:
        return StoreError(f"store {self.root}: cannot be written: {error.strerror}; choose another with --store")

    @contextlib.contextmanager
    def using(self, stages: Iterable[Stage]) -> Iterator[None]:
        """Protect these stages and all their inputs from clean-up while a block runs; see `bench.store.cleanup`."""
        # A claim under a name of our own lists what we use. It excludes nobody, and it ends with our process, so a run
        # that is killed does not protect its stages for ever.
        claim, name = None, f"run-{uuid.uuid4().hex[:12]}"
        with contextlib.suppress(OSError):  # a read-only store is not cleaned up either
            claim = self.locks.try_claim(name, {"uses": sorted(s.key for s in walk(list(stages)))})
        try:
            yield
        finally:
            if claim:
                claim.release()
                self.locks.forget(name)

    def tidy(self) -> None:
        """Remove the work folders and failure records that a process leaves if it is killed just after its rename."""
        for folder, name in self._left_over():
            key = name.partition(".")[0]
            if not attempt.is_result(folder / key):
                continue
            with contextlib.suppress(OSError):  # a read-only store stays as it is
                if claim := self.locks.try_claim(key, {}):
                    if name.endswith(".work"):
                        shutil.rmtree(folder / name, ignore_errors=True)
                    else:
                        (folder / name).unlink(missing_ok=True)
                    claim.release()

    def _left_over(self) -> Iterator[tuple[Path, str]]:
        """Yield the folder and name of everything that lies beside results: work folders and failure records."""
        for kind in _folders(self.root):
            for entry in os.scandir(kind):
                if entry.name.endswith((".work", ".failed.json")) and entry.name[0] != ".":
                    yield Path(kind), entry.name

    def _work_path(self, stage: Stage) -> Path:
        return self.root / stage.stage_name() / f"{stage.key}.work"

    def _failure_path(self, stage: Stage) -> Path:
        return self.root / stage.stage_name() / f"{stage.key}.failed.json"

    def manifests(self) -> Iterator[dict[str, Any]]:
        """Yield the manifest of every finished stage."""
        for path in sorted(self.root.glob("*/*/manifest.json")):
            if path.parts[-3][0] != "." and (found := read_json(path)) and "stage" in found:
                yield found


def _folders(root: Path) -> list[str]:
    try:
        return sorted(e.path for e in os.scandir(root) if e.is_dir() and e.name[0] != ".")
    except OSError:
        return []


def _as_exception(error: BaseException) -> Exception:
    """Return the error as an `Exception`, because a `sys.exit()` in a stage must end the stage and not the run."""
    if isinstance(error, Exception):
        return error
    told = StageError(f"it raised {in_words(error)}")
    told.__cause__ = error
    return told


def _may_not_be_read(error: PermissionError, folder: Path) -> StoreError:
    where = error.filename or folder
    return StoreError(f"{where} may not be read by this user; let its owner allow it (chmod -R g+rX on the store)")


def _machines_fault(error: Exception) -> bool:
    said_so = type(error).__name__ == "OutOfMemoryError" or any(text in str(error) for text in _MACHINES_SAID)
    return isinstance(error, _NOT_STICKY) or said_so
