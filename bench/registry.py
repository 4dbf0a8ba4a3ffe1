"""Methods and data sets, found by being there: a file in `methods/`, a module in `bench/datasets/`, an entry point.

A plugin that does not import becomes a `Broken` entry: it is listed with its reason and stops only what uses it.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import os
import pkgutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from bench.errors import ConfigError, listed, nearest

if TYPE_CHECKING:
    from bench.contract import Method
    from bench.datasets.base import Dataset

T = TypeVar("T", bound=BaseModel)


@dataclass(frozen=True)
class Broken:
    """A plugin module that did not import, and why."""

    module: str
    reason: str


@functools.cache
def methods() -> dict[str, type[Method]]:
    """Return every usable method class by its name."""
    return _by_name(_method_classes(), "name")


@functools.cache
def datasets() -> dict[str, type[Dataset]]:
    """Return every usable data-set class by its kind."""
    return _by_name(_dataset_classes(), "kind")


@functools.cache
def broken() -> list[Broken]:
    """Return the plugin modules that did not import."""
    return [c for c in (*_method_classes(), *_dataset_classes()) if isinstance(c, Broken)]


def _method_classes() -> Iterator[Any]:
    from bench.contract import Method

    return _found("methods", "bench.methods", Method, "name")


def _dataset_classes() -> Iterator[Any]:
    from bench.datasets.base import Dataset

    return _found("bench.datasets", "bench.datasets", Dataset, "kind")


def _found(package: str, group: str, base: type, named_by: str) -> Iterator[Any]:
    """Yield concrete subclasses of `base` in the package's direct modules and in the entry-point group."""
    path = importlib.import_module(package).__path__
    if package == "methods":
        yield from (Broken("BENCH_METHODS", f"no folder {p}") for p in _plugin_folders() if not Path(p).is_dir())
    for name in sorted(m.name for m in pkgutil.iter_modules(path) if not m.name.startswith("_")):
        yield from _classes(f"{package}.{name}", base, named_by)
    for entry in metadata.entry_points(group=group):
        yield from _classes(entry.module, base, named_by)


def _plugin_folders() -> list[str]:
    return [p for p in os.environ.get("BENCH_METHODS", "").split(os.pathsep) if p]


def _classes(module_name: str, base: type, named_by: str) -> Iterator[Any]:
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # an import can fail in any way; it must not stop the others
        yield Broken(module_name, " ".join(f"{type(error).__name__}: {error}".split()))
        return
    for _, cls in inspect.getmembers(module, inspect.isclass):
        own = cls.__module__ == module_name or cls.__module__.startswith(module_name + ".")
        if own and issubclass(cls, base) and not inspect.isabstract(cls) and cls is not base:
            yield cls if hasattr(cls, named_by) else Broken(module_name, f"class {cls.__name__} has no `{named_by}`")


def _by_name(found: Iterator[Any], attribute: str) -> dict[str, Any]:
    """Return the usable classes by name.

    Raises:
        ConfigError: if two plugins share a name: which one a matrix means must not depend on the order of imports.
    """
    named: dict[str, Any] = {}
    for cls in found:
        if isinstance(cls, Broken):
            continue
        name = getattr(cls, attribute)
        if named.setdefault(name, cls) is not cls:
            places = f"{named[name].__module__} and {cls.__module__}"
            raise ConfigError(f"two plugins are called '{name}' ({places}); rename one or remove it")
    return named


def method_class(name: str, where: str) -> type[Method]:
    """Return the method class called `name`.

    Raises:
        ConfigError: naming `where` and the nearest valid name, or why the plugin did not import.
    """
    found = methods()
    if name in found:
        return found[name]
    for entry in broken():
        if entry.module.rpartition(".")[2] == name:
            raise ConfigError(f"{where}: method '{name}' did not import ({entry.reason}); mend {entry.module}")
    amiss = f"; did not import: {listed(b.module for b in broken())}, see `bench methods`" if broken() else ""
    raise ConfigError(f"{where}: no method '{name}'{nearest(name, found)} (have: {listed(found)}){amiss}")


def parse_method(text: str, settings: dict[str, Any] | None = None, where: str = "methods") -> Method:
    """Return the method that `name` or `name@value` stands for; `@` sets the field that the method names in `at`.

    Raises:
        ConfigError: for an unknown name, a value the field refuses, or an unknown setting.
    """
    name, has_at, value = str(text).partition("@")
    cls = method_class(name, where)
    chosen = dict(settings or {})
    if has_at:
        if cls.at is None:
            raise ConfigError(f"{where}: '{text}': method '{name}' takes no '@' value; write '{name}'")
        chosen[cls.at] = _scalar(value)
    return build(cls, chosen, f"{where}: {text}")


def _scalar(text: str) -> Any:
    """Return what YAML reads in `text`; the text itself where it is not YAML (the field then refuses it by name)."""
    try:
        return yaml.safe_load(text) if text else text
    except yaml.YAMLError:
        return text


def parse_dataset(settings: Any, where: str = "datasets") -> Dataset:
    """Return the data set that a mapping with `kind` describes.

    Raises:
        ConfigError: for an unknown kind or setting.
    """
    if isinstance(settings, str):
        settings = {"kind": settings}
    if not isinstance(settings, dict) or "kind" not in settings:
        raise ConfigError(f"{where}: want a mapping with 'kind', got {settings!r} (kinds: {listed(datasets())})")
    found, kind = datasets(), str(settings["kind"])
    if kind not in found:
        raise ConfigError(f"{where}.kind: no data set kind '{kind}'{nearest(kind, found)} (have: {listed(found)})")
    return build(found[kind], {k: v for k, v in settings.items() if k != "kind"}, where)


def build(cls: type[T], settings: dict[str, Any], where: str) -> T:
    """Return `cls(**settings)`.

    Raises:
        ConfigError: one line with the field, what was got and what is allowed.
    """
    try:
        return cls.model_validate(settings)
    except ValidationError as error:
        raise ConfigError(one_line(error, where, cls)) from error


def one_line(error: ValidationError, where: str, cls: type[BaseModel]) -> str:
    """Return a pydantic error as one line: where, field, what was got, what is allowed, nearest valid name."""
    first = error.errors(include_url=False)[0]
    field = ".".join(str(p) for p in first["loc"])
    place = f"{where}.{field}" if field else where
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    if first["type"] == "extra_forbidden":
        owner = _model_at(cls, first["loc"][:-1])
        allowed = list(owner.model_fields) if owner else []
        return f"{place}: unknown setting{nearest(str(first['loc'][-1]), allowed)} (have: {listed(allowed)}){more}"
    message = first["msg"].removeprefix("Value error, ")
    got = "" if first["type"] in ("missing", "value_error") else f", got {first['input']!r}"[:200]
    return f"{place}: {message[0].lower()}{message[1:]}{got}{more}"


def _model_at(cls: type[BaseModel], loc: tuple[int | str, ...]) -> type[BaseModel] | None:
    """Return the model class at a location inside `cls`, where it can be told."""
    current: Any = cls
    for part in loc:
        is_model = inspect.isclass(current) and issubclass(current, BaseModel)
        info = current.model_fields.get(str(part)) if is_model else None
        if info is None:
            return None
        options = [info.annotation, *getattr(info.annotation, "__args__", ())]
        current = next((o for o in options if inspect.isclass(o) and issubclass(o, BaseModel)), None)
    return current if inspect.isclass(current) and issubclass(current, BaseModel) else None
