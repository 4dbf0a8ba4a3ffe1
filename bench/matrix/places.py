"""Find the paths in a raw matrix, and make relative ones absolute."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.classifier.settings import ClassifierSettings
from bench.config.validation import models_in
from bench.errors import ConfigError
from bench.matrix.settings import MatrixSettings
from bench.paths import anchored
from bench.pipeline.settings import Settings
from bench.plugins import registry


class _Place(NamedTuple):
    """A path in raw settings: the mapping that holds it, its name there, and its dotted key."""

    owner: dict[str, Any]
    name: str
    key: str


def anchor(raw: dict[str, Any], folder: Path, name: str, below: str = "") -> None:
    """Make relative paths absolute, in place.

    Args:
        raw: a matrix, or a data set with its `kind`. What is misspelt in it is left for the checks that follow.
        folder: what the paths are relative to.
        name: what messages call that folder.
        below: the dotted key of the settings to change; empty = all.

    Raises:
        ConfigError: if the name of a folder is not UTF-8.
    """
    for owner, field, key in _places_of_matrix(raw) if "kind" not in raw else _places_of_dataset(raw, ""):
        if not below or f"{key}.".startswith(f"{below}."):
            try:
                owner[field] = anchored(owner[field], folder, name)
            except ValueError as error:
                raise ConfigError(str(error)) from error


def _places_of_matrix(raw: dict[str, Any]) -> Iterator[_Place]:
    yield from _places(raw, [MatrixSettings], "")
    for i, dataset in enumerate(_items(raw.get("datasets"))):
        yield from _places_of_dataset(dataset, f"datasets.{i}.")
    for name, settings in _mapping(raw.get("settings")).items():
        yield from _places_of_method(settings, name, f"settings.{name}.")
    for i, row in enumerate(_items(raw.get("methods"))):
        given = _mapping(row)
        yield from _places(_mapping(given.get("classifier")), [ClassifierSettings], f"methods.{i}.classifier.")
        method = registry.Shorthand.of(given.get("method")).name
        yield from _places_of_method(given.get("settings"), method, f"methods.{i}.settings.")


def _places_of_dataset(raw: object, key: str) -> Iterator[_Place]:
    given = _mapping(raw)
    cls = registry.datasets().get(str(given.get("kind")))
    yield from _places(given, [cls] if cls else [], key)


def _places_of_method(raw: object, name: str, key: str) -> Iterator[_Place]:
    cls = registry.methods().get(name)
    yield from _places(_mapping(raw), [cls] if cls else [], key)


def _places(raw: dict[str, Any], models: Iterable[type], key: str) -> Iterator[_Place]:
    """Yield the paths in raw settings of any of the given models, and in the models inside of them."""
    for name, value in raw.items():
        own = [m for m in models if issubclass(m, Settings) and name in m.model_fields]
        if isinstance(value, str) and any(m.is_place(name, value) for m in own):
            yield _Place(raw, name, f"{key}{name}")
        inner = [m for owner in own for m in models_in(owner.model_fields[name].annotation)]
        yield from _places(_mapping(value), inner, f"{key}{name}.")


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _items(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
