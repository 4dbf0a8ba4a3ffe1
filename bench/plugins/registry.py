"""Looks up methods and data sets by name, and builds them from what a matrix file says.

A plugin that does not import becomes a `Broken` entry, which `bench methods` lists with its reason. In a matrix a
placeholder (`bench.augment.unusable`) takes its place, so that only its own cells fail.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import yaml

from bench.augment.method import Method
from bench.augment.unusable import Reason, UnusableDataset, UnusableMethod
from bench.config.validation import build, shown
from bench.data.dataset import Dataset
from bench.errors import BenchError, ConfigError, listed, nearest
from bench.plugins.discovery import Broken, by_name, classes


@functools.cache
def methods() -> dict[str, type[Method]]:
    """Return every usable method class by its name."""
    return by_name(_method_classes(), "name")[0]


@functools.cache
def datasets() -> dict[str, type[Dataset]]:
    """Return every usable data-set class by its kind."""
    return by_name(_dataset_classes(), "kind")[0]


@functools.cache
def broken() -> list[Broken]:
    """Return the plugins that cannot be used: they do not import, have no name, or share a name with another one."""
    return [*by_name(_method_classes(), "name")[1], *by_name(_dataset_classes(), "kind")[1]]


def known_methods() -> set[str]:
    """Return the names that a matrix may use: those of all methods, including broken plugins."""
    return {*methods(), *(name for b in broken() for name in b.names)}


def _method_classes() -> Iterator[Any]:

    return classes("methods", "bench.methods", Method, "name")


def _dataset_classes() -> Iterator[Any]:

    return classes("bench.data.kinds", "bench.datasets", Dataset, "kind")


def _unusable(name: str, found: Mapping[str, type]) -> Broken | None:
    """Return the broken plugin called `name`, or None if a usable plugin (or no plugin) has that name."""
    return None if name in found else next((b for b in broken() if name in b.names), None)


def require_method(name: str, where: str) -> None:
    """Check that `name` is the name of a method. The name of a broken plugin passes: its cells will fail later.

    Raises:
        ConfigError: if no plugin has the name, or two have it. The message gives `where` and the nearest valid name.
    """
    entry = _unusable(name, methods())
    if entry is None or entry.clash:
        method_class(name, where)


def method_class(name: str, where: str) -> type[Method]:
    """Return the method class called `name`.

    Raises:
        ConfigError: if there is none, with `where` and the nearest valid name, or with the reason if it is broken.
    """
    found = methods()
    if name in found:
        return found[name]
    if entry := _unusable(name, found):
        raise ConfigError(f"{where}: method '{name}' cannot be used ({entry.reason}); see {entry.module}")
    raise ConfigError(f"{where}: no method '{name}'{nearest(name, known_methods())} (have: {listed(found)}){_amiss()}")


def _amiss() -> str:
    return f"; did not import: {listed(b.module for b in broken())}, see `bench methods`" if broken() else ""


class Shorthand(NamedTuple):
    """A method as it is written in matrix files and on the command line: `name` or `name@value`.

    The value is None if there is no `@`.
    """

    name: str
    value: str | None

    @classmethod
    def of(cls, text: object) -> Shorthand:
        """Split `text` into name and value. Anything but a string is converted first, and is then an unknown name."""
        name, has_value, value = str(text).partition("@")
        return cls(name, value if has_value else None)


def parse_method(text: str, settings: dict[str, Any] | None = None, where: str = "methods") -> Method:
    """Return the method that `name` or `name@value` asks for; the value goes to the field named by the method's `at`.

    For a broken plugin a placeholder is returned, which accepts any value and any settings.

    Raises:
        ConfigError: if the name or a setting is unknown, or the field does not accept the value.
    """
    name, value = Shorthand.of(text)
    chosen = dict(settings or {})
    entry = _unusable(name, methods())
    if entry and not entry.clash:
        return UnusableMethod.of(name, value, chosen, entry.told())
    cls = method_class(name, where)
    if value is not None:
        if cls.at is None:
            raise ConfigError(f"{where}: '{text}': method '{name}' takes no '@' value; write '{name}'")
        chosen[cls.at] = _scalar(value)
    try:
        return build(cls, chosen, f"{where}: {text}")
    except BenchError:
        raise
    except Exception as error:  # The plugin's own validators ran here and can raise anything.
        reason = Reason.of(f"{cls.__module__} cannot take these settings", error)
        return UnusableMethod.of(name, value, dict(settings or {}), reason)


def _scalar(text: str) -> Any:
    """Return `text` read as YAML, or the text itself if it is not valid YAML (the field then refuses it)."""
    try:
        return yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        return text


def parse_dataset(settings: object, where: str = "datasets") -> Dataset:
    """Return the data set that a mapping with `kind` describes, or a placeholder if its plugin is broken.

    Raises:
        ConfigError: if the kind or a setting is unknown.
    """
    if isinstance(settings, str):
        settings = {"kind": settings}
    if not isinstance(settings, dict) or "kind" not in settings:
        got = shown(settings)
        raise ConfigError(f"{where}: want a kind or a mapping with 'kind', got {got} (kinds: {listed(datasets())})")
    found, kind = datasets(), settings["kind"]
    if not isinstance(kind, str):
        raise ConfigError(f"{where}.kind: want text, got {shown(kind)} (have: {listed(found)})")
    chosen = {k: v for k, v in settings.items() if k != "kind"}
    entry = _unusable(kind, found)
    if entry and not entry.clash:
        return UnusableDataset.of(kind, chosen, entry.told())
    if entry:
        raise ConfigError(f"{where}.kind: '{kind}' cannot be used ({entry.reason}); see {entry.module}")
    if kind not in found:
        raise ConfigError(f"{where}.kind: no data set kind '{kind}'{nearest(kind, found)} (have: {listed(found)})")
    return build(found[kind], chosen, where)
