"""Save and load the checkpoints of a training, so that no kill or power failure can damage them.

A checkpoint is written to a temporary file, flushed with `fsync`, renamed into place, and checked by its digest when it
is read. All three are needed. Without the rename, a killed process leaves half a file under the right name. Without
`fsync`, a power failure does. The digest finds what both miss; an older checkpoint is then used instead of an error or
of wrong weights. The fingerprint keeps a training from resuming from a checkpoint that has other settings.

Checkpoints of large networks have gigabytes. So they go to disk and back piece by piece, and no copy of the whole file
is ever in memory.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

LEAST_SECONDS = 20.0  # Between two checkpoints of a training: one of DenseNet121 has 110 MB and takes 0.5 s to write.
_DIGEST_BYTES = hashlib.sha256().digest_size
_KEPT = 2  # the newest, and the one before it in case the newest is damaged


def save(folder: Path, number: int, state: dict[str, Any], fingerprint: str = "") -> Path:
    """Write `state` as checkpoint `number`, remove all checkpoints but the last two, and return the new file.

    Args:
        folder: the folder of the checkpoints.
        number: 0 to 999,999,999; a later checkpoint has a larger number.
        state: tensors, numbers, strings, lists and dicts.
        fingerprint: stands for the settings; `load_newest` skips checkpoints with another fingerprint.

    Raises:
        OSError: if the file cannot be written; no partial file is left.
    """
    import torch

    # A process that was killed while it wrote leaves a .part file. Nobody else writes here now, because we hold the
    # claim on the stage.
    for left in folder.glob("*.part"):
        left.unlink()
    path = folder / f"{number:09d}.ckpt"
    part = path.with_suffix(".part")
    try:
        with open(part, "wb") as handle:
            handle.write(bytes(_DIGEST_BYTES))  # a place for the digest, which is known at the end
            hashed = _Hashed(handle)
            with io.BufferedWriter(hashed) as payload:
                torch.save({"fingerprint": fingerprint, "number": number, "state": state}, payload)
            handle.seek(0)
            handle.write(hashed.sha256.digest())
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)
    except OSError:  # on a full disk, the partial file would take up space
        part.unlink(missing_ok=True)
        raise
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink()
    return path


def load_newest(folder: Path, device: str = "cpu", fingerprint: str = "") -> dict[str, Any] | None:
    """Return the newest undamaged checkpoint's state, loaded onto `device`, or None if there is none."""
    found = _newest(folder, device, fingerprint)
    return None if found is None else found[1]


def _newest(folder: Path, device: str, fingerprint: str) -> tuple[int, dict[str, Any]] | None:
    import torch

    for path in _newest_first(folder):
        with open(path, "rb") as handle:
            digest = handle.read(_DIGEST_BYTES)
            if hashlib.file_digest(handle, "sha256").digest() != digest:
                continue
            saved = torch.load(io.BufferedReader(_Payload(handle)), map_location=device, weights_only=True)
        if saved["fingerprint"] == fingerprint:
            return int(saved["number"]), saved["state"]
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ckpt"), reverse=True)


class _Hashed(io.RawIOBase):
    """A file that is written from front to back and hashed on the way."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle, self.sha256 = handle, hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.sha256.update(data)
        return self._handle.write(data)


class _Payload(io.RawIOBase):
    """What follows the digest in a checkpoint, as a file of its own."""

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        self.seek(0)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._handle.readinto(buffer)  # type: ignore[attr-defined]

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        at = self._handle.seek(offset + (_DIGEST_BYTES if whence == os.SEEK_SET else 0), whence)
        return at - _DIGEST_BYTES

    def tell(self) -> int:
        return self._handle.tell() - _DIGEST_BYTES


@dataclass
class Pace:
    """When a training saves: every 20 s, or after 20 s for each second that the last checkpoint took to write."""

    _last: float = field(default_factory=lambda: time.monotonic())
    _cost: float = 0.0

    def save_if_due(self, folder: Path, number: int, state: Callable[[], dict[str, Any]]) -> None:
        """Write what `state` returns as checkpoint `number` if it is time; see the function `save`."""
        now = time.monotonic()
        if now - self._last >= LEAST_SECONDS * max(1.0, self._cost):
            save(folder, number, state())
            self._last = time.monotonic()
            self._cost = self._last - now


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training in a folder. The fingerprint of its settings marks them as its own."""

    folder: Path
    fingerprint: str

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write `state` as the checkpoint of `step`; see the function `save`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return save(self.folder, step, state, self.fingerprint)

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Return (step, state) of the newest undamaged checkpoint, or None if there is none."""
        return _newest(self.folder, "cpu", self.fingerprint)


def fingerprint(*parts: Any) -> str:
    """Return 16 hex digits that stand for `parts`, which are JSON values."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
