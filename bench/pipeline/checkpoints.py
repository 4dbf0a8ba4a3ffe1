"""Checkpoints that a kill can never damage: written beside, renamed into place, checked by digest when read.

Why all three: the rename keeps a killed process from leaving half a file under the right name; `fsync` keeps a machine
that loses power from doing so; and the digest finds what neither caught, so that an older checkpoint is used instead of
an error, or of wrong weights. The fingerprint keeps a training from going on from one with other settings.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_DIGEST_BYTES = hashlib.sha256().digest_size
_KEPT = 2  # the newest, and the one before it in case the newest is found to be damaged


def save(folder: Path, number: int, state: dict[str, Any], fingerprint: str = "") -> Path:
    """Write `state` as checkpoint `number`, remove all but the last two, and return the file.

    Args:
        folder: where checkpoints are.
        number: larger for later ones, 0 to 999,999,999.
        state: tensors, numbers, strings, lists and dicts.
        fingerprint: stands for the settings; `load_newest` reads checkpoints of an equal one alone.

    Raises:
        OSError: if the disk refuses; nothing half-written is left.
    """
    import torch

    buffer = io.BytesIO()
    torch.save({"fingerprint": fingerprint, "number": number, "state": state}, buffer)
    payload = buffer.getbuffer()
    for left in folder.glob("*.part"):  # of a process killed while it wrote; the stage's lock makes us the only one
        left.unlink()
    path = folder / f"{number:09d}.ckpt"
    part = path.with_suffix(".part")
    try:
        with open(part, "wb") as handle:
            handle.write(hashlib.sha256(payload).digest())
            handle.write(payload)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)
    except OSError:  # a full disk: what was written of it takes space
        part.unlink(missing_ok=True)
        raise
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink()
    return path


def load_newest(folder: Path, device: str = "cpu", fingerprint: str = "") -> dict[str, Any] | None:
    """Return the state of the newest undamaged checkpoint on `device`, or None where there is none."""
    found = _newest(folder, device, fingerprint)
    return None if found is None else found[1]


def _newest(folder: Path, device: str, fingerprint: str) -> tuple[int, dict[str, Any]] | None:
    import torch

    for path in _newest_first(folder):
        raw = memoryview(path.read_bytes())
        payload = raw[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() != raw[:_DIGEST_BYTES]:
            continue
        saved = torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
        if saved["fingerprint"] == fingerprint:
            return int(saved["number"]), saved["state"]
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ckpt"), reverse=True)


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one training in a folder, told apart from others' by a fingerprint of its settings."""

    folder: Path
    fingerprint: str

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write `state` as the checkpoint of `step`; see `save`."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return save(self.folder, step, state, self.fingerprint)

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Return (step, state) of the newest undamaged checkpoint, or None where there is none."""
        return _newest(self.folder, "cpu", self.fingerprint)


def fingerprint(*parts: Any) -> str:
    """Return 16 hex digits that stand for parts that JSON knows."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
