"""Files of weights, looked at before anything is computed: half a download must not cost an hour of training first.

Only headers and names are read, so that this is quick. What a file holds is judged where it is loaded.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.filesize import decimal

from bench.augment.latents import Latents
from bench.diffusion.folder import NETWORKS, check_agreement, variant, weights_read
from bench.errors import ConfigError, in_words, listed
from bench.evaluation.extractors import ClassifierExtractor, InceptionExtractor, OracleExtractor, XrvExtractor
from bench.pipeline.missing_inputs import are_allowed, noting, place_of
from bench.pipeline.stage import Settings, walk

if TYPE_CHECKING:
    from bench.diffusion.pipeline import DiffusionModel
    from bench.matrix.load import Cell, Matrix

_LARGEST_HEADER = 100 << 20
_VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt")


@dataclass(frozen=True)
class Look:
    """One thing to be looked at.

    Attributes:
        what: its name: the field that says where it is.
        model: the settings that hold the field.
        see: returns what is found, in words; raises ConfigError.
        fits: whether it is no thing of its own, but whether `model` goes with the rest of the matrix.
    """

    what: str
    model: Settings
    see: Callable[[], str]
    fits: bool = False


def check_weights(matrix: Matrix, where: str) -> None:
    """Refuse weights that are missing or cut off, and images that the diffusion model's VAE cannot take.

    Raises:
        ConfigError: naming the field, the file, what is wrong with it and what to do.
    """
    try:
        for look in looks(matrix):
            look.see()
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def looks(matrix: Matrix) -> Iterator[Look]:
    """Yield what is to be looked at for the weights of a matrix, each file once."""
    first: dict[tuple[str, str], Cell] = {}
    for cell in matrix.cells:
        first.setdefault((cell.dataset.label, cell.label), cell)
    seen: set[tuple[str, str, str]] = set()
    for cell in first.values():
        for look in _looks_of(cell):
            which = (look.what, place_of(look.model), cell.dataset.label if look.fits else "")
            if which not in seen:
                seen.add(which)
                yield look


def _looks_of(cell: Cell) -> Iterator[Look]:
    settings, extractor = cell.classifier.settings, cell.fidelity.settings.extractor
    if settings.weights is not None:
        path = Path(settings.weights).expanduser()
        yield Look("classifier.weights", settings, partial(_see_file, path, "classifier.weights"))
    if not isinstance(extractor, ClassifierExtractor):
        field = "fidelity.extractor.folder" if isinstance(extractor, OracleExtractor) else "fidelity.extractor.weights"
        yield Look(field, extractor, partial(_see_extractor, extractor, field))
    needing = [s for s in walk([cell.augmented]) if isinstance(s, Latents)]
    model = cell.augmented.diffusion or (needing[0].diffusion if needing else None)
    if model is not None:
        yield Look("diffusion.folder", model, partial(_see_pipeline, model))
        yield Look("diffusion and image_px", model, partial(_check_side, cell, model), fits=True)
        yield Look(f"row {cell.label}", model, partial(_check_method, cell, model), fits=True)
        yield Look("diffusion.prompt", model, partial(_check_prompt, cell, model), fits=True)


def _see_file(path: Path, field: str) -> str:
    check_file(path, field)
    return f"{path}, {decimal(path.stat().st_size)}"


def _see_extractor(extractor: InceptionExtractor | OracleExtractor | XrvExtractor, field: str) -> str:
    if isinstance(extractor, InceptionExtractor):
        if extractor.weights is not None:
            check_file(Path(extractor.weights).expanduser(), field)
        elif are_allowed() and (coming := extractor.to_be_fetched()):
            return f"{coming} is not there, a run fetches it"
    elif (path := _file_of(extractor)) is not None and path.is_file():  # else the extractor says what to do
        check_file(path, field)
    extractor.content()  # says where it looked for weights that no setting names
    return extractor.metric_id


def _file_of(extractor: OracleExtractor | XrvExtractor) -> Path | None:
    if isinstance(extractor, XrvExtractor):
        return Path(extractor.weights).expanduser()
    from bench.pretrain import ORACLE_WEIGHTS

    return Path(extractor.folder).expanduser() / ORACLE_WEIGHTS if extractor.folder is not None else None


def _see_pipeline(model: DiffusionModel) -> str:
    path, word = model.path, variant(model.path)
    check_pipeline(path)
    size = sum(p.stat().st_size for name in NETWORKS for p in weights_read(path / name, word))
    return f"{path}, {decimal(size)}, {model.precision}, digest {model.content()['digest'][:8]}"


def _check_prompt(cell: Cell, model: DiffusionModel) -> str:
    classes = None
    with noting(cell.dataset):
        classes = cell.dataset.known_classes()
    if classes is not None:
        model.prompt.check(classes)
    return ""


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


def check_pipeline(path: Path) -> None:
    """Refuse a diffusion folder in which a part is missing, cut off or of another model than the others.

    Raises:
        ConfigError: naming the part.
    """
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


def _check_side(cell: Cell, model: DiffusionModel) -> str:
    """Refuse a side that the VAE cannot halve as often as it does."""
    px, halvings = getattr(cell.dataset, "image_px", None), vae_halvings(model.path)
    if not isinstance(px, int) or halvings is None:
        return ""
    factor = 2**halvings
    if px % factor:
        below, above = px // factor * factor, (px // factor + 1) * factor
        raise ConfigError(
            f"data set '{cell.dataset.label}': image_px: want a multiple of {factor}, which row '{cell.label}' needs "
            f"for the VAE in diffusion.folder '{model.folder}', got {px}; choose {below} or {above}"
        )
    return ""


def _check_method(cell: Cell, model: DiffusionModel) -> str:
    """Refuse latents that the method's settings do not go with."""
    px, halvings = getattr(cell.dataset, "image_px", None), vae_halvings(model.path)
    if isinstance(px, int) and halvings is not None:
        try:
            cell.method.check(px // 2**halvings)
        except ConfigError as error:
            raise ConfigError(f"row '{cell.label}' on data set '{cell.dataset.label}': {error}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a plugin's own code; in a run it must not stop the other rows
            if are_allowed():
                raise ConfigError(f"row '{cell.label}': its check broke: {in_words(error)}") from error
    return ""


def vae_halvings(path: Path) -> int | None:
    """Return how often the VAE halves a side, None where its configuration does not say."""
    channels = _json(path / "vae" / "config.json").get("block_out_channels")
    return len(channels) - 1 if isinstance(channels, list) and channels else None
