"""Matrices: a checked YAML file that stands for cells (data set × method × seed), each a tree of stages."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from bench import seeds
from bench.augment.augmented import Augmented, diagnostics_of
from bench.augment.latents import Latents
from bench.classifier.classifier import Classifier, ClassifierSettings
from bench.classifier.relabelled import Labelled
from bench.config.yaml_file import apply_override, read_yaml
from bench.contract import Method, Plan, Task
from bench.data.dataset import Dataset
from bench.data.split import Split, SplitSettings, Train, deal
from bench.diffusion.pipeline import DiffusionModel
from bench.errors import ConfigError, listed, nearest
from bench.evaluation.extractors import ClassifierExtractor
from bench.evaluation.fidelity import Fidelity, FidelitySettings
from bench.evaluation.scores import Scores, ScoresSettings
from bench.matrix.rows import Row, RowSettings, build_rows
from bench.matrix.study import Study
from bench.pipeline.missing_inputs import noting
from bench.pipeline.stage import Settings, Stage, canonical_json, walk
from bench.plugins import registry

SHIPPED = Path(__file__).parent / "shipped"
_LONGEST_NAME = 240  # bytes of a cell's name: of the 255 that a folder's may have, some are for what stands beside it
_MOST_IMAGES = 1_000_000  # of one class: a slip of the finger must not ask for all memory


class MatrixSettings(Settings):
    """The matrix file as written. Every choice that a number depends on is here or in a default beside its reason."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100, description="names the group in the tracker and the report"
    )
    description: str = ""
    datasets: list[Any] = Field(min_length=1, description="kinds, or mappings with `kind`")
    split: SplitSettings = SplitSettings()
    diffusion: DiffusionModel = DiffusionModel()
    augment: Plan = Plan()
    methods: list[RowSettings] = Field(min_length=1, description="the table's rows, see `bench.matrix.rows`")
    settings: dict[str, dict[str, Any]] = Field({}, description="method name → settings, for all its rows")
    classifier: ClassifierSettings
    scores: ScoresSettings = ScoresSettings()
    fidelity: FidelitySettings = FidelitySettings()
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    study: Study | None = Field(None, description="what the study figure of the report shows, see `bench.matrix.study`")


@dataclass(frozen=True)
class Cell:
    """One data set × row (a method with its settings) × seed, and the stages that measure it.

    `against` is the label of the row that this one's effect is measured from, where the matrix names one.
    """

    matrix: str
    dataset: Dataset
    row: Row
    seed: int
    split: Split
    augmented: Augmented
    classifier: Classifier
    scores: Scores
    fidelity: Fidelity
    diagnostics: Stage | None = None

    @property
    def method(self) -> Method:
        """The row's method."""
        return self.row.method

    @property
    def label(self) -> str:
        """The row's label: what tables call the cell's method."""
        return self.row.label

    @property
    def against(self) -> str | None:
        """Label of the row to compare with, or None."""
        return self.row.against

    @property
    def name(self) -> str:
        """`<data set>/<row>/s<seed>`: unique in its matrix."""
        return f"{self.dataset.label}/{self.label}/s{self.seed}"

    @functools.cached_property
    def sharing(self) -> str:
        """`open` if anybody may see its images: every data set and diffusion model that had a part in them says so."""
        models = [m for stage in walk([self.augmented]) for m in _models_in(stage)]
        said = {self.dataset.sharing, *(m.sharing for m in models if isinstance(m, (Dataset, DiffusionModel)))}
        return "open" if said == {"open"} else "credentialed"

    @property
    def targets(self) -> list[Stage]:
        """The stages that finish the cell."""
        return [self.scores, self.fidelity, *([self.diagnostics] if self.diagnostics else [])]

    @functools.cached_property
    def key(self) -> str:
        """Stands for the cell's numbers: equal keys, equal results."""
        return hashlib.sha256(canonical_json([s.key for s in self.targets]).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Matrix:
    """A matrix ready to run."""

    settings: MatrixSettings
    cells: tuple[Cell, ...]

    @property
    def name(self) -> str:
        """The matrix's name."""
        return self.settings.name

    def cell(self, name: str) -> Cell:
        """Return the cell by its full name, or by any part of it that is unique.

        Raises:
            ConfigError: if no cell, or more than one, has it.
        """
        names = [c.name for c in self.cells]
        hits = [c for c in self.cells if c.name == name] or [c for c in self.cells if name in c.name]
        if len(hits) == 1:
            return hits[0]
        if hits:
            said = f"'{name}' is in {len(hits)} cells: {listed(c.name for c in hits)}; give more of the name"
        else:
            said = f"no cell '{name}'{nearest(name, [*names, *(c.label for c in self.cells)])} (cells: {listed(names)})"
        raise ConfigError(f"matrix {self.name}: {said}")


def _models_in(value: Any) -> Iterator[BaseModel]:
    """Yield a model and the settings inside of it; the stages below a stage are not gone into."""
    inner: Iterable[Any] = ()
    if isinstance(value, BaseModel):
        yield value
        inner = [getattr(value, name) for name in type(value).model_fields]
    elif isinstance(value, (dict, list, tuple)):
        inner = value.values() if isinstance(value, dict) else value
    for found in inner:
        if not isinstance(found, Stage):
            yield from _models_in(found)


def load_matrix(name: str, overrides: Iterable[str] = ()) -> Matrix:
    """Return the matrix in a file, or the shipped one of that name, with `key=value` overrides applied.

    Raises:
        ConfigError: one line that names the file and field, what was got, what is allowed.
    """
    path = find(name)
    raw = read_yaml(path)
    for override in overrides:
        apply_override(raw, override)
        if override.startswith("methods="):
            _keep_used_settings(raw)
    return build_matrix(raw, path.name)


def _keep_used_settings(raw: dict[str, Any]) -> None:
    """Drop the file's settings of rows that were chosen away with `--set methods=[...]`: nobody meant to refuse that.

    Names that are no method at all stay, to be refused as typing errors.
    """
    raw.pop("study", None)  # its axis or its levels may be among the rows that went
    chosen, settings = raw.get("methods"), raw.get("settings")
    if isinstance(chosen, list) and isinstance(settings, dict):
        used = {method_name(row) for row in chosen}
        raw["settings"] = {k: v for k, v in settings.items() if k in used or k not in registry.known_methods()}


def method_name(row: Any) -> str:
    """Return the method that a row of a raw file names."""
    return str(row.get("method") if isinstance(row, dict) else row).partition("@")[0]


def find(name: str) -> Path:
    """Return the path of a matrix file, or of the shipped matrix called `name`."""
    shipped = {p.stem: p for p in sorted(SHIPPED.glob("*.yaml"))}
    if name in shipped:
        return shipped[name]
    path = Path(name)
    if path.is_file():
        return path
    if path.exists() or path.is_symlink():
        what = "is a folder" if path.is_dir() else "is a link to nothing" if path.is_symlink() else "is no plain file"
        raise ConfigError(f"matrix '{name}': {what}; give a YAML file or one of {listed(shipped)}")
    hint = nearest(name, shipped)
    raise ConfigError(
        f"matrix '{name}': no such file and no shipped matrix of that name{hint} (have: {listed(shipped)})"
    )


def build_matrix(raw: dict[str, Any], where: str) -> Matrix:
    """Return the matrix that checked settings stand for.

    Raises:
        ConfigError: for anything unknown, duplicated or out of range.
    """
    settings = _with_one_extractor(registry.build(MatrixSettings, raw, where))
    for name in settings.settings:
        registry.require_method(name, f"{where}.settings")
    used = {row.method.partition("@")[0] for row in settings.methods}
    if unused := sorted(set(settings.settings) - used):
        raise ConfigError(f"{where}.settings.{unused[0]}: no row of `methods` uses it (rows: {listed(used)})")
    datasets = [registry.parse_dataset(d, f"{where}.datasets.{i}") for i, d in enumerate(settings.datasets)]
    _check_plan(settings.augment, datasets, where)
    for dataset in datasets:
        known = None
        with noting(dataset):
            known = dataset.known_labels()
        if known is not None:
            with noting(settings.split):
                deal(known, settings.split)  # raises where the data set cannot be split so
    _check_labels(datasets, where)
    rows = build_rows(settings.methods, settings.settings, settings.classifier, where)
    control = next((row for row in rows if not row.method.makes_images), None)
    if control is None:
        _check_nothing_needs_a_control(rows, settings.fidelity, where)
    try:
        cells = tuple(
            build_cell(settings, dataset, row, seed, control)
            for dataset in datasets
            for row in rows
            for seed in settings.seeds
        )
    except ConfigError as error:  # a model that is not where `diffusion` says
        raise ConfigError(f"{where}: {error}") from error
    _check_names([c.name for c in cells], where)
    if settings.study is not None:
        settings.study.check(cells, where)
    return Matrix(settings, cells)


def _with_one_extractor(settings: MatrixSettings) -> MatrixSettings:
    """Write down which seed's baseline measures distances: a cell's record builds it without the other seeds."""
    extractor = settings.fidelity.extractor
    if not isinstance(extractor, ClassifierExtractor) or extractor.seed is not None:
        return settings
    chosen = extractor.model_copy(update={"seed": settings.seeds[0]})
    return settings.model_copy(update={"fidelity": settings.fidelity.model_copy(update={"extractor": chosen})})


def _check_plan(plan: Plan, datasets: Sequence[Dataset], where: str) -> None:
    """Refuse classes that are known not to be there, and more images than anybody means."""
    for name, n in {"per_class": plan.per_class, **{f"counts.{k}": n for k, n in plan.counts.items()}}.items():
        if n > _MOST_IMAGES:
            raise ConfigError(f"{where}.augment.{name}: want {_MOST_IMAGES} images or fewer, got {n}")
    for dataset in datasets:
        classes = None
        with noting(dataset):
            classes = dataset.known_classes()
        if classes is not None:
            try:
                plan.check(classes)
            except ConfigError as error:
                raise ConfigError(f"{where}.{error}") from error


def _check_nothing_needs_a_control(rows: Sequence[Row], fidelity: FidelitySettings, where: str) -> None:
    """Refuse what the classifier of a row that adds no images is needed for, in a matrix without such a row."""
    if needing := next((r.label for r in rows if r.method.labels == "teacher"), None):
        what = f"row '{needing}' has labels by 'teacher'"
    elif isinstance(fidelity.extractor, ClassifierExtractor):
        what = "fidelity.extractor is of kind 'classifier'"
    else:
        return
    raise ConfigError(f"{where}: {what}, the classifier of the row that adds no images; give `methods` such a row")


def _check_names(names: Sequence[str], where: str) -> None:
    """Refuse cells that could not be told apart, or whose record no file system would take."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ConfigError(f"{where}: the cell {name} is there twice; give each data set, method and seed once")
        if len(name.encode()) > _LONGEST_NAME:
            raise ConfigError(
                f"{where}: the cell {name[:60]}… has a name of {len(name.encode())} bytes, at most {_LONGEST_NAME} can "
                "be; give the data set a shorter `name`, or the row a shorter `row`"
            )
        seen.add(name)


def _check_labels(datasets: Sequence[Dataset], where: str) -> None:
    """Refuse two data sets that tables and records could not tell apart."""
    labels = [d.label for d in datasets]
    for i, dataset in enumerate(datasets):
        first = labels.index(dataset.label)
        if first < i:
            named = "name" in type(dataset).model_fields
            what = "give one another `name`" if named else "run them as two matrices, each with its `name`"
            raise ConfigError(f"{where}: datasets {first} and {i} are both called '{dataset.label}'; {what}")


def build_cell(settings: MatrixSettings, dataset: Dataset, row: Row, seed: int, control: Row | None = None) -> Cell:
    """Return a cell. No seed but the cell's own enters, and none contains the method's name: methods are paired.

    The classifier of `control` (a row that adds nothing), trained as that row says, is the teacher; trained with the
    extractor's own seed, it is the one whose features an extractor of kind `classifier` uses.
    """
    split = Split(dataset=dataset, settings=settings.split)
    train = Train(split=split)
    latents = Latents(train=train, diffusion=settings.diffusion)
    task = Task(
        train=train,
        latents=latents,
        diffusion=settings.diffusion,
        plan=settings.augment,
        seed=seeds.derive(seed, "method"),
    )
    trained = functools.partial(Classifier, split=split, train=train, seed=seeds.derive(seed, "classifier"))
    fidelity, teacher = settings.fidelity, None
    if control is not None:
        teacher = trained(augmented=Augmented.of(control.method, task), settings=control.classifier)
        extractor = fidelity.extractor
        if isinstance(extractor, ClassifierExtractor):
            whose = seed if extractor.seed is None else extractor.seed
            fidelity = fidelity.with_classifier(teacher.model_copy(update={"seed": seeds.derive(whose, "classifier")}))
    if row.method.makes_images:
        task = task.model_copy(update={"teacher": teacher})
    augmented = Augmented.of(row.method, task)
    classifier = trained(
        augmented=augmented, labelled=_labelled(row.method, augmented, teacher), settings=row.classifier
    )
    return Cell(
        matrix=settings.name,
        dataset=dataset,
        row=row,
        seed=seed,
        split=split,
        augmented=augmented,
        classifier=classifier,
        scores=Scores(split=split, classifier=classifier, settings=settings.scores),
        fidelity=Fidelity(split=split, train=train, augmented=augmented, settings=fidelity),
        diagnostics=diagnostics_of(row.method, task),
    )


def _labelled(method: Method, augmented: Augmented, teacher: Classifier | None) -> Labelled | None:
    """Return the stage that relabels the method's images, None where its own labels stand."""
    if method.labels == "own" or not method.makes_images:
        return None
    taught_by = teacher if method.labels == "teacher" else None
    return Labelled(augmented=augmented, policy=method.labels, teacher=taught_by)
