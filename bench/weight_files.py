"""Check files of network weights by their headers, and read them.

A matrix checks every file before it starts, so that a download that was cut off is found before a night of training.
Only headers are read for that, because the files may be gigabytes on a network disk.
"""

from __future__ import annotations

import codecs
import json
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, listed
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
    """Return the state dict in a file, a mapping from name to tensor. It may lie inside of a checkpoint.

    Raises:
        ConfigError: if the file is missing or holds no state dict. The message names `field`.
    """
    if not path.is_file():
        raise ConfigError(f"{field}: no file {path}; give a torchvision state dict (.pth, .safetensors)")
    try:
        loaded = _loaded(path)
    except Exception as error:  # each format's reader raises errors of its own for a damaged file
        if program := _PROGRAM.search(str(error)):
            raise ConfigError(
                f"{field}: {path} holds a pickled {program[1]}, a program that is never run here; where you trust the "
                f"file, save its tensors alone: `x = torch.load('{path.name}', weights_only=False)`, then "
                "`torch.save(x.state_dict(), 'weights.pth')`, with x['state_dict'] for a checkpoint that has one"
            ) from error
        first = (str(error).splitlines() or [""])[0][:200]
        raise ConfigError(
            f"{field}: {path} cannot be read as weights, give a torchvision state dict "
            f"({type(error).__name__}: {first})"
        ) from error
    return _state_dict(loaded, f"{field}: {path}")


# Where training scripts put the state dict in their checkpoints. The first that is there is taken.
_WRAPPERS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")
_PROGRAM = re.compile(r"[Uu]nsupported (?:global: )?GLOBAL (\S+)")


def _loaded(path: Path) -> Any:
    import numpy as np
    import torch

    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    # Checkpoints often hold the best score as a number of numpy. These three make numbers and run nothing.
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in "?bhilqBHILQefd"}
    numbers = [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    with torch.serialization.safe_globals([*numbers, np.dtype, *kinds, codecs.encode]):
        return torch.load(path, map_location="cpu", weights_only=True)


def _state_dict(loaded: Any, where: str) -> dict[str, torch.Tensor]:
    """Return the mapping from name to tensor that a file holds, itself or as a value of a checkpoint.

    Raises:
        ConfigError: if there is none, or several under names that say nothing.
    """
    own = _tensors(loaded)
    inside = (
        {key: found for key, value in loaded.items() if (found := _tensors(value))}
        if isinstance(loaded, Mapping)
        else {}
    )
    if own and (not inside or any("." in name for name in own)):
        return own
    if (best := next((key for key in _WRAPPERS if key in inside), None)) or len(inside) == 1:
        return inside[best] if best else next(iter(inside.values()))
    what = f"several state dicts ({listed(map(str, inside))})" if inside else "no state dict (name to tensor)"
    raise ConfigError(f"{where} holds {what}; save the one of the network alone")


def _tensors(value: Any) -> dict[str, torch.Tensor]:
    import torch

    items = value.items() if isinstance(value, Mapping) else ()
    return {name: tensor for name, tensor in items if isinstance(name, str) and isinstance(tensor, torch.Tensor)}
