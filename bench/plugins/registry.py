"""Methods and data sets, found by being there: a file in `methods/`, a module in `bench/data/kinds/`, an entry point.

A plugin that does not import becomes a `Broken` entry: it is listed with its reason, and a stand-in takes its place
in the matrices that use it, so that only its own cells fail.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from bench.config.validation import build, shown
from bench.errors import BenchError, ConfigError, listed, nearest
from bench.plugins.discovery import Broken, by_name, classes

if TYPE_CHECKING:
    from bench.augment.method import Method
    from bench.data.dataset import Dataset


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
    """Return the plugins that cannot be used: they do not import, have no name, or share one."""
    return [*by_name(_method_classes(), "name")[1], *by_name(_dataset_classes(), "kind")[1]]


def known_methods() -> set[str]:
    """Return the names that a matrix may use: of the usable methods, and of the plugins that cannot be used."""
    return {*methods(), *(name for b in broken() for name in b.names)}


def _method_classes() -> Iterator[Any]:
    from bench.augment.method import Method

    return classes("methods", "bench.methods", Method, "name")


def _dataset_classes() -> Iterator[Any]:
    from bench.data.dataset import Dataset

    return classes("bench.data.kinds", "bench.datasets", Dataset, "kind")


def _unusable(name: str, found: dict[str, Any]) -> Broken | None:
    """Return the broken plugin that `name` means, where no usable one has that name."""
    return None if name in found else next((b for b in broken() if name in b.names), None)


def require_method(name: str, where: str) -> None:
    """Refuse a name that no method has. That of a plugin which cannot be used is let pass: its cells will say so.

    Raises:
        ConfigError: naming `where` and the nearest valid name, or the two plugins of that name.
    """
    entry = _unusable(name, methods())
    if entry is None or entry.clash:
        method_class(name, where)


def method_class(name: str, where: str) -> type[Method]:
    """Return the method class called `name`.

    Raises:
        ConfigError: naming `where` and the nearest valid name, or why the plugin cannot be used.
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
    """A method as matrix files and the command line write it: `name` or `name@value`; the value is None without `@`."""

    name: str
    value: str | None

    @classmethod
    def of(cls, text: object) -> Shorthand:
        """Return the parts of a text; what is no text is taken as it prints, to be refused by name."""
        name, has_value, value = str(text).partition("@")
        return cls(name, value if has_value else None)


def parse_method(text: str, settings: dict[str, Any] | None = None, where: str = "methods") -> Method:
    """Return the method that `name` or `name@value` stands for; `@` sets the field that the method names in `at`.

    Of a plugin that cannot be used it is a stand-in, which takes any value and setting.

    Raises:
        ConfigError: for an unknown name, a value the field refuses, or an unknown setting.
    """
    from bench.augment.unusable import Reason, UnusableMethod

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
    except Exception as error:  # the plugin's own checks can fail in any way
        reason = Reason.of(f"{cls.__module__} cannot take these settings", error)
        return UnusableMethod.of(name, value, dict(settings or {}), reason)


def _scalar(text: str) -> Any:
    """Return what YAML reads in `text`; the text itself where it is not YAML (the field then refuses it by name)."""
    try:
        return yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        return text


def parse_dataset(settings: Any, where: str = "datasets") -> Dataset:
    """Return the data set that a mapping with `kind` describes; a stand-in for one whose plugin cannot be used.

    Raises:
        ConfigError: for an unknown kind or setting.
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
        from bench.augment.unusable import UnusableDataset

        return UnusableDataset.of(kind, chosen, entry.told())
    if entry:
        raise ConfigError(f"{where}.kind: '{kind}' cannot be used ({entry.reason}); see {entry.module}")
    if kind not in found:
        raise ConfigError(f"{where}.kind: no data set kind '{kind}'{nearest(kind, found)} (have: {listed(found)})")
    return build(found[kind], chosen, where)
