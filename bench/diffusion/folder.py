"""Folders in the layout of diffusers: which files a pipeline reads, their digest, and whether they fit together.

A release holds the same weights several times (float16, before averaging, pickled). The digest covers only the files
that are read, so that a whole and a partial download of the same model have the same keys.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import re
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.content_digests import digests
from bench.errors import ConfigError, listed
from bench.weight_files import check_file

NETWORKS = ("vae", "unet", "text_encoder")
# Each of these was tested: entered in the middle, it leads a perfect denoiser to the clean image. LMS does not.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "KDPM2DiscreteScheduler",
    "UniPCMultistepScheduler",
)
PREDICTIONS = ("epsilon", "v_prediction")
_SHARD = re.compile(r"-\d+-of-\d+")


def weights_read(folder: Path) -> list[Path]:
    """Return the files that a network's weights are read from, and their index if they are in several; empty if none.

    They are the first whole set: no variant comes before a variant (`fp16`), and safetensors before pickles. An index
    that is left over from a download of something else leads to no set.
    """
    return next((files for files in _sets(folder) if all(file.is_file() for file in files)), [])


def _sets(folder: Path) -> Iterator[list[Path]]:
    """Yield the sets of files that may hold the weights, in the order of `weights_read`. Shards may be missing."""
    of_text = folder.name == "text_encoder"
    base, pickled = ("model", "pytorch_model") if of_text else ("diffusion_pytorch_model",) * 2
    names = [p.name for p in folder.iterdir()] if folder.is_dir() else []
    parts = {_SHARD.sub("", part) for n in names if n.startswith((base, pickled)) for part in n.split(".")[1:]}
    variants = sorted(parts - {"safetensors", "bin", "index", "json"}, key=lambda word: (word != "fp16", word))
    for dot in ("", *(f".{word}" for word in variants)):
        whole = [folder / f"{base}{dot}.safetensors"]
        indices = (f"{base}.safetensors.index{dot}.json", f"{base}{dot}.safetensors.index.json")
        in_shards = [_with_shards(folder / name) for name in dict.fromkeys(indices) if name in names]
        yield from (whole, *in_shards) if of_text else (*in_shards, whole)  # in the order of the library that loads it
        yield [folder / f"{pickled}{dot}.bin"]


def _with_shards(index: Path) -> list[Path]:
    named = _json(index).get("weight_map")
    shards = {Path(str(name)).name for name in named.values()} if isinstance(named, dict) else set()
    return [index, *(index.parent / name for name in sorted(shards))]


def files_read(path: Path) -> list[Path]:
    """Return the files that a pipeline is loaded from, in a fixed order."""
    files = [path / "model_index.json"]
    for name in ("scheduler", "tokenizer"):
        files += sorted(p for p in (path / name).glob("*") if p.suffix in (".json", ".txt"))
    for name in NETWORKS:
        files += [path / name / "config.json", *weights_read(path / name)]
    return [file for file in files if file.is_file()]


@contextlib.contextmanager
def view_of_files_read(path: Path) -> Iterator[Path]:
    """Make a folder of links to the files in `files_read`, without the variants in their names.

    The libraries have rules of their own for the choice among several files of weights. They find no choice here, so
    they read the files that were checked and whose digest is in the key.
    """
    with tempfile.TemporaryDirectory(prefix="bench-diffusion-") as view:
        for file in files_read(path):
            link = Path(view) / file.relative_to(path).with_name(_plain_name(file))
            link.parent.mkdir(exist_ok=True)
            link.symlink_to(file.resolve())
        yield Path(view)


def _plain_name(file: Path) -> str:
    if file.parent.name not in NETWORKS or file.name == "config.json" or _SHARD.search(file.stem):
        return file.name
    base = file.name.split(".")[0]
    return f"{base}.safetensors.index.json" if file.suffix == ".json" else f"{base}{file.suffix}"


@functools.cache
def digest(path: Path) -> str:
    """Return a digest of the names and bytes of the files that are read, 32 hex digits."""
    files = files_read(path)
    named = zip(files, digests(files, path), strict=True)
    return hashlib.sha256("".join(f"{f.relative_to(path)}:{d.hex()}\n" for f, d in named).encode()).hexdigest()[:32]


def hub_snapshot(name: str) -> Path | None:
    """Return the local folder of a hub id, or None if it is not downloaded or `name` is not a hub id."""
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None


def check_agreement(path: Path) -> None:
    """Check that the parts fit together, the pipeline is a Stable Diffusion 1 or 2, and the scheduler is known.

    A missing entry in a configuration file is accepted here; loading the pipeline will show whether it matters.

    Raises:
        ConfigError: if a check fails. The message names the part, its value and the allowed ones.
    """
    index, scheduler = _json(path / "model_index.json"), scheduler_config(path)
    vae, unet, text = (_json(path / name / "config.json") for name in NETWORKS)
    others = [n for n, v in index.items() if n in _OTHER_KINDS and isinstance(v, list) and v and v[0] is not None]
    if others:
        what = f"is a {index.get('_class_name')} with {listed(others)}"
        raise ConfigError(f"diffusion.folder: {path} {what}; want a Stable Diffusion 1 or 2 (StableDiffusionPipeline)")
    _same(path, unet, "in_channels", "the UNet takes {} channels", vae, "latent_channels", "the VAE gives {}")
    _same(path, unet, "out_channels", "the UNet gives {} channels", vae, "latent_channels", "the VAE takes {}")
    _same(
        path, unet, "cross_attention_dim", "the UNet reads words {} wide", text, "hidden_size", "their encoder gives {}"
    )
    _one_of(path, scheduler, "_class_name", SCHEDULERS)
    _one_of(path, scheduler, "prediction_type", PREDICTIONS)


_OTHER_KINDS = ("text_encoder_2", "text_encoder_3", "transformer", "prior", "controlnet", "movq")


def _same(
    path: Path, one: Mapping[str, Any], a: str, says: str, other: Mapping[str, Any], b: str, says_other: str
) -> None:
    x, y = one.get(a), other.get(b)
    if isinstance(x, int) and isinstance(y, int) and x != y:
        said = f"{says.format(x)}, {says_other.format(y)}"
        raise ConfigError(f"diffusion.folder: the parts of {path} do not fit: {said}; give one model's whole folder")


def _one_of(path: Path, scheduler: Mapping[str, Any], field: str, allowed: tuple[str, ...]) -> None:
    said = scheduler.get(field)
    if said is not None and said not in allowed:
        file = path / "scheduler" / "scheduler_config.json"
        raise ConfigError(f"diffusion.folder: {file}: {field}: want one of {', '.join(allowed)}, got {said!r}")


_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


def check_pipeline(path: Path) -> None:
    """Check that no part of a diffusion folder is missing, truncated or from another model.

    Raises:
        ConfigError: if one is. The message names the part.
    """
    index = _json(path / "model_index.json")
    missing = [name for name in (*NETWORKS, "scheduler", "tokenizer") if not _is_there(index, path, name)]
    if missing:
        raise ConfigError(f"diffusion.folder: {path} has no {listed(missing)}; {_AGAIN}")
    scheduler_config(path)
    if not any((path / "tokenizer" / name).is_file() for name in _VOCABULARIES):
        raise ConfigError(f"diffusion.folder: {path / 'tokenizer'} has no {' or '.join(_VOCABULARIES)}; {_AGAIN}")
    for name in NETWORKS:
        _json(path / name / "config.json")
        _check_network(path / name)
    check_agreement(path)


_AGAIN = "give a whole StableDiffusionPipeline folder (download it again), or 'tiny'"


def _is_there(index: dict[str, Any], path: Path, name: str) -> bool:
    named = index.get(name)
    return isinstance(named, list) and all(isinstance(n, str) for n in named) and (path / name).is_dir()


def _check_network(folder: Path) -> None:
    files = weights_read(folder)
    if not files:
        begun = next((named for named in _sets(folder) if any(file.is_file() for file in named)), [])
        missing = [file.name for file in begun if not file.is_file()] or ["weights (.safetensors)"]
        raise ConfigError(f"diffusion.folder: {folder} has no {listed(missing, 3)}; {_AGAIN}")
    for file in files:
        if file.suffix != ".json":
            check_file(file, "diffusion.folder")


def _json(path: Path) -> dict[str, Any]:
    """Return the mapping in a JSON file of the folder.

    Raises:
        ConfigError: if the file is missing, is not JSON, or holds no mapping.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"diffusion.folder: {path} is not there; {_AGAIN}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"diffusion.folder: {path} cannot be read as JSON ({error}); {_AGAIN}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"diffusion.folder: {path} holds no mapping; {_AGAIN}")
    return found


def scheduler_config(path: Path) -> dict[str, Any]:
    """Return the configuration of the scheduler.

    Raises:
        ConfigError: if the file is missing or is not JSON.
    """
    return _json(path / "scheduler" / "scheduler_config.json")


def vae_halvings(path: Path) -> int | None:
    """Return how often the VAE halves the side of an image, or None if its configuration does not say."""
    channels = _json(path / "vae" / "config.json").get("block_out_channels")
    return len(channels) - 1 if isinstance(channels, list) and channels else None
