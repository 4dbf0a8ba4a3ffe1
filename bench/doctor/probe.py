"""What `bench doctor` runs in a job: looks around on the node, tells what it sees, and waits to be let go."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import os
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import in_words
from bench.files import read_json, write_json
from bench.store.claims import Claim, Locks
from bench.store.manifest import versions

_LONGEST_S = 120.0  # that a probe stays for the other side to look at its lock


@dataclass(frozen=True)
class Probe:
    """Writes `<folder>/<label>.json`, and holds the lock `<label>` until `<folder>/done` is there.

    Attributes:
        folder: in the store, made by who submits.
        label: the probe's name.
        locks: `flock` or `lease`.
        gpus: how many were asked for.
    """

    folder: str
    label: str
    locks: str
    gpus: int

    def __call__(self) -> None:
        """InputCheck, tell, wait."""
        folder = Path(self.folder)
        with contextlib.ExitStack() as stack:
            told = {
                "host": socket.gethostname(),
                "python": sys.executable,
                "versions": versions(),
                "code": code_digest(),
                "gpus": _gpus() if self.gpus else [],
                "token": _read(folder / "token"),
                "kept_out": _kept_out(folder, self.locks),
                "holds": _held(stack, folder, self.locks, self.label),
            }
            write_json(folder / f"{self.label}.json", told | {"at": time.time()})
            end = time.monotonic() + _LONGEST_S
            while not _is_there(folder / "done") and time.monotonic() < end:
                time.sleep(0.1)


def code_digest() -> str:
    """Return the digest of every source file of ours, plugins included: the same where the same code is run."""
    digest = hashlib.sha256()
    for folder in [folder for package in ("bench", "methods") for folder in importlib.import_module(package).__path__]:
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _gpus() -> list[str] | str:
    """Return the GPUs' names; what is wrong, where they cannot be used."""
    try:
        import torch

        from bench.doctor.machine import devices

        said, works = devices()
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [torch.cuda.get_device_name(i) for i in range(n)] if works else said
    except Exception as error:  # drivers and libraries that do not fit fail in many ways
        return in_words(error)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _kept_out(folder: Path, kind: str) -> bool | str:
    """Tell whether the lock that the other side holds is held, seen from here; or what went wrong."""
    try:
        claim = Locks(folder / "locks", kind).try_claim("ours", {})
    except OSError as error:
        return in_words(error)
    if claim:
        claim.release()
    return claim is None


def _held(stack: contextlib.ExitStack, folder: Path, kind: str, label: str) -> bool:
    claim: Claim | None = None
    with contextlib.suppress(OSError):
        claim = Locks(folder / "locks", kind).try_claim(label, {})
    if claim:
        stack.callback(claim.release)
    return claim is not None


def _is_there(path: Path) -> bool:
    """Tell whether a file is there, asking the file server anew: a listing is not answered from a cache of names."""
    with contextlib.suppress(OSError):
        return path.name in os.listdir(path.parent)
    return False


def report_of(folder: Path, label: str) -> dict[str, Any] | None:
    """Return what a probe has told, or None while it has not."""
    return read_json(folder / f"{label}.json") if _is_there(folder / f"{label}.json") else None
