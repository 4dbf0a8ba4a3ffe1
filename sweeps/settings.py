"""The sweep file: a checked YAML file that names a matrix, one row of it, what to vary and what to measure on val."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import numpy as np
import yaml
from pydantic import BaseModel, Field, field_validator, model_validator

from bench.config.yaml_file import apply_override, read_yaml
from bench.errors import ConfigError, listed, nearest
from bench.matrix.build import build_matrix
from bench.matrix.inputs import check_weights
from bench.matrix.load import anchor_file, find, method_name, override, read_matrix
from bench.matrix.matrix import Matrix
from bench.matrix.rows import build_rows
from bench.matrix.settings import MatrixSettings
from bench.pipeline.key import canonical_json
from bench.pipeline.settings import Settings
from bench.plugins import registry
from sweeps.dimensions import Dimension, Scalar

SHIPPED = Path(__file__).parent
# The metrics that a sweep may use, with the part of a cell that holds each: scores of the selected weights on val, and
# measures of synthetic images against val. Nothing of test is here, or the tuned numbers would be too good.
VAL_METRICS = {
    "val_map_tail": "classifier",
    "val_map_head": "classifier",
    "val_map_all": "classifier",
    "fid_tail": "fidelity",
    "kid_tail": "fidelity",
    "label_fidelity_tail": "fidelity",
}
# Those that are known before a classifier is trained, with what is better.
EARLY_METRICS = {"fid_tail": "minimize", "kid_tail": "minimize", "label_fidelity_tail": "maximize"}
# The score of a trial is the best of its looks at val, so more looks alone make it better.
_LOOKS_AT_VAL = ("classifier.n_validations", "classifier.selection")
_LARGEST_GRID = 10_000  # most values of one setting
_TEST_METRICS = {"map_tail": "val_map_tail", "map_head": "val_map_head", "map_all": "val_map_all"}


class Objective(Settings):
    """One metric to make large or small, as a mean over seeds and data sets."""

    metric: str
    direction: Literal["maximize", "minimize"]

    @model_validator(mode="after")
    def _on_val(self) -> Objective:
        if self.metric in _TEST_METRICS:
            instead = _TEST_METRICS[self.metric]
            raise ValueError(f"'{self.metric}' is read on test, a sweep selects on val: use '{instead}'")
        if self.metric not in VAL_METRICS:
            hint = nearest(self.metric, VAL_METRICS)
            raise ValueError(f"no metric '{self.metric}'{hint} (have: {listed(VAL_METRICS)})")
        if self.direction != (better := EARLY_METRICS.get(self.metric, "maximize")):
            side = "larger" if better == "maximize" else "smaller"
            raise ValueError(f"'{self.metric}' is better when {side}, got {self.direction}; want '{better}'")
        return self


class Gate(Settings):
    """Which trials are worth a classifier: those whose synthetic images are good enough, among all trials so far."""

    metric: str = Field(description="a metric of the synthetic images: " + ", ".join(EARLY_METRICS))
    keep: float = Field(0.75, gt=0, lt=1, description="share of the trials so far that would pass")
    after: int = Field(4, ge=2, description="trials that pass in any case, because there is too little to compare with")

    @field_validator("metric")
    @classmethod
    def _early(cls, metric: str) -> str:
        if metric not in EARLY_METRICS:
            hint = nearest(metric, EARLY_METRICS)
            raise ValueError(f"no metric '{metric}' before the classifier{hint} (have: {listed(EARLY_METRICS)})")
        return metric

    def passes(self, value: float, others: Sequence[float]) -> bool:
        """Tell whether a value is good enough beside those of other trials: not worse than the quantile of `keep`."""
        if len(others) < self.after:
            return True
        sign = 1.0 if EARLY_METRICS[self.metric] == "minimize" else -1.0
        return sign * value <= float(np.quantile(sign * np.asarray(others), self.keep))


class Confirmation(Settings):
    """How the best settings are trained again; see `sweeps.confirmation`."""

    best: int = Field(3, ge=1, description="how many of the best trials")
    n_seeds: int = Field(6, ge=2, le=1000, description="how many seeds that no trial has used")


class SamplerSettings(Settings):
    """Optuna's sampler. A sweep file must name it, since the default changes between versions of Optuna."""

    name: Literal[
        "TPESampler", "RandomSampler", "QMCSampler", "NSGAIISampler", "NSGAIIISampler", "GPSampler", "GridSampler"
    ]
    seed: int = Field(ge=0)
    options: dict[str, Any] = Field({}, description="keyword arguments of Optuna's class; none for GridSampler")

    @field_validator("options")
    @classmethod
    def _without_seed(cls, options: dict[str, Any]) -> dict[str, Any]:
        if "seed" in options:
            raise ValueError("'seed' stands beside the options, not among them; move it")
        return options


class SweepSettings(Settings):
    """A sweep file as written. Between two stages a trial may be given up (`gate`), and never within a stage."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100, description="names the study, its journal and its results"
    )
    description: str = ""
    base: str = Field(description="matrix file (relative to this file) or shipped matrix")
    set: dict[str, Any] = Field({}, description="dotted key → value, applied to the base, e.g. to make it smaller")
    method: str = Field(description="the row to tune: `name` or `name@value`")
    search: dict[str, Dimension] = Field(min_length=1, description="dotted key of the matrix → what to try")
    objectives: list[Objective] = Field(min_length=1)
    sampler: SamplerSettings
    n_trials: int = Field(ge=1, description="in total, over all runs of the sweep; failed ones count")
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    enqueue: list[dict[str, Scalar]] = Field([], description="settings to try first, by the keys of `search`")
    gate: Gate | None = Field(None, description="give a trial up before its classifier if its images are bad")
    controls: list[str] = Field([], description="rows beside the best settings in their confirmation, e.g. a baseline")
    confirm: Confirmation = Confirmation()

    @field_validator("objectives")
    @classmethod
    def _distinct(cls, objectives: list[Objective]) -> list[Objective]:
        names = [o.metric for o in objectives]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"got '{twice}' twice; name each once")
        return objectives

    @model_validator(mode="after")
    def _gate_has_work(self) -> SweepSettings:
        if self.gate and all(o.metric in EARLY_METRICS for o in self.objectives):
            raise ValueError("gate: no objective needs a classifier, so there is none to save; leave it out")
        return self


@dataclass(frozen=True)
class Sweep:
    """A checked sweep."""

    settings: SweepSettings
    base: dict[str, Any]  # the base matrix as written, with `set` and overrides applied
    source: str

    @property
    def name(self) -> str:
        """The study's name."""
        return self.settings.name

    @property
    def needs(self) -> set[str]:
        """The parts of a cell that the objectives read: `classifier`, `fidelity`."""
        return {VAL_METRICS[o.metric] for o in self.settings.objectives}

    def raw(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return the base matrix, as a raw mapping, with some dotted keys set."""
        raw = json.loads(json.dumps(self.base))
        for key, value in values.items():
            set_key(raw, key, value)
        return raw

    def matrix(self, values: dict[str, Any]) -> Matrix:
        """Return the cells that measure one trial. Their synthetic images are compared with val, never with test."""
        # The control rows of the base are built as well and dropped at the end: the classifier of a control may be the
        # teacher or the extractor.
        raw, row = self.raw(values), self.settings.method
        rows = [row, *(m for m in self.base_controls if m != row)]
        raw = with_rows(raw, rows) | {"seeds": self.settings.seeds}
        set_key(raw, "fidelity.reference", "val")
        built = build_matrix(raw, self.source)
        # Cells are ordered by data set, then row, then seed. The tuned row is the first.
        n_seeds = len(self.settings.seeds)
        return replace(built, cells=tuple(c for i, c in enumerate(built.cells) if i // n_seeds % len(rows) == 0))

    @functools.cached_property
    def base_controls(self) -> list[Any]:
        """The rows of the base that make no images, as in a matrix file. They are not compared with rows left out."""
        given = registry.build(MatrixSettings, self.base, self.source)
        rows = build_rows(given.methods, given.settings, given.classifier, self.source)
        gone = {row.label for row in rows if row.method.makes_images} - {self.settings.method}
        kept = [w for w, row in zip(given.methods, rows, strict=True) if not row.method.makes_images]
        left = [w.model_copy(update={"against": [label for label in w.against if label not in gone]}) for w in kept]
        return [w.model_dump(mode="json") for w in left]


def with_rows(raw: dict[str, Any], rows: list[Any]) -> dict[str, Any]:
    """Return a raw matrix with these rows alone: without a study, and without settings of methods that are gone."""
    names = {method_name(row) for row in rows}
    settings = {name: given for name, given in raw.get("settings", {}).items() if name in names}
    return raw | {"methods": rows, "settings": settings, "study": None}


def set_key(raw: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key of a matrix file to a Python value."""
    text = yaml.safe_dump([value], default_flow_style=True, width=1 << 20).strip()
    apply_override(raw, f"{key}={text[1:-1]}")


def load_sweep(name: str | Path, overrides: Iterable[str] = ()) -> Sweep:
    """Return the sweep in a file, or the shipped one of that name, with `key=value` overrides of its base matrix.

    Raises:
        ConfigError: one line that names the file and field, what was got, what is allowed.
    """
    path = find_sweep(str(name))
    settings = registry.build(SweepSettings, read_yaml(path), path.name)
    base = read_matrix(_base(path, settings.base))
    for key, value in settings.set.items():
        try:
            set_key(base, key, value)
        except ConfigError as error:
            raise ConfigError(f"{path.name}.set: {str(error).removeprefix('--set ')}") from error
    anchor_file(base, path, SHIPPED)
    for given in overrides:
        override(base, given)
    sweep = Sweep(settings, base, path.name)
    _check(sweep)
    check_weights(sweep.matrix({}), f"{path.name}.base")
    return sweep


def fingerprint(sweep: Sweep) -> str:
    """Return a digest of what must be equal for trials to be compared: search, objectives and the base's stage keys.

    The keys stand for the base's settings with their defaults, the data and the code. The number of trials,
    `enqueue` and what concerns the confirmation are left out, so they may change between runs.
    """
    free = {"n_trials", "enqueue", "description", "set", "base", "controls", "confirm"}
    described = sweep.settings.model_dump(mode="json", exclude=free, exclude_none=True)
    keys = [getattr(cell, part).key for cell in sweep.matrix({}).cells for part in sorted(sweep.needs)]
    return hashlib.sha256(canonical_json([described, keys]).encode()).hexdigest()[:32]


def is_sweep(name: str) -> bool:
    """Tell whether a name is that of a sweep file or of a shipped sweep, and not of a matrix."""
    if Path(name).is_file():
        return "search" in read_yaml(Path(name))
    try:
        find_sweep(name)
    except ConfigError:
        return False
    return True


def _base(sweep: Path, base: str) -> Path:
    beside = sweep.parent / base
    if beside.is_file():
        return beside
    try:
        return find(base)
    except ConfigError as error:
        raise ConfigError(f"{sweep.name}.base: {error}") from error


def find_sweep(name: str) -> Path:
    """Return the path of a sweep file, or of the shipped sweep called `name`."""
    shipped = {p.stem: p for p in sorted(SHIPPED.glob("*.yaml"))}
    path = Path(name)
    if path.is_file():
        return path
    if path.stem in shipped and path.parent in (Path("."), Path("sweeps")):
        return shipped[path.stem]
    hint = f"{nearest(name, shipped)} (have: {listed(shipped)})"
    raise ConfigError(f"sweep '{name}': no such file and no shipped sweep of that name{hint}")


def _check(sweep: Sweep) -> None:
    settings, where = sweep.settings, sweep.source
    build_matrix(sweep.base, f"{where}.base")
    allowed = search_paths(settings.method, where)
    sweep.matrix({})
    for key, dimension in settings.search.items():
        if key not in allowed:
            hint = f"{nearest(key, allowed)} (have: {listed(allowed)})"
            raise ConfigError(f"{where}.search: no setting '{key}' to vary{hint}")
        for value in dimension.ends():
            try:
                sweep.matrix({key: value})
            except ConfigError as error:
                raise ConfigError(f"{where}.search.{key}: {value!r} is refused: {error}") from error
    _check_measures(sweep)
    for i, values in enumerate(settings.enqueue):
        _check_enqueued(settings, values, f"{where}.enqueue.{i}")
    if settings.sampler.name == "GridSampler" and settings.sampler.options:
        raise ConfigError(f"{where}.sampler.options: GridSampler takes none, its grid is `search`")
    for key, dimension in settings.search.items():
        n_values = dimension.n_grid() if settings.sampler.name == "GridSampler" else 1
        if not n_values:
            raise ConfigError(f"{where}.search.{key}: GridSampler needs a step for a float range")
        if n_values > _LARGEST_GRID:
            raise ConfigError(
                f"{where}.search.{key}: want {_LARGEST_GRID} values or fewer for GridSampler, got {n_values}; "
                "give a larger step"
            )


def _check_measures(sweep: Sweep) -> None:
    """Refuse to vary what changes the measure of the images itself, so that it would be better for images no better."""
    settings = sweep.settings
    places = {o.metric: "objectives" for o in settings.objectives}
    if settings.gate:
        places.setdefault(settings.gate.metric, "gate")
    early = next((metric for metric in places if metric in EARLY_METRICS), None)
    extractor = sweep.matrix({}).settings.fidelity.extractor
    for key in settings.search:
        where = f"{sweep.source}.search.{key}"
        if key.startswith("augment.") and "fid_tail" in places:
            raise ConfigError(
                f"{where}: got fid_tail in `{places['fid_tail']}`, but FID falls with the number of images, whatever "
                "they show; use kid_tail or label_fidelity_tail instead, or leave this setting out"
            )
        if key.startswith("classifier.") and early and extractor.kind == "classifier":
            raise ConfigError(
                f"{where}: got {early} in `{places[early]}`, but fidelity.extractor is of kind 'classifier', so every "
                "trial would be measured by another network; choose another extractor, or leave this setting out"
            )


def _check_enqueued(settings: SweepSettings, values: dict[str, Scalar], where: str) -> None:
    for key, value in values.items():
        if key not in settings.search:
            hint = f"{nearest(key, settings.search)} (have: {listed(settings.search)})"
            raise ConfigError(f"{where}: '{key}' is not searched{hint}")
        if not settings.search[key].holds(value):
            raise ConfigError(f"{where}.{key}: {value!r} is outside of what `search` allows; widen the range")


def search_paths(method: str, where: str) -> list[str]:
    """Return the dotted keys that a sweep of `method` may vary: settings of the method, the classifier and the plan."""
    # Settings of data, split and fidelity are left out, and what says how the classifier is looked at on val. Trials
    # that differ in them are measured in different ways, and their numbers cannot be compared.
    name, value = registry.Shorthand.of(method)
    cls = registry.method_class(name, f"{where}.method")
    fields = MatrixSettings.model_fields
    found = [f"settings.{name}.{leaf}" for leaf in _leaves(cls) if not (value is not None and leaf == cls.at)]
    for part in ("classifier", "augment"):
        found += [f"{part}.{leaf}" for leaf in _leaves(fields[part].annotation)]
    return [key for key in found if key not in _LOOKS_AT_VAL]


def _leaves(model: Any) -> Iterator[str]:
    """Yield the dotted names of the scalar settings of a model class, including those of nested models."""
    for name, info in model.model_fields.items():
        inner = [t for t in _options(info.annotation) if isinstance(t, type) and issubclass(t, BaseModel)]
        if inner:
            yield from dict.fromkeys(f"{name}.{leaf}" for leaf in itertools.chain.from_iterable(map(_leaves, inner)))
        elif get_origin(info.annotation) not in (dict, list) and (info.json_schema_extra or {}).get("semantic", True):
            yield name


def _options(annotation: object) -> Iterator[type]:
    """Yield the classes that an annotation allows, also inside unions and `Annotated`."""
    inside = getattr(annotation, "__args__", ())
    if isinstance(annotation, type) and not inside:
        yield annotation
    for option in inside:
        yield from _options(option)
