"""What is written beside trained weights: how they came to be."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

Progress = dict[str, Any]
OnProgress = Callable[[Progress], None]
_PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "numpy")


def versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that a training depends on."""
    found = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **found}


def host_kind() -> dict[str, Any]:
    """Return what kind of machine this is, without its name."""
    import torch

    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def close(progress: Progress) -> dict[str, Any]:
    """Take curve and time out of a progress record: what goes into `record.json` at the end."""
    wall, processor = progress.pop("spent")
    return {"loss": progress.pop("curve"), "wall_s": round(wall), "processor_s": round(processor)}


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=1) + "\n")
    os.replace(temporary, path)
