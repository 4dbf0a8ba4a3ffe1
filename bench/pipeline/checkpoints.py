"""Checkpoints that a kill can never damage: written beside, renamed into place, checked by digest when read."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

_DIGEST_BYTES = hashlib.sha256().digest_size
_KEPT = 2  # the newest, and the one before it in case the machine died before the newest reached the disk


def save(folder: Path, number: int, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) as checkpoint `number`; older ones are removed."""
    import torch

    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    for left in folder.glob("*.part"):  # of a process killed while it wrote; the stage's lock makes us the only one
        left.unlink()
    path = folder / f"{number:09d}.ckpt"
    part = path.with_suffix(".part")
    try:
        with open(part, "wb") as handle:
            handle.write(hashlib.sha256(payload).digest() + payload)
        os.replace(part, path)
    except OSError:  # a full disk: what was written of it takes space
        part.unlink(missing_ok=True)
        raise
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink()


def load_newest(folder: Path, device: str = "cpu") -> dict[str, Any] | None:
    """Return the state of the newest undamaged checkpoint on `device`, or None where there is none."""
    import torch

    for path in _newest_first(folder):
        raw = path.read_bytes()
        payload = raw[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() == raw[:_DIGEST_BYTES]:
            return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    return None


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ckpt"), reverse=True)
