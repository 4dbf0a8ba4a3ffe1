"""The probe that `bench doctor` runs in a job: it looks at the node, reports, and waits to be dismissed."""

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

_LONGEST_S = 120.0  # longest wait of a probe for the other side to test its lock


@dataclass(frozen=True)
class Probe:
    """Writes `<folder>/<label>.json`, then holds the lock `<label>` until the file `<folder>/done` is there.

    Attributes:
        folder: a folder in the store, made by the process that submits the probe.
        label: the probe's name.
        locks: `flock` or `lease`.
        gpus: number of GPUs that the job asked for.
    """

    folder: str
    label: str
    locks: str
    gpus: int

    def __call__(self) -> None:
        """Look at the node, write the report, wait."""
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
    """Return the digest of all source files of ours, plugins included, to tell whether a node runs the same code."""
    digest = hashlib.sha256()
    for folder in [folder for package in ("bench", "methods") for folder in importlib.import_module(package).__path__]:
        for path in sorted(Path(folder).rglob("*.py")):
            digest.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _gpus() -> list[str] | str:
    """Return the names of the GPUs, or what is wrong if they cannot be used."""
    try:
        import torch

        from bench.doctor.machine import devices

        said, works = devices()
        n = torch.cuda.device_count() if torch.cuda.is_available() else 0
        return [torch.cuda.get_device_name(i) for i in range(n)] if works else said
    except Exception as error:  # a driver and a library that do not fit can fail in any way
        return in_words(error)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return None


def _kept_out(folder: Path, kind: str) -> bool | str:
    """Tell whether this node sees that the other side holds its lock, or return what went wrong."""
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
    """Tell whether a file is there."""
    # On a network file system, `exists` may be answered for seconds from a cache that remembers the file as missing. A
    # listing of the folder asks the server.
    with contextlib.suppress(OSError):
        return path.name in os.listdir(path.parent)
    return False


def report_of(folder: Path, label: str) -> dict[str, Any] | None:
    """Return a probe's report, or None if it has not reported yet."""
    return read_json(folder / f"{label}.json") if _is_there(folder / f"{label}.json") else None
