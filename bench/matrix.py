"""Matrices: a checked YAML file that stands for cells (data set × method × seed), each a tree of stages."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field

from bench import registry, seeds
from bench.augment import Augmented
from bench.classifier import Classifier, ClassifierSettings
from bench.contract import Method, Plan, Task
from bench.datasets.base import Dataset
from bench.diffusion import DiffusionModel
from bench.errors import ConfigError, listed, nearest
from bench.fidelity import Fidelity, FidelitySettings
from bench.labelled import Labelled
from bench.latents import Latents
from bench.rows import Row, RowSettings, build_rows
from bench.scores import Scores, ScoresSettings
from bench.split import Split, SplitSettings, Train
from bench.stage import Settings, Stage, canonical_json
from bench.study import Study

SHIPPED = Path(__file__).parent / "matrices"
_LARGEST_FILE = 1 << 20


class MatrixSettings(Settings):
    """The matrix file as written. Every choice that a number depends on is here or in a default beside its reason."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", description="names the group in the tracker and the report")
    description: str = ""
    datasets: list[dict[str, Any] | str] = Field(min_length=1)
    split: SplitSettings = SplitSettings()
    diffusion: DiffusionModel = DiffusionModel()
    augment: Plan = Plan()
    methods: list[RowSettings] = Field(min_length=1, description="the table's rows, see `bench.rows`")
    settings: dict[str, dict[str, Any]] = Field({}, description="method name → settings, for all its rows")
    classifier: ClassifierSettings
    scores: ScoresSettings = ScoresSettings()
    fidelity: FidelitySettings = FidelitySettings()
    seeds: list[int] = Field([0], min_length=1)
    study: Study | None = Field(None, description="what the study figure of the report shows, see `bench.study`")


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
        fault = f"'{name}' is in {len(hits)} cells: {listed(c.name for c in hits)}" if hits else f"no cell '{name}'"
        raise ConfigError(
            f"matrix {self.name}: {fault}{nearest(name, names) if not hits else ''} (cells: {listed(names)})"
        )


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
        raw["settings"] = {k: v for k, v in settings.items() if k in used or k not in registry.methods()}


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
    hint = nearest(name, shipped)
    raise ConfigError(
        f"matrix '{name}': no such file and no shipped matrix of that name{hint} (have: {listed(shipped)})"
    )


class _Loader(yaml.SafeLoader):
    """Safe YAML that refuses a key given twice (plain YAML silently keeps the last)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue  # `<<: *other` is no key of its own; a key beside it wins
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, str) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key if isinstance(key, str) else id(key_node))
        return super().construct_mapping(node, deep)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML mapping.

    Raises:
        ConfigError: with file and line for anything that is not one.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise ConfigError(f"{path.name}: {path.stat().st_size >> 20} MiB; a matrix file is at most 1 MiB")
        raw = yaml.load(path.read_text(encoding="utf-8"), _Loader)  # noqa: S506 - a SafeLoader
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).partition("\n")[0]
        raise ConfigError(f"{path.name}{line}: not YAML: {problem}") from error
    except RecursionError as error:
        raise ConfigError(f"{path.name}: nested too deeply") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name}: not UTF-8 text (byte {error.start})") from error
    except OSError as error:
        raise ConfigError(f"{path.name}: cannot be read: {error.strerror}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path.name}: want a mapping of settings, got {type(raw).__name__}")
    return raw


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Set one dotted key, `classifier.steps=10` or `datasets.0.n_images=50`, the value read as YAML.

    Raises:
        ConfigError: if it is not `key=value` or a step of the path does not exist as a mapping or list.
    """
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override}: want key=value, e.g. --set classifier.steps=10")
    try:
        value = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"--set {override}: the value is not YAML") from error
    *path, last = dotted.split(".")
    at: Any = raw
    for part in path:
        at = _step(at, part, override)
    _step(at, last, override)
    at[int(last) if isinstance(at, list) else last] = value


def _step(at: Any, part: str, override: str) -> Any:
    if isinstance(at, dict):
        inner = at.setdefault(part, {})
    elif isinstance(at, list) and part.isdecimal() and int(part) < len(at):
        inner = at[int(part)]
    else:
        held = f"a list of {len(at)}" if isinstance(at, list) else f"{at!r}, not a mapping"
        raise ConfigError(f"--set {override}: nothing to set at '{part}': there is {held}")
    return inner


def build_matrix(raw: dict[str, Any], where: str) -> Matrix:
    """Return the matrix that checked settings stand for.

    Raises:
        ConfigError: for anything unknown, duplicated or out of range.
    """
    settings = registry.build(MatrixSettings, raw, where)
    for name in settings.settings:
        registry.method_class(name, f"{where}.settings")
    used = {row.method.partition("@")[0] for row in settings.methods}
    if unused := sorted(set(settings.settings) - used):
        raise ConfigError(f"{where}.settings.{unused[0]}: no row of `methods` uses it (rows: {listed(used)})")
    datasets = [registry.parse_dataset(d, f"{where}.datasets.{i}") for i, d in enumerate(settings.datasets)]
    for dataset in datasets:
        if (classes := dataset.known_classes()) is not None:
            settings.augment.check(classes)
    _check_labels(datasets, where)
    rows = build_rows(settings.methods, settings.settings, settings.classifier, where)
    control = next((row for row in rows if not row.method.makes_images), None)
    if control is None and (needing := next((r.label for r in rows if r.method.labels == "teacher"), None)):
        raise ConfigError(
            f"{where}: row '{needing}' has labels by 'teacher', the classifier of the row that adds no images; "
            "give `methods` such a row"
        )
    cells = tuple(
        build_cell(settings, dataset, row, seed, control)
        for dataset in datasets
        for row in rows
        for seed in settings.seeds
    )
    names = [c.name for c in cells]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"{where}: the cell {name} is there twice; give each data set, method and seed once")
    if settings.study is not None:
        settings.study.check(cells, where)
    return Matrix(settings, cells)


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

    The classifier of `control` (a row that adds nothing), trained as that row says, is the one whose features an
    extractor of kind `classifier` uses, and the teacher.
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
        fidelity = fidelity.with_classifier(teacher)
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
        diagnostics=row.method.diagnostics(task),
    )


def _labelled(method: Method, augmented: Augmented, teacher: Classifier | None) -> Labelled | None:
    """Return the stage that relabels the method's images, None where its own labels stand."""
    if method.labels == "own" or not method.makes_images:
        return None
    taught_by = teacher if method.labels == "teacher" else None
    return Labelled(augmented=augmented, policy=method.labels, teacher=taught_by)
