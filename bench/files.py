"""Small files that a reader never sees half of, and the versions that are written into them."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import socket
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_LIBRARIES = ("longtail-bench", "torch", "torchvision", "diffusers", "transformers", "numpy", "scikit-learn")


def write_text(path: Path, text: str) -> None:
    """Write a file, and the folders above it, by a rename in its own folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")  # hosts may share the folder
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    except OSError:  # a full disk: what was written of it takes space
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file by a rename; what JSON does not know is written as its text."""
    write_text(path, json.dumps(value, indent=1, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the mapping in a JSON file, or None where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def new_array(path: Path, shape: tuple[int, ...], dtype: Any) -> np.memmap:
    """Return a new npy file as a writable memory map, its space taken at once.

    Without that a full disk would be found out while a page is written, and the kernel would kill the process.

    Raises:
        OSError: if the disk has no room for it.
    """
    import numpy as np

    array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with open(path, "rb+") as handle:
            os.posix_fallocate(handle.fileno(), 0, path.stat().st_size)
    return array


@functools.cache
def device_name(device: str | None) -> str:
    """Return the model of the GPU or CPU behind a torch device; None is the CPU."""
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
