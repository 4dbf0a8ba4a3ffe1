"""The rows of a matrix: a method by its shorthand, or a variant of it with a label of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from bench.augment.label_policies import SOFT_POLICIES
from bench.augment.method import Method
from bench.classifier.recipe import SOFT_LOSSES
from bench.classifier.settings import ClassifierSettings
from bench.config.validation import shown
from bench.errors import ConfigError, listed, nearest
from bench.pipeline.settings import Settings
from bench.plugins import registry

_LONGEST_LABEL = 100  # bytes; the folder's name, at most 255 bytes, also holds the data set and the seed


class RowSettings(Settings):
    """One entry of `methods`. A plain `name` or `name@value` is short for `{method: name@value}`."""

    method: str = Field(description="`name` or `name@value`")
    row: str | None = Field(None, description="label in tables; null = the method's own")
    preset: str | None = Field(None, description="settings that the method ships under this name")
    settings: dict[str, Any] = Field({}, description="settings of this row alone, over the preset's")
    classifier: dict[str, Any] = Field({}, description="classifier settings of this row alone")
    against: list[str] = Field([], description="rows that this one's effect is measured from; one label, or a list")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, given: Any) -> Any:
        if isinstance(given, (int, float)) or given is None:
            raise ValueError(f"want a method's name or a mapping with `method`, got {shown(given)}")
        return {"method": given} if isinstance(given, str) else given

    @field_validator("against", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, given: Any) -> Any:
        return [given] if isinstance(given, str) else [] if given is None else given

    @field_validator("row")
    @classmethod
    def _fit_for_a_file_name(cls, row: str | None) -> str | None:
        if row is None:
            return None
        odd = not row.isprintable() or row != row.strip() or set(row) & set('/\\:*?"<>|') or row[:1] in ("", ".")
        if odd or len(row.encode()) > _LONGEST_LABEL:
            raise ValueError(
                f"got {shown(row)}; want a label of 1 to {_LONGEST_LABEL} bytes, printable, without a dot in front, "
                'spaces around it or any of / \\ : * ? " < > |'
            )
        return row

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> Any:
        """Return the shorthand if the row has nothing else."""
        full: dict[str, Any] = handler(self)
        given = {name: value for name, value in full.items() if value not in (None, {}, [])}
        return self.method if set(given) == {"method"} else given


@dataclass(frozen=True)
class Row:
    """A row ready to build cells from; see `RowSettings`."""

    label: str
    method: Method
    classifier: ClassifierSettings
    against: tuple[str, ...] = ()


def build_rows(
    given: Sequence[RowSettings], settings: dict[str, dict[str, Any]], classifier: ClassifierSettings, where: str
) -> list[Row]:
    """Return the rows of a matrix.

    A method's settings are the matrix's for that method, then the row's preset over them, then the row's own.

    Raises:
        ConfigError: for an unknown method, preset or setting, an `against` that names no other row, or a recipe that
            does not fit the method's images.
    """
    rows = [_build_row(row, settings, classifier, f"{where}.methods.{i}") for i, row in enumerate(given)]
    labels = [row.label for row in rows]
    for i, row in enumerate(rows):
        others = [label for label in labels if label != row.label]
        for label in row.against:
            if label not in others:
                raise ConfigError(
                    f"{where}.methods.{i}.against: no other row '{label}'{nearest(label, others)} "
                    f"(rows: {listed(others)})"
                )
        if len(set(row.against)) < len(row.against):
            raise ConfigError(f"{where}.methods.{i}.against: got a row twice in {listed(row.against)}; name each once")
    return rows


def control_among(rows: Sequence[Row], recipe: ClassifierSettings) -> Row | None:
    """Return the row whose classifier is the teacher and the extractor: the first that adds no images, or None.

    Rows that are trained with `recipe`, that of the matrix, come first: a row that tries another recipe is no baseline.
    """
    plain = [row for row in rows if not row.method.makes_images]
    return min(plain, key=lambda row: row.classifier != recipe, default=None)


def _build_row(
    row: RowSettings, settings: dict[str, dict[str, Any]], classifier: ClassifierSettings, where: str
) -> Row:
    name = registry.Shorthand.of(row.method).name
    chosen = merged(settings.get(name, {}), _preset(row, name, where), row.settings)
    method = registry.parse_method(row.method, chosen, where)
    _check_label(row, method, where)
    if row.classifier:
        shared, given = classifier, classifier.model_dump(mode="json") | row.classifier
        classifier = registry.build(ClassifierSettings, given, f"{where}.classifier")
        _check_recipe(classifier, shared, method, where)
    _check_loss(classifier, method, f"{where}: row '{row.row or method.label}'")
    return Row(row.row or method.label, method, classifier, tuple(row.against))


def _check_recipe(own: ClassifierSettings, shared: ClassifierSettings, method: Method, where: str) -> None:
    """Refuse a recipe about synthetic images in a row without any: it would train the same network under another key.

    What is equal in the matrix's recipe, `shared`, is no difference: a record writes out all settings of a row.
    """
    for name in ("synthetic_first", "synthetic_weight"):
        if not method.makes_images and getattr(own, name) != getattr(shared, name):
            raise ConfigError(f"{where}.classifier.{name}: {method.name} makes no synthetic images; leave it out")


def _check_loss(recipe: ClassifierSettings, method: Method, where: str) -> None:
    """Refuse a loss that is defined for labels of 0 and 1 alone in a row whose images can have others."""
    soft = method.soft_labels if method.labels == "own" else method.labels in SOFT_POLICIES
    if soft and method.makes_images and not isinstance(recipe.loss, SOFT_LOSSES):
        raise ConfigError(
            f"{where}: classifier.loss: {recipe.loss.kind} is defined for labels of 0 and 1, and those of "
            f"{method.name} with labels: {method.labels} can lie between; use bce or class_balanced, or labels: union"
        )


def _check_label(row: RowSettings, method: Method, where: str) -> None:
    """Refuse a label that names another method or value, and a value that is given after the `@` and as a setting."""
    label = row.row or method.label
    claimed, value = registry.Shorthand.of(label)
    if label != method.label and claimed in registry.methods() and claimed != method.name:
        raise ConfigError(
            f"{where}.row: '{label}' is the name of another method than {method.name}; choose another label"
        )
    if label != method.label and claimed == method.name and method.at and value and " " not in value:
        raise ConfigError(f"{where}.row: '{label}' reads as another row than {method.label}; choose another label")
    if registry.Shorthand.of(row.method).value is not None and method.at in row.settings:
        raise ConfigError(f"{where}.settings.{method.at}: '{row.method}' gives it already; give it once")


def _preset(row: RowSettings, name: str, where: str) -> dict[str, Any]:
    if row.preset is None:
        return {}
    registry.require_method(name, where)
    if (cls := registry.methods().get(name)) is None:
        return {}  # an unusable plugin: its placeholder takes any settings
    presets = cls.presets
    if row.preset not in presets:
        have = f"have: {listed(presets)}" if presets else f"'{name}' has none"
        raise ConfigError(f"{where}.preset: no preset '{row.preset}'{nearest(row.preset, presets)} ({have})")
    return presets[row.preset]


def merged(*layers: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings merged key by key; a later layer wins over an earlier one."""
    out: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            below = out.get(key)
            out[key] = merged(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return out
