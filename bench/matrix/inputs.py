"""What a matrix needs from disk: data and weights, each with what is wrong with it and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from rich.filesize import decimal

from bench.augment.latents import Latents
from bench.augment.unusable import UnusableDataset, UnusableDiagnostics, UnusableMethod
from bench.checks import Check, guarded
from bench.data.dataset import Dataset
from bench.diffusion.folder import NETWORKS, check_pipeline, scheduler_config, vae_halvings, weights_read
from bench.diffusion.model import DiffusionModel
from bench.diffusion.schedule import check_length
from bench.errors import BenchError, ConfigError, in_words
from bench.evaluation.extractors import ClassifierExtractor, InceptionExtractor, OracleExtractor, XrvExtractor
from bench.evaluation.shipped_oracle import ORACLE_WEIGHTS
from bench.files import read_json
from bench.matrix.cell import Cell
from bench.matrix.load import load_matrix
from bench.matrix.matrix import Matrix
from bench.pipeline.missing_inputs import Absent, may_be_missing, noting_missing, plan_without_inputs
from bench.pipeline.settings import Settings, place_of
from bench.pipeline.stage import Stage, walk
from bench.weight_files import check_file


@dataclass(frozen=True)
class Planned:
    """A matrix that was planned although inputs may be missing.

    Attributes:
        matrix: all of its cells. A key that depends on a missing input begins with `?`.
        inputs: one check of each input.
    """

    matrix: Matrix
    inputs: tuple[Check, ...]

    @property
    def missing(self) -> tuple[Check, ...]:
        """The checks that failed."""
        return tuple(check for check in self.inputs if not check.ok)


def plan(name: str, overrides: Iterable[str] = ()) -> Planned:
    """Return a matrix with all of its keys, even if data or weights are missing.

    Raises:
        ConfigError: if the file or the overrides themselves are wrong.
    """
    # A dry run and `bench doctor` must list everything that is missing at once, so planning may not stop at the first
    # missing file. A missing digest is replaced by a mark that no real key contains: nothing can be computed, or found,
    # under a key that was made without its input.
    with plan_without_inputs() as absent:
        matrix = load_matrix(name, overrides)
        targets: list[Stage] = [s for c in matrix.cells for s in c.targets]
        walk(targets)
        return Planned(matrix, tuple(_examine(matrix, absent)))


def _examine(matrix: Matrix, absent: list[Absent]) -> Iterator[Check]:
    """Yield one check of each input, then the errors of planning that no check has reported."""
    told: set[str] = set()
    for dataset in _datasets(matrix):
        for check in _of_dataset(dataset):
            yield check
            told |= set() if check.ok else {place_of(dataset)}
    yield from _of_methods(matrix)
    for look in looks(matrix):
        place = place_of(look.model)
        if look.is_compatibility and place in told:
            continue
        try:
            said = look.inspect()
        except (BenchError, OSError) as error:
            told |= set() if look.is_compatibility else {place}
            yield Check(look.what, False, _said(error).removeprefix(f"{look.what}: "))
        else:
            if said:
                yield Check(look.what, True, said, warns=look.warns)
    yield from _unseen(absent, told)


def _of_methods(matrix: Matrix) -> Iterator[Check]:
    for cell in {c.label: c for c in matrix.cells}.values():
        if isinstance(method := cell.augmented.method, UnusableMethod):
            yield Check(f"method {method.name}", False, method.reason.line)
        if isinstance(cell.diagnostics, UnusableDiagnostics):
            yield Check(f"diagnostics of {cell.label}", False, cell.diagnostics.reason.line)


def _datasets(matrix: Matrix) -> list[Dataset]:
    """Return the data sets of the cells and those that a method reads besides, each once."""
    below = (s for s in walk([c.augmented for c in matrix.cells]) if isinstance(s, Dataset))
    return list({place_of(d): d for d in [*(c.dataset for c in matrix.cells), *below]}.values())


def _of_dataset(dataset: Dataset) -> Iterator[Check]:
    if isinstance(dataset, UnusableDataset):
        yield Check(dataset.label, False, dataset.reason.line)
    for check in guarded("files", dataset.sources()):
        said = check.said.removeprefix(f"{dataset.kind}: ")
        yield replace(check, what=f"{dataset.label}, {check.what}", said=said)


def _unseen(absent: list[Absent], told: set[str]) -> Iterator[Check]:
    """Yield the errors of planning that no check has reported, each once."""
    seen: set[str] = set()
    for missing in absent:
        model, said = missing.model, _said(missing.error)
        coming = isinstance(model, InceptionExtractor) and model.to_be_fetched()
        if place_of(model) not in told and said not in seen and not coming:
            seen.add(said)
            what = model.label if isinstance(model, Dataset) else said.partition(": ")[0]
            yield Check(what, False, said.removeprefix(f"{what}: "))


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, BenchError) else in_words(error)


@dataclass(frozen=True)
class InputCheck:
    """One check that is still to be made.

    Attributes:
        what: its name, usually the setting that names the file.
        model: the settings that this setting belongs to.
        inspect: returns in words what it finds; raises ConfigError if that is wrong.
        is_compatibility: True for a compatibility check rather than a file.
        is_costly: True if it loads libraries or whole files, or warns. Then it is made only where something will be
            computed.
        warns: True if what it finds should be read although nothing is wrong.
    """

    what: str
    model: Settings
    inspect: Callable[[], str]
    is_compatibility: bool = False
    is_costly: bool = False
    warns: bool = False


def check_weights(matrix: Matrix, where: str) -> None:
    """Refuse weights that are missing or truncated, and models that do not fit the data set or the method.

    Raises:
        ConfigError: naming the field, the file, what is wrong with it and what to do.
    """
    _made([look for look in looks(matrix) if not look.is_costly], where)


def check_before_computing(matrix: Matrix, where: str) -> list[str]:
    """Make the costly checks of a matrix, and return what should be known before it is computed, in sentences.

    Raises:
        ConfigError: see `check_weights`.
    """
    return _made([look for look in looks(matrix) if look.is_costly], where)


def _made(checks: Iterable[InputCheck], where: str) -> list[str]:
    try:
        return list(dict.fromkeys(f"{look.what}: {said}" for look in checks if (said := look.inspect())))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def looks(matrix: Matrix) -> Iterator[InputCheck]:
    """Yield the checks of all weights of a matrix, each file once."""
    first: dict[tuple[str, str], Cell] = {}
    for cell in matrix.cells:
        first.setdefault((cell.dataset.label, cell.label), cell)
    seen: set[tuple[str, str, str]] = set()
    for cell in first.values():
        for look in _looks_of(cell):
            which = (look.what, place_of(look.model), cell.dataset.label if look.is_compatibility else "")
            if which not in seen:
                seen.add(which)
                yield look


def _looks_of(cell: Cell) -> Iterator[InputCheck]:
    settings, extractor = cell.classifier.settings, cell.fidelity.settings.extractor
    if settings.image_px is None:
        yield InputCheck("classifier.image_px", settings, partial(_check_smallest, cell), is_compatibility=True)
    if settings.weights is not None:
        path, field = Path(settings.weights).expanduser(), "classifier.weights"
        yield InputCheck(field, settings, partial(_see_file, path, field))
        tensors = partial(_see_trunk, settings.architecture, path)
        yield InputCheck(
            f"{field} in {settings.architecture}", settings, tensors, is_compatibility=True, is_costly=True
        )
    if not isinstance(extractor, ClassifierExtractor):
        field = "fidelity.extractor.folder" if isinstance(extractor, OracleExtractor) else "fidelity.extractor.weights"
        yield InputCheck(field, extractor, partial(_see_extractor, extractor, field))
    if cell.method.makes_images and isinstance(extractor, OracleExtractor):
        yield InputCheck("fidelity.extractor", extractor, partial(_check_oracle, cell), is_compatibility=True)
    needing = [s for s in walk([cell.augmented]) if isinstance(s, Latents)]
    model = cell.augmented.diffusion or (needing[0].diffusion if needing else None)
    if model is not None:
        yield InputCheck("diffusion.folder", model, partial(_see_pipeline, model))
        yield InputCheck("diffusion", model, partial(_check_is_named, cell, model), is_compatibility=True)
        yield InputCheck("diffusion and image_px", model, partial(_check_side, cell, model), is_compatibility=True)
        yield InputCheck(f"row {cell.label}", model, partial(_check_method, cell, model), is_compatibility=True)
        yield InputCheck("diffusion.prompt", model, partial(_check_prompt, cell, model), is_compatibility=True)
    drawing = cell.augmented.diffusion
    if drawing is not None and not (cell.dataset.known_to_shipped_models and not drawing.is_named):
        told, what = partial(_notes_on_prompts, cell, drawing), f"prompts for {cell.dataset.label}"
        yield InputCheck(what, drawing, told, is_compatibility=True, is_costly=True, warns=True)
        told = partial(_notes_on_what_it_saw, cell, drawing)
        what = "diffusion.folder and split"
        yield InputCheck(what, drawing, told, is_compatibility=True, is_costly=True, warns=True)


def _check_smallest(cell: Cell) -> str:
    """Refuse images that are too small for the classifier's network."""
    if isinstance(px := getattr(cell.dataset, "image_px", None), int):
        cell.classifier.settings.check_side(px, f"images of data set '{cell.dataset.label}'")
    return ""


def _check_oracle(cell: Cell) -> str:
    """Refuse the phantom's oracle for other images: its features and its findings are those of phantoms."""
    if cell.dataset.known_to_shipped_models or isinstance(cell.dataset, UnusableDataset):
        return ""
    raise ConfigError(
        f"fidelity.extractor: the oracle, which is the default, knows phantoms alone, and data set "
        f"'{cell.dataset.label}' has other images; write `fidelity: {{extractor: {{kind: classifier}}}}` (features of "
        "the trained baseline), or kind inception (the usual FID) or xrv with `weights: FILE`"
    )


def _check_is_named(cell: Cell, model: DiffusionModel) -> str:
    """Refuse the shipped diffusion model for other images than phantoms, unless the settings name it."""
    if cell.dataset.known_to_shipped_models or model.is_named or isinstance(cell.dataset, UnusableDataset):
        return ""
    raise ConfigError(
        f"diffusion: row '{cell.label}' needs a diffusion model, the default one has seen phantoms alone, and data set "
        f"'{cell.dataset.label}' has other images; train one with `bench pretrain diffusion MATRIX --out FOLDER`, or "
        "take your own, and write `diffusion: {folder: FOLDER}` (folder: tiny takes the default one all the same)"
    )


def _notes_on_prompts(cell: Cell, model: DiffusionModel) -> str:
    from bench.diffusion.words import notes_on_prompts

    classes = known = None
    with noting_missing(cell.dataset):
        classes, known = cell.dataset.known_classes(), cell.dataset.known_labels()
    if classes is None or not set(model.prompt.words) <= set(classes):  # `_check_prompt` says so
        return ""
    return "; ".join(notes_on_prompts(model, classes, None if known is None else known.labels))


def _notes_on_what_it_saw(cell: Cell, model: DiffusionModel) -> str:
    """Tell if `bench pretrain` trained the model on the train split of another division of this data set."""
    seen = (read_json(model.path / "record.json") or {}).get("trained_on")
    if not isinstance(seen, dict) or seen.get("dataset") != cell.dataset.label:
        return ""
    then, now = seen.get("split") or {}, cell.split.settings.division()
    other = [f"split.{name} {then.get(name)}, here {now[name]}" for name in now if then.get(name) != now[name]]
    if not other:
        return ""
    return (
        f"the model was trained on another train split of data set '{cell.dataset.label}' ({'; '.join(other)}); unless "
        "the split is official, it has seen images that are val or test here; train one on this split (bench pretrain)"
    )


def _see_trunk(architecture: str, path: Path) -> str:
    from bench.classifier.networks import check_trunk

    return f"{path}: {check_trunk(architecture, path, 'classifier.weights')}"


def _see_file(path: Path, field: str) -> str:
    check_file(path, field)
    return f"{path}, {decimal(path.stat().st_size)}"


def _see_extractor(extractor: InceptionExtractor | OracleExtractor | XrvExtractor, field: str) -> str:
    if isinstance(extractor, InceptionExtractor):
        if extractor.weights is not None:
            check_file(Path(extractor.weights).expanduser(), field)
        elif may_be_missing() and (coming := extractor.to_be_fetched()):
            return f"{coming} is not there; a run downloads it"
    elif (path := _file_of(extractor)) is not None and path.is_file():  # else the extractor says what to do
        check_file(path, field)
    extractor.content()  # its error names the place of weights that no setting names
    return extractor.metric_id


def _file_of(extractor: OracleExtractor | XrvExtractor) -> Path | None:
    if isinstance(extractor, XrvExtractor):
        return Path(extractor.weights).expanduser()

    return Path(extractor.folder).expanduser() / ORACLE_WEIGHTS if extractor.folder is not None else None


def _see_pipeline(model: DiffusionModel) -> str:
    path = model.path
    check_pipeline(path)
    size = sum(p.stat().st_size for name in NETWORKS for p in weights_read(path / name))
    return f"{path}, {decimal(size)}, {model.precision}, digest {model.content()['digest'][:8]}"


def _check_prompt(cell: Cell, model: DiffusionModel) -> str:
    classes = None
    with noting_missing(cell.dataset):
        classes = cell.dataset.known_classes()
    if classes is not None:
        model.prompt.check(classes)
    return ""


def _check_side(cell: Cell, model: DiffusionModel) -> str:
    """Refuse an image side that the VAE cannot halve as often as it must."""
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
    """Refuse settings of the method that do not fit the model's scheduler or the size of the latents."""
    if cell.method.uses_diffusion and (length := cell.method.schedule_length) is not None:
        try:
            check_length(scheduler_config(model.path), length)
        except ConfigError as error:
            raise ConfigError(f"row {cell.label}: {error}") from error
    px, halvings = getattr(cell.dataset, "image_px", None), vae_halvings(model.path)
    if isinstance(px, int) and halvings is not None:
        try:
            cell.method.check(px // 2**halvings)
        except ConfigError as error:
            raise ConfigError(f"row '{cell.label}' on data set '{cell.dataset.label}': {error}") from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # the plugin's own code; it must not stop the other rows
            if may_be_missing():
                raise ConfigError(f"row '{cell.label}': its own check failed: {in_words(error)}") from error
    return ""
