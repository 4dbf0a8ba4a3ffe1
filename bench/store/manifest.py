"""The manifest of a finished stage: what was computed, where and how long it ran, and which files it wrote."""

from __future__ import annotations

import contextlib
import functools
import platform
import socket
import sys
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from bench.pipeline.stage import Stage
from bench.store import attempt

_LIBRARIES = ("longtail-bench", "torch", "torchvision", "diffusers", "transformers", "numpy", "scikit-learn")


@functools.cache
def device_name(device: str | None) -> str:
    """Return the model of the GPU or CPU behind a torch device; None means the CPU."""
    if device is not None and device.startswith("cuda"):
        import torch

        return str(torch.cuda.get_device_name(device))
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version(), "platform": sys.platform}
    for name in _LIBRARIES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def manifest_of(stage: Stage, out: Path, seconds: float, device: str | None, threads: int) -> dict[str, Any]:
    """Return the manifest of a computation that has just filled `out`.

    Args:
        stage: what was computed.
        out: the folder with its files.
        seconds: how long the computation took.
        device: the torch device that was used; None if the stage did not ask for one.
        threads: the number of CPU threads that it was allowed.
    """
    files = {name: attempt.file_record(path) for name, path in attempt.files_of(out)}
    return {
        "stage": stage.stage_name(),
        "key": stage.key,
        "identity": stage.identity,
        "inputs": {s.key: s.stage_name() for s in stage.inputs()},
        "files": files,
        "bytes": sum(f["bytes"] for f in files.values()),
        "seconds": round(seconds, 3),
        "size": size_of(stage),
        "measured_as": stage.measured_as(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device,
        "device_name": device_name(device),
        "threads": threads,
        "host": socket.gethostname(),
        "versions": versions(),
    }


def size_of(stage: Stage) -> int | None:
    """Return `stage.size()`, or None if it fails."""
    # The result has been computed already, and a mistake in the `size` of a plugin must not throw it away.
    try:
        size = stage.size()
    except Exception:
        return None
    return size if isinstance(size, int) and size >= 0 else None
