"""A claim says which process computes a stage now. One process holds it, and it becomes free when that process dies.

There are two kinds, and a store uses one of them for all its keys:

- `flock` (`locks/<key>`): the kernel, or the file server, frees the claim when its holder dies.
- `lease` (`locks/<key>.lease/<n>`), for file systems that do not carry flock between hosts: the file with the highest
  number holds the claim, and its holder keeps changing a counter in that file. A process that wants the claim and has
  seen no change for `lease_s` seconds of its own clock creates the file with the next number. See `bench.store.leases`.

The kind is the argument `kind`, else BENCH_LOCKS, else `lease` if this store has used leases before (`locks/.lease`
exists), else `flock`. If the file system refuses flock, the store changes to leases.
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
from bench.store.leases import Leases, pid_here, this_process

Kind = Literal["flock", "lease"]
Facts = Mapping[str, Any]

# A file system without flock answers with one of these. Any other error, such as a full disk, is not a reason to change
# the kind: processes that use different kinds do not see each other's claims.
_NO_FLOCK = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}
_SAY_AFTER_S = 2.0
_LONGEST_PAUSE_S = 0.25
_LOG = logging.getLogger(__name__)


class Claim(Protocol):
    """A claim on a key that this process holds. `token` names it and is never used again."""

    token: str

    def confirm(self) -> bool:
        """Tell whether we still hold the claim, and renew it. It is called just before a result is published."""

    def lost(self) -> bool:
        """Tell whether another process has taken over. It is cheap and may be called often."""

    def release(self) -> None:
        """Give the claim up, so that other processes can have it."""


class Locks:
    """All claims of one store."""

    def __init__(self, folder: Path, kind: str | None = None, lease_s: float = 120.0, beat_s: float = 5.0) -> None:
        """Keep claims in `folder`, which is made with the first claim.

        Args:
            folder: the folder of all claims.
            kind: `flock` or `lease`; None chooses, as the module's docstring says.
            lease_s: a lease is taken over after this many seconds without a sign of life.
            beat_s: seconds between two signs of life.

        Raises:
            ConfigError: for any other kind.
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
        """Return a claim on a key, waiting while a living process holds it; None as soon as `finished()` is true.

        Raises:
            StageBusy: if the key is still held after `wait_s` seconds. If `wait_s` is None, waiting never ends so.
            OSError: if claims cannot be written.
        """
        # Waiting is by polling, because neither a lease nor a flock on a network file system can wake us up. The pause
        # doubles from 5 ms, so that short stages are not slowed down and long waits do not load the file server.
        started, pause, said = time.monotonic(), 0.005, False
        while not finished():
            if claim := self.try_claim(key, facts):
                return claim
            waited = time.monotonic() - started
            if wait_s is not None and waited >= wait_s:
                holder = self.holder(key) or {}
                raise StageBusy(f"{_named(facts, key)} by {described(holder)}", holder)
            if waited > _SAY_AFTER_S and not said and (found := self.holder(key)):
                said = True
                _LOG.warning("waiting: %s by %s", _named(facts, key), described(found))
            time.sleep(pause if wait_s is None else max(0.001, min(pause, wait_s - waited)))
            pause = min(2 * pause, _LONGEST_PAUSE_S, self._leases.lease_s / 8)
        return None

    def try_claim(self, key: str, facts: Facts) -> Claim | None:
        """Return a claim on a key, or None if a living process holds it.

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
        # From now on, every process at this store uses leases, also one on a host where flock would work. Claims of
        # different kinds do not exclude each other.
        (self.folder / ".lease").touch()
        return self._leases.try_claim(key, told)

    def holder(self, key: str) -> dict[str, Any] | None:
        """Return the holder of a key (host, pid, since, job, log and the facts of the claim), or None.

        A lease on another host counts as held until we have seen no change in it for `lease_s` seconds.
        """
        if self.kind == "lease":
            found = self._leases.holder(key)
        else:
            path = self.folder / key
            found = _read(path) if is_flocked(path) else None
        return None if found is None else _UNKNOWN | found

    def lives(self, key: str) -> bool:
        """Tell whether the holder of a key is alive. The answer about a lease may take up to `lease_s` seconds.

        `holder` takes a silent lease of another host for held until it has watched long enough. Who asks only once
        would therefore never learn that such a holder has died.
        """
        first = self.holder(key)
        if first is None or self.kind == "flock" or pid_here(first.get("process")):
            return first is not None
        told, seen = self._leases.sign(key), False
        while self.holder(key) is not None and self._leases.sign(key) == told:
            if not seen:
                _LOG.warning("waiting up to %.0f s for a sign of life of %s", self._leases.lease_s, described(first))
            seen = True
            time.sleep(min(_LONGEST_PAUSE_S, self._leases.lease_s / 8))
        return self.holder(key) is not None

    @contextlib.contextmanager
    def alone(self, name: str) -> Iterator[None]:
        """Keep other processes out of a block: they wait until we leave it or die.

        Raises:
            OSError: if claims cannot be written.
        """
        claim = self.claim(name, {})
        try:
            yield
        finally:
            if claim:
                claim.release()

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
        """Remove the lock files of a key, unless a process holds it."""
        with contextlib.suppress(OSError):
            if self.kind == "lease":
                self._leases.forget(key)
            if claim := _try_flock(self.folder / key, {}, create=False):
                claim.release()


_UNKNOWN: dict[str, Any] = dict.fromkeys(("host", "pid", "since", "job", "log"))


def described(holder: Facts) -> str:
    """Return a holder as text, e.g. `host h, process 12 (SLURM job 3_4)`."""
    if not holder.get("host"):
        return "another process"
    job = f" (SLURM job {holder['job']})" if holder.get("job") else ""
    return f"host {holder['host']}, process {holder['pid']}{job}"


def _named(facts: Facts, key: str) -> str:
    return f"stage {facts['stage']} {key[:8]} is being computed" if "stage" in facts else f"the lock {key} is held"


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
    """Return the id of the SLURM job that this process runs in, e.g. `12`, or `12_3` in an array, or None."""
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
        """Remove the lock file and give up the lock."""
        # The file is removed while we still hold the lock. Whoever has it open and gets the lock afterwards sees that
        # the file has gone (`_same_file`) and makes a new one. If we unlocked first, another process could lock the
        # file before we remove it, and a third could make and lock a new one: two holders of one key.
        with contextlib.suppress(OSError):
            if _same_file(self.path, self.handle):
                self.path.unlink()
        with contextlib.suppress(OSError):  # on a full disk, closing fails to write, but the lock is free all the same
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
        # The last holder may have removed the file between our open and our lock. We would then hold a lock on a file
        # without a name, which nobody else can see, while the next process locks a new file of that name.
        if _same_file(path, handle):
            break
        handle.close()
    with contextlib.suppress(OSError):  # on a full disk the claim is still valid, but its holder is not named
        handle.truncate(0)
        handle.write(json.dumps(facts))
        handle.flush()
    return _Flocked(path, handle)


def _same_file(path: Path, handle: TextIO) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(handle.fileno()))
    except FileNotFoundError:
        return False


def is_flocked(path: Path) -> bool:
    """Tell whether a living process holds the lock of a file; False if there is no such file."""
    try:
        with open(path) as handle:
            # The lock is a shared one, so two processes that ask at the same time do not take each other for holders.
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _read(path: Path) -> dict[str, Any]:
    """Return the facts that the holder wrote, or an empty mapping if it has not finished writing them."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
