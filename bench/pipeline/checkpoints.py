"""Save and load the checkpoints of a training, so that no kill or power failure can damage them.

A checkpoint is written to a temporary file, flushed with `fsync`, renamed into place, and checked by its digest when it
is read. All three are needed. Without the rename, a killed process leaves half a file under the right name. Without
`fsync`, a power failure does. The digest finds what both miss; an older checkpoint is then used instead of an error or
of wrong weights. The fingerprint keeps a training from resuming from a checkpoint that has other settings.
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

    buffer = io.BytesIO()
    torch.save({"fingerprint": fingerprint, "number": number, "state": state}, buffer)
    payload = buffer.getbuffer()
    # A process that was killed while it wrote leaves a .part file. Nobody else writes here now, because we hold the
    # claim on the stage.
    for left in folder.glob("*.part"):
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
