"""Files of weights, looked at before anything is computed: half a download must not cost an hour of training first.

Only headers and names are read, so that this is quick. What a file holds is judged where it is loaded.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.diffusion_folder import NETWORKS, check_agreement, variant, weights_read
from bench.errors import ConfigError, listed
from bench.latents import Latents
from bench.metrics.extractors import InceptionExtractor, OracleExtractor, XrvExtractor
from bench.stage import walk

if TYPE_CHECKING:
    from bench.diffusion import DiffusionModel
    from bench.matrix import Cell, Matrix

_LARGEST_HEADER = 100 << 20
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


def check_weights(matrix: Matrix, where: str) -> None:
    """Refuse weights that are missing or cut off, and images that the diffusion model's VAE cannot take.

    Raises:
        ConfigError: naming the field, the file, what is wrong with it and what to do.
    """
    first: dict[tuple[str, str], Cell] = {}
    for cell in matrix.cells:
        first.setdefault((cell.dataset.label, cell.label), cell)
    seen: set[str] = set()
    try:
        for cell in first.values():
            _check_cell(cell, seen)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def _check_cell(cell: Cell, seen: set[str]) -> None:
    for field, path in _single_files(cell):
        if str(path) not in seen:
            seen.add(str(path))
            check_file(path, field)
    if content := getattr(cell.fidelity.settings.extractor, "content", None):
        content()  # says where it looked for weights that no setting names
    needing = [s for s in walk([cell.augmented]) if isinstance(s, Latents)]
    model = cell.augmented.diffusion or (needing[0].diffusion if needing else None)
    if model is not None:
        if model.folder not in seen:
            seen.add(model.folder)
            check_pipeline(model)
        _check_side(cell, model)
        if (classes := cell.dataset.known_classes()) is not None:
            model.prompt.check(classes)


def _single_files(cell: Cell) -> Iterator[tuple[str, Path]]:
    extractor = cell.fidelity.settings.extractor
    if cell.classifier.settings.weights is not None:
        yield "classifier.weights", Path(cell.classifier.settings.weights).expanduser()
    if isinstance(extractor, InceptionExtractor) and extractor.weights is not None:
        yield "fidelity.extractor.weights", Path(extractor.weights).expanduser()
    if isinstance(extractor, XrvExtractor) and (path := Path(extractor.weights).expanduser()).is_file():
        yield "fidelity.extractor.weights", path
    if isinstance(extractor, OracleExtractor) and extractor.folder is not None:
        from bench.pretrain import ORACLE_WEIGHTS

        path = Path(extractor.folder).expanduser() / ORACLE_WEIGHTS
        if path.is_file():  # else the extractor says what to do
            yield "fidelity.extractor.folder", path


def check_file(path: Path, field: str) -> None:
    """Refuse a file of weights that is missing or cut off.

    Raises:
        ConfigError: naming `field`, the file and what is wrong with it.
    """
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "is not there"
        raise ConfigError(f"{field}: {path} {what}; give a file of weights, or null")
    if path.suffix == ".safetensors":
        _check_safetensors(path, field)
        return
    with open(path, "rb") as handle:
        head = handle.read(2)
    if head == b"PK" and not zipfile.is_zipfile(path):
        raise ConfigError(f"{field}: {path} is cut off ({path.stat().st_size} bytes); copy or download it again")
    if head != b"PK" and head[:1] != b"\x80":  # PyTorch's two formats
        raise ConfigError(
            f"{field}: {path} is no file of weights ({path.stat().st_size} bytes); give a .pth or .safetensors"
        )


def _check_safetensors(path: Path, field: str) -> None:
    size = path.stat().st_size
    try:
        with open(path, "rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            header = json.loads(handle.read(length)) if 2 <= length <= min(size - 8, _LARGEST_HEADER) else None
        ends = [int(v["data_offsets"][1]) for k, v in (header or {}).items() if k != "__metadata__"]
    except (ValueError, LookupError, TypeError, AttributeError):
        header = None
    if header is None:
        raise ConfigError(f"{field}: {path} is no safetensors file, or cut off in its header; download it again")
    if (want := 8 + length + max(ends, default=0)) != size:
        raise ConfigError(f"{field}: {path} is cut off: {size} of {want} bytes; copy or download it again")


def check_pipeline(model: DiffusionModel) -> None:
    """Refuse a diffusion folder in which a part is missing, cut off or of another model than the others.

    Raises:
        ConfigError: naming the part.
    """
    path = model.path
    index = _json(path / "model_index.json")
    missing = [name for name in (*NETWORKS, "scheduler", "tokenizer") if not _is_there(index, path, name)]
    if missing:
        raise ConfigError(f"diffusion.folder: {path} has no {listed(missing)}; {_AGAIN}")
    _json(path / "scheduler" / "scheduler_config.json")
    if not any((path / "tokenizer" / name).is_file() for name in _VOCABULARIES):
        raise ConfigError(f"diffusion.folder: {path / 'tokenizer'} has no {' or '.join(_VOCABULARIES)}; {_AGAIN}")
    word = variant(path)
    for name in NETWORKS:
        _json(path / name / "config.json")
        _check_network(path / name, word)
    check_agreement(path)


_AGAIN = "give a whole StableDiffusionPipeline folder (download it again), or 'tiny'"


def _is_there(index: dict[str, Any], path: Path, name: str) -> bool:
    named = index.get(name)
    return isinstance(named, list) and all(isinstance(n, str) for n in named) and (path / name).is_dir()


def _check_network(folder: Path, word: str | None) -> None:
    files = weights_read(folder, word)
    for index in folder.glob("*.index.json"):
        named = _json(index).get("weight_map")
        missing = set(named.values() if isinstance(named, dict) else ()) - {p.name for p in folder.iterdir()}
        if missing:
            raise ConfigError(f"diffusion.folder: {folder} has no {listed(missing, 3)}; {_AGAIN}")
    if not files:
        raise ConfigError(f"diffusion.folder: {folder} has no weights (.safetensors); {_AGAIN}")
    for file in files:
        check_file(file, "diffusion.folder")


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"diffusion.folder: {path} is not there; {_AGAIN}") from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"diffusion.folder: {path} cannot be read as JSON ({error}); {_AGAIN}") from error
    if not isinstance(found, dict):
        raise ConfigError(f"diffusion.folder: {path} holds no mapping; {_AGAIN}")
    return found


def _check_side(cell: Cell, model: DiffusionModel) -> None:
    """Refuse a side that the VAE cannot halve as often as it does."""
    px = getattr(cell.dataset, "image_px", None)
    channels = _json(model.path / "vae" / "config.json").get("block_out_channels")
    if not isinstance(px, int) or not isinstance(channels, list) or not channels:
        return
    factor = 2 ** (len(channels) - 1)
    if px % factor:
        below, above = px // factor * factor, (px // factor + 1) * factor
        raise ConfigError(
            f"data set '{cell.dataset.label}': image_px: want a multiple of {factor}, which row '{cell.label}' needs "
            f"for the VAE in diffusion.folder '{model.folder}', got {px}; choose {below} or {above}"
        )
