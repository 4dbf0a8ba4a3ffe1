"""Checkpoints that a kill can never damage: written beside, renamed into place, checked by digest when read."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

_DIGEST_BYTES = hashlib.sha256().digest_size
_KEPT = 2  # the newest, and one before it in case the machine died before the newest reached the disk


def save(folder: Path, number: int, state: dict[str, Any]) -> None:
    """Write `state` (tensors, numbers, strings, lists, dicts) as checkpoint `number`; older ones are removed."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    payload = buffer.getvalue()
    path = _path(folder, number)
    temporary = path.with_suffix(f".{os.getpid()}")
    temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
    os.replace(temporary, path)
    for old in _newest_first(folder)[_KEPT:]:
        old.unlink(missing_ok=True)


def load_newest(folder: Path, device: str = "cpu") -> dict[str, Any] | None:
    """Return the newest undamaged checkpoint's state on `device`, or None where there is none."""
    for path in _newest_first(folder):
        raw = path.read_bytes()
        payload = raw[_DIGEST_BYTES:]
        if hashlib.sha256(payload).digest() == raw[:_DIGEST_BYTES]:
            return torch.load(io.BytesIO(payload), map_location=device, weights_only=True)
    return None


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:08d}.ckpt"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.ckpt"), reverse=True)
