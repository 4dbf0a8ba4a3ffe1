"""Who computes a stage now: a claim on its key that one process holds and that is free again when it dies.

Two kinds, one for a whole store:

- `flock` (`locks/<key>`): the kernel, or the file server, frees it when its holder dies.
- `lease` (`locks/<key>.lease/<n>`), for file systems that do not carry flock between hosts: the highest number holds
  it, and its holder counts a number up in that file. Who wants it and has seen no change for `lease_s` seconds of its
  own monotonic clock makes the next number, which only one can. See `bench.store.leases`.

Which kind: the argument, else BENCH_LOCKS, else `lease` where it was used in this store before (`locks/.lease`), else
`flock`, unless the file system refuses it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol, TextIO, cast

from bench.errors import ConfigError, StageBusy
from bench.store.leases import Leases, this_process

Kind = Literal["flock", "lease"]
Facts = Mapping[str, Any]

_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_SAY_AFTER_S = 2.0
_LONGEST_PAUSE_S = 0.25
_LOG = logging.getLogger(__name__)


class Claim(Protocol):
    """A key that this process holds."""

    token: str

    def confirm(self) -> bool:
        """Tell whether we hold it still, and make sure that we do for a while (before a result is committed)."""

    def lost(self) -> bool:
        """Tell whether another process has taken over; cheap."""

    def release(self) -> None:
        """Let others have it."""


class Locks:
    """All claims of one store."""

    def __init__(self, folder: Path, kind: str | None = None, lease_s: float = 120.0, beat_s: float = 5.0) -> None:
        """Keep claims in `folder`, made when the first one is.

        Args:
            folder: where.
            kind: `flock` or `lease`; None chooses.
            lease_s: seconds without a sign of life after which a lease is taken over.
            beat_s: seconds between signs of life.

        Raises:
            ConfigError: for another kind.
        """
        self.folder = folder
        chosen = kind or os.environ.get("BENCH_LOCKS") or None
        if chosen not in (None, "flock", "lease"):
            raise ConfigError(f"BENCH_LOCKS={chosen}: want flock or lease")
        self._chosen = cast(Kind | None, chosen)
        self._leases = Leases(folder, lease_s, beat_s)

    @property
    def kind(self) -> Kind:
        """The kind of claims that this store uses now."""
        return self._chosen or ("lease" if (self.folder / ".lease").exists() else "flock")

    def claim(
        self,
        key: str,
        facts: Facts,
        *,
        wait_s: float | None = None,
        finished: Callable[[], bool] = lambda: False,
    ) -> Claim | None:
        """Claim a key, waiting while a living process holds it; None as soon as `finished()` is true.

        Raises:
            StageBusy: if it is still held after `wait_s` seconds (None: wait as long as it takes).
            OSError: if claims cannot be written.
        """
        started, pause, said = time.monotonic(), 0.005, False
        while not finished():
            if claim := self.try_claim(key, facts):
                return claim
            waited = time.monotonic() - started
            if wait_s is not None and waited >= wait_s:
                holder = self.holder(key) or {}
                raise StageBusy(f"{_named(facts, key)} is being computed by {described(holder)}", holder)
            if waited > _SAY_AFTER_S and not said and (found := self.holder(key)):
                said = True
                _LOG.warning("waiting: %s is being computed by %s", _named(facts, key), described(found))
            time.sleep(pause if wait_s is None else max(0.001, min(pause, wait_s - waited)))
            pause = min(2 * pause, _LONGEST_PAUSE_S, self._leases.lease_s / 8)
        return None

    def try_claim(self, key: str, facts: Facts) -> Claim | None:
        """Claim a key unless a living process holds it.

        Raises:
            OSError: if claims cannot be written.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        told = _about_us() | dict(facts)
        if self.kind == "flock":
            try:
                return _try_flock(self.folder / key, told)
            except OSError as error:
                if error.errno not in _NO_FLOCK or self._chosen:
                    raise
                _LOG.warning("%s: no file locks here (%s); leases are used", self.folder, error.strerror)
        (self.folder / ".lease").touch()  # from now on for every process at this store
        return self._leases.try_claim(key, told)

    def holder(self, key: str) -> dict[str, Any] | None:
        """Return who holds a key (host, pid, since, job, log and the facts of the claim), or None.

        A lease on another host counts as held until it was seen without a change for `lease_s`.
        """
        if self.kind == "lease":
            found = self._leases.holder(key)
        else:
            path = self.folder / key
            found = _read(path) if is_flocked(path) else None
        return None if found is None else _UNKNOWN | found

    def held(self) -> Iterator[dict[str, Any]]:
        """Yield the holder of every key that is held now."""
        for key in self.names():
            if found := self.holder(key):
                yield found

    def names(self) -> list[str]:
        """Return every key that has a lock file, held or not."""
        with contextlib.suppress(OSError):
            return sorted({e.name.removesuffix(".lease") for e in os.scandir(self.folder) if e.name[0] != "."})
        return []

    def forget(self, key: str) -> None:
        """Remove the files of a key that nobody holds; nothing happens where somebody does."""
        with contextlib.suppress(OSError):
            if self.kind == "lease":
                self._leases.forget(key)
            if claim := _try_flock(self.folder / key, {}, create=False):
                claim.release()


_UNKNOWN: dict[str, Any] = dict.fromkeys(("host", "pid", "since", "job", "log"))


def described(holder: Facts) -> str:
    """Return a holder in words: `host h, process 12 (SLURM job 3_4)`."""
    if not holder.get("host"):
        return "another process"
    job = f" (SLURM job {holder['job']})" if holder.get("job") else ""
    return f"host {holder['host']}, process {holder['pid']}{job}"


def _named(facts: Facts, key: str) -> str:
    return f"stage {facts['stage']} {key[:8]}" if "stage" in facts else key


def _about_us() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "job": slurm_job(),
        "log": None,
        "process": this_process(),
    }


def slurm_job() -> str | None:
    """Return the SLURM job that this process runs in, `12_3` in an array, or None."""
    if (array := os.environ.get("SLURM_ARRAY_JOB_ID")) and (task := os.environ.get("SLURM_ARRAY_TASK_ID")):
        return f"{array}_{task}"
    return os.environ.get("SLURM_JOB_ID") or None


class _Flocked:
    def __init__(self, path: Path, handle: TextIO) -> None:
        self.path, self.handle = path, handle
        self.token = uuid.uuid4().hex[:12]

    def confirm(self) -> bool:
        return True

    def lost(self) -> bool:
        return False

    def release(self) -> None:
        """Remove the file while it is locked: who waits on it finds that it is gone and makes another."""
        with contextlib.suppress(OSError):
            if _same_file(self.path, self.handle):
                self.path.unlink()
        with contextlib.suppress(OSError):  # a full disk: it is closed all the same
            self.handle.close()


def _try_flock(path: Path, facts: Facts, create: bool = True) -> _Flocked | None:
    while True:
        handle = open(path, "a+" if create else "r+", encoding="utf-8")  # noqa: SIM115 - held for the computation
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            handle.close()
            return None
        except OSError:
            handle.close()
            raise
        if _same_file(path, handle):  # else it was removed between our open and our lock
            break
        handle.close()
    with contextlib.suppress(OSError):  # on a full disk the claim holds, its holder is not named
        handle.truncate(0)
        handle.write(json.dumps(facts))
        handle.flush()
    return _Flocked(path, handle)


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Keep other processes out of a block: they wait until we leave it, or until the kernel sees that we died.

    Where the file system has no locks, nobody waits, and a warning says so: two processes may then do the same work.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError as error:
            _LOG.warning("%s: no file locks here (%s); two processes may do the same work", path, error.strerror)
        yield


def _same_file(path: Path, handle: TextIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def is_flocked(path: Path) -> bool:
    """Tell whether a living process holds the lock of a file; False where there is no such file."""
    try:
        with open(path) as handle:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask do not see each other
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read(path: Path) -> dict[str, Any]:
    """Return what the holder wrote; nothing where it is just writing it."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
