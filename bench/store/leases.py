"""A lease is a claim for file systems without locks. Its holder gives signs of life, and loses it when they stop.

The files are `<folder>/<key>.lease/<n>`, and the file with the highest n holds the key. Its first line is a counter. A
thread of the holder keeps increasing it, through a descriptor that stays open, so a holder that was taken over can only
write into its own old file. A lease changes hands in exactly one way: a process creates file n + 1 with O_EXCL, and
only one process can succeed in that. Neither clocks of different hosts nor times of files are ever compared, because
clocks differ and may be set back.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import threading
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DIGITS = 12
_FREE = b"free".ljust(_DIGITS)


@dataclass
class _Seen:
    """What we saw in one file of a lease, since when, and when we looked last (seconds of our monotonic clock)."""

    number: int
    content: bytes
    since: float
    last: float


class Leases:
    """The leases in one folder, as this process sees them."""

    def __init__(self, folder: Path, lease_s: float, beat_s: float) -> None:
        """Take leases over after `lease_s` seconds without a change, and give a sign of life every `beat_s` seconds."""
        self.folder, self.lease_s, self.beat_s = folder, lease_s, beat_s
        self._seen: dict[str, _Seen] = {}

    def try_claim(self, key: str, facts: Mapping[str, Any]) -> Lease | None:
        """Return a lease on a key, or None if another process holds it.

        Raises:
            OSError: if the lease cannot be written.
        """
        folder = self.folder / f"{key}.lease"
        folder.mkdir(parents=True, exist_ok=True)
        top = _top(folder)
        if top and not self._is_over(key, top):
            return None
        descriptor = _enter(folder, top + 1, facts)
        return None if descriptor is None else Lease(folder, top + 1, descriptor, facts, self.beat_s)

    def holder(self, key: str) -> dict[str, Any] | None:
        """Return the facts that the holder of a key wrote, or None if nobody holds it."""
        top = _top(self.folder / f"{key}.lease")
        if not top or self._is_over(key, top):
            return None
        return _facts(self._seen[key].content)

    def sign(self, key: str) -> tuple[int, bytes]:
        """Return the last sign of life of a key's holder: it changes as long as the holder lives."""
        top = _top(self.folder / f"{key}.lease")
        with contextlib.suppress(OSError):
            return top, (self.folder / f"{key}.lease" / str(top)).read_bytes()
        return top, b""

    def forget(self, key: str) -> None:
        """Remove the folder of a key, unless a process holds it."""
        folder = self.folder / f"{key}.lease"
        if not folder.is_dir() or self.holder(key):
            return
        if claim := self.try_claim(key, {}):
            for path in folder.iterdir():
                path.unlink(missing_ok=True)
            claim.release()
            folder.rmdir()

    def _is_over(self, key: str, number: int) -> bool:
        """Tell whether the holder of a file has released it, has died on this machine, or was silent for too long."""
        try:
            content = (self.folder / f"{key}.lease" / str(number)).read_bytes()
        except FileNotFoundError:
            content = b""  # it was taken over this instant; the next look finds the new file
        now = time.monotonic()
        seen = self._seen.get(key)
        same = seen is not None and (seen.number, seen.content) == (number, content)
        # Silence only counts while we watch. If we have not looked for a long time, we may have been stopped together
        # with the holder (Ctrl-Z, a suspended laptop), and it deserves another `lease_s` seconds to show that it lives.
        if seen is None or not same or now - seen.last > self.lease_s / 2:
            seen = self._seen[key] = _Seen(number, content, now, now)
        seen.last = now
        if content.startswith(_FREE) or now - seen.since >= self.lease_s:
            return True
        return has_died(_facts(content).get("process"))


class Lease:
    """A lease on a key that this process holds by giving signs of life."""

    def __init__(self, folder: Path, number: int, descriptor: int, facts: Mapping[str, Any], beat_s: float) -> None:
        """Start giving signs of life in file `number`, which is open as `descriptor`."""
        self.token = uuid.uuid4().hex[:12]
        self._folder, self._number, self._descriptor, self._facts = folder, number, descriptor, facts
        self._gone = False
        self._guard = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._live, args=(beat_s,), daemon=True, name=f"lease {folder.stem}")
        self._thread.start()

    def lost(self) -> bool:
        """Tell whether another process has taken over."""
        with self._guard:
            return self._is_gone()

    def confirm(self) -> bool:
        """Renew the lease by taking it over from ourselves. True means that no other process had taken it before."""
        # It is not enough to look whether we still have the highest number: another process could take over between
        # our look and the publishing of our result. Creating the next file is the step that only one process can take,
        # and afterwards we have `lease_s` seconds until anyone may take over again.
        with self._guard:
            if self._is_gone() or (descriptor := _enter(self._folder, self._number + 1, self._facts)) is None:
                self._gone = True
                return False
            os.close(self._descriptor)
            self._descriptor, self._number = descriptor, self._number + 1
            return True

    def release(self) -> None:
        """Stop giving signs of life, and mark the lease as free."""
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):  # if the mark cannot be written, the lease runs out after `lease_s` seconds
            os.pwrite(self._descriptor, _FREE, 0)
            os.fsync(self._descriptor)
        os.close(self._descriptor)

    def _is_gone(self) -> bool:
        self._gone = self._gone or _top(self._folder) != self._number
        return self._gone

    def _live(self, beat_s: float) -> None:
        beat = 0
        while not self._stop.wait(beat_s):
            beat += 1
            with self._guard, contextlib.suppress(OSError):
                os.pwrite(self._descriptor, _counter(beat), 0)
                os.fsync(self._descriptor)


def _enter(folder: Path, number: int, facts: Mapping[str, Any]) -> int | None:
    """Create file `number`, remove older files, and return its descriptor; None if another process was faster."""
    try:
        descriptor = os.open(folder / str(number), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o666)
    except (FileExistsError, FileNotFoundError):  # another process was faster, or clean-up removed the folder just now
        return None
    with contextlib.suppress(OSError):  # on a full disk the claim is still valid, but its holder is not named
        os.write(descriptor, _counter(0) + b"\n" + json.dumps(dict(facts)).encode())
        os.fsync(descriptor)
    numbers = _numbers(folder)
    # O_EXCL alone is not enough, because older files are removed. If we were stopped after we chose `number`, that
    # file may have come and gone, and we have created it a second time while a later file holds the lease.
    if numbers and max(numbers) > number:
        os.close(descriptor)
        (folder / str(number)).unlink(missing_ok=True)
        return None
    for old in numbers:
        if old < number:
            (folder / str(old)).unlink(missing_ok=True)
    return descriptor


def _numbers(folder: Path) -> list[int]:
    try:
        return [int(name) for name in os.listdir(folder) if name.isdigit()]
    except FileNotFoundError:
        return []


def _top(folder: Path) -> int:
    return max(_numbers(folder), default=0)


def _counter(beat: int) -> bytes:
    return str(beat).zfill(_DIGITS).encode()


def _facts(content: bytes) -> dict[str, Any]:
    try:
        found = json.loads(content[_DIGITS:])
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def this_process() -> str | None:
    """Return a name for this process that no other process ever gets, or None if there is none (not on Linux).

    It is made of the boot, the pid namespace, the pid and the start time. The pid alone would be reused.
    """
    return _identity(os.getpid())


def has_died(process: str | None) -> bool:
    """Tell whether a process (see `this_process`) of this machine has ended; False if we cannot know."""
    pid = _pid_if_ours(process)
    return pid is not None and _identity(pid) != process


def pid_here(process: str | None) -> int | None:
    """Return the pid of a process (see `this_process`) if it is alive on this machine, else None."""
    pid = _pid_if_ours(process)
    return pid if pid is not None and _identity(pid) == process else None


def _pid_if_ours(process: str | None) -> int | None:
    """Return the pid that a process of this machine has or had; None for a process of another machine."""
    here = _machine()
    if not process or here is None or not process.startswith(f"{here}/"):
        return None
    pid = process.removeprefix(f"{here}/").partition("/")[0]
    return int(pid) if pid.isdigit() else None


def _identity(pid: int) -> str | None:
    machine = _machine()
    if machine is None:
        return None
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    # A zombie (Z) still has a pid but computes nothing. Field 19 after the name is the start time.
    return None if fields[0] in "ZX" else f"{machine}/{pid}/{fields[19]}"


@functools.cache
def _machine() -> str | None:
    """Return the boot id and the pid namespace, or None if they are not available (not on Linux)."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None
