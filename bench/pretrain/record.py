"""What is written beside trained weights: how they came to be."""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any

Progress = dict[str, Any]
OnProgress = Callable[[Progress], None]


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
