"""The file of a study: Optuna's journal, one JSON record a line, under the locks of the store.

A process that dies while it writes (a node without power, a full quota, a kill) leaves half a line. Optuna would append
the next record to it, and then nobody could read the study again. So whoever takes the lock first looks at the end of
the file, and cuts half a line off. The trial that it belonged to is run again, as after every death of a driver.
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

from bench.errors import ConfigError
from bench.store.claims import Claim, Locks

_LOG = logging.getLogger(__name__)


def open_journal(path: Path, locks: Locks) -> JournalStorage:
    """Return the storage of a study, to read and to write. The file is made if it is not there, and mended at its end.

    Raises:
        ConfigError: if a line before the last is damaged.
        OSError: if the file cannot be read or mended.
    """
    lock = _Lock(path, locks)
    lock.acquire()
    try:
        mend(path)
    finally:
        lock.release()
    return JournalStorage(JournalFileBackend(str(path), lock))


def read_journal(path: Path) -> JournalStorage:
    """Return the storage of a study, to read alone. A last line that is half written is passed over, and stays.

    Raises:
        ConfigError: if a line before the last is damaged.
        OSError: if the file cannot be read.
    """
    _whole(path)
    return JournalStorage(JournalFileBackend(str(path)))


class _Lock(JournalFileOpenLock):  # the base class of both is not public
    """The lock around each record that Optuna appends, which is one of the store."""

    def __init__(self, path: Path, locks: Locks) -> None:
        super().__init__(str(path))
        self._path, self._locks = path, locks
        self._claim: Claim | None = None

    def acquire(self) -> bool:
        # Another driver may have died within its write since we opened the file.
        self._claim = self._locks.claim(f"journal-{self._path.stem}", {})
        try:
            if not _ends_with_a_line(self._path):
                mend(self._path)
        except BaseException:
            self.release()
            raise
        return True

    def release(self) -> None:
        if self._claim is not None:
            self._claim.release()
            self._claim = None


def mend(path: Path) -> None:
    """Cut a damaged last line off, keep its bytes beside the file, and say so. The caller holds the lock.

    Raises:
        ConfigError: if an earlier line is damaged, too.
        OSError: if the file cannot be read or written.
    """
    if not path.exists():
        return
    content, end = path.read_bytes(), _whole(path)
    if end == len(content):
        return
    kept = path.with_name(f"{path.name}.cut-{end}")
    with open(kept, "ab") as handle:
        handle.write(content[end:])
    os.truncate(path, end)
    _LOG.warning(
        "%s: the last line was half written; its %d bytes are in %s now, and the study goes on without them",
        path,
        len(content) - end,
        kept.name,
    )


def _whole(path: Path) -> int:
    """Return how many bytes at the start of a journal are whole records: all of them, or all but the last line."""
    with open(path, "rb") as handle:
        lines = handle.readlines()
    sizes = [len(line) for line in lines]
    for number, line in enumerate(lines, 1):
        if not _is_record(line):
            if number == len(lines):
                return sum(sizes[:-1])
            raise ConfigError(
                f"{path}, line {number}: is not a record of Optuna, the file is damaged; put back a copy of it, or "
                "move it away to begin the study again (stages that are finished are not computed again)"
            )
    return sum(sizes)


def _is_record(line: bytes) -> bool:
    try:
        found = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return False
    return isinstance(found, dict) and "op_code" in found


def _ends_with_a_line(path: Path) -> bool:
    if not path.exists():
        return True
    with open(path, "rb") as handle:
        if handle.seek(0, os.SEEK_END) == 0:
            return True
        handle.seek(-1, os.SEEK_END)
        return handle.read() == b"\n"
