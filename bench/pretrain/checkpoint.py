"""Checkpoints of a training: atomic to write, the newest readable one wins."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
from pathlib import Path
from typing import Any

import torch

KEEP = 2
_NAME = re.compile(r"^step-(\d{9})\.pt$")


class Checkpoints:
    """A folder of `step-*.pt` files of one training, told apart by a fingerprint of its settings."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Use `folder`, created if missing; ignore checkpoints of other fingerprints."""
        self.folder, self.fingerprint = folder, fingerprint
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, state: dict[str, Any]) -> Path:
        """Write `state` (tensors, numbers, strings, lists and dicts) atomically; keep the last two."""
        path = self.folder / f"step-{step:09d}.pt"
        temporary = self.folder / f".{path.name}.{os.getpid()}"
        with open(temporary, "wb") as handle:
            torch.save({"fingerprint": self.fingerprint, "step": step, "state": state}, handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(temporary, path)
        for old in self._paths()[KEEP:]:
            old.unlink(missing_ok=True)
        return path

    def newest(self) -> tuple[int, dict[str, Any]] | None:
        """Return `(step, state)` of the newest checkpoint that loads and fits, or None."""
        for path in self._paths():
            try:
                saved = torch.load(path, map_location="cpu", weights_only=True)
                if saved["fingerprint"] == self.fingerprint:
                    return int(saved["step"]), saved["state"]
            except (RuntimeError, OSError, EOFError, KeyError, TypeError, pickle.UnpicklingError):
                continue  # cut off while being written, or not ours: an older one may do
        return None

    def _paths(self) -> list[Path]:
        """Return the checkpoint files, newest first."""
        return sorted((p for p in self.folder.iterdir() if _NAME.match(p.name)), reverse=True)


def fingerprint(*parts: Any) -> str:
    """Return a short digest of JSON-able parts."""
    text = json.dumps(parts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
