"""Check files of network weights by their headers, and read them.

A matrix checks every file before it starts, so that a download that was cut off is found before a night of training.
Only headers are read for that, because the files may be gigabytes on a network disk.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError
from bench.paths import counted_from

if TYPE_CHECKING:
    import torch

_LARGEST_HEADER = 100 << 20  # bytes; a damaged file can claim any length, and the format allows about this much


def check_file(path: Path, field: str) -> None:
    """Refuse a file of weights that is missing or cut off. Only its header is read.

    Raises:
        ConfigError: if the file cannot be used. The message names `field`, the file and what is wrong with it.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise ConfigError(f"{field}: {path} {what}{counted_from(path)}; give a file of weights, or null")
    if path.suffix == ".safetensors":
        _check_safetensors(path, field)
        return
    with open(path, "rb") as handle:
        head = handle.read(2)
    # A .pth file is a zip archive, and a zip archive has its directory at the end. A copy that was cut off lacks it.
    if head == b"PK" and not zipfile.is_zipfile(path):
        raise ConfigError(f"{field}: {path} is cut off ({path.stat().st_size} bytes); copy or download it again")
    if head != b"PK" and head[:1] != b"\x80":  # PyTorch writes zip archives, and wrote pickles (\x80) before 1.6
        raise ConfigError(
            f"{field}: {path} is not a file of weights ({path.stat().st_size} bytes); give a .pth or .safetensors"
        )


def _check_safetensors(path: Path, field: str) -> None:
    size = path.stat().st_size
    # The header names the end of every tensor, so the right size of the whole file is known without reading it.
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(length)) if 2 <= length <= min(size - 8, _LARGEST_HEADER) else None
        ends = [int(v["data_offsets"][1]) for k, v in (header or {}).items() if k != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        header = None
    if header is None:
        raise ConfigError(f"{field}: {path} is not a safetensors file, or its header is cut off; download it again")
    if (want := 8 + length + max(ends, default=0)) != size:
        raise ConfigError(f"{field}: {path} is cut off: {size} of {want} bytes; copy or download it again")


def read_weights(path: Path, field: str) -> dict[str, torch.Tensor]:
    """Return the state dict in a file, a mapping from name to tensor.

    Raises:
        ConfigError: if the file is missing or holds no state dict. The message names `field`.
    """
    import torch

    if not path.is_file():
        raise ConfigError(f"{field}: no file {path}; give a torchvision state dict (.pth, .safetensors)")
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each format's reader raises errors of its own for a damaged file
        first = (str(error).splitlines() or [""])[0][:200]
        raise ConfigError(
            f"{field}: {path} cannot be read as weights, give a torchvision state dict "
            f"({type(error).__name__}: {first})"
        ) from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ConfigError(f"{field}: {path} holds no state dict (name to tensor)")
    return state
