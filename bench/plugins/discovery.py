"""Finds plugins: files in `methods/`, modules in `bench/data/kinds/`, and entry points of installed packages."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import inspect
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from pydantic import PydanticUserError

from bench.augment.unusable import Reason
from bench.errors import in_words
from bench.installed import require_installed

T = TypeVar("T")


@dataclass(frozen=True)
class Broken:
    """A plugin that cannot be used, and the reason.

    Attributes:
        module: the plugin's module.
        reason: what is wrong, in one line.
        trace: the traceback, if the import failed.
        names: the names under which a matrix may ask for it: the module's own name and those found in its text.
        clash: True if two plugins, or the files of two, have the same name. No placeholder is made then: the user must
            rename one first.
    """

    module: str
    reason: str
    trace: str = ""
    names: tuple[str, ...] = ()
    clash: bool = False

    def told(self) -> Reason:
        """Return the reason that the plugin's placeholder fails with."""
        return Reason(line=f"{self.module} cannot be used: {self.reason}", trace=self.trace)


def classes(package: str, group: str, base: type, named_by: str) -> Iterator[Any]:
    """Yield the concrete subclasses of `base`, and a `Broken` for each plugin that cannot be used.

    Args:
        package: its direct modules are searched; names that begin with `_` are left out.
        group: the entry-point group that is searched as well.
        base: the base class.
        named_by: the class variable that holds a plugin's name (`name` or `kind`).

    Raises:
        ConfigError: if a foreign package is called `methods`.
    """
    if package == "methods":
        require_installed(package)
        yield from (Broken("BENCH_METHODS", f"no folder {p}") for p in _plugin_folders() if not Path(p).is_dir())
    for name, files in sorted(_files(importlib.import_module(package).__path__).items()):
        if len(files) > 1:
            # Python imports the first file and never sees the other: its method would get the results of the first.
            reason = f"{' and '.join(map(str, files))} have the same name; rename one"
            names = () if name.startswith("_") else _names_in(f"{package}.{name}", named_by, files)
            yield Broken(f"{package}.{name}", reason, names=names, clash=True)
        elif not name.startswith("_"):
            yield from _classes(f"{package}.{name}", base, named_by)
    for entry in metadata.entry_points(group=group):
        yield from _classes(entry.module, base, named_by)


def _files(folders: Iterable[str]) -> dict[str, list[Path]]:
    """Return the files of all modules in a package's folders, by the module's name."""
    found: dict[str, list[Path]] = {}
    for folder in dict.fromkeys(Path(folder).resolve() for folder in folders):  # the same folder twice does no harm
        for module in pkgutil.iter_modules([str(folder)]):
            file = folder / module.name / "__init__.py" if module.ispkg else folder / f"{module.name}.py"
            found.setdefault(module.name, []).append(file)
    return found


def _plugin_folders() -> list[str]:
    return [p for p in os.environ.get("BENCH_METHODS", "").split(os.pathsep) if p]


def _classes(module_name: str, base: type, named_by: str) -> Iterator[Any]:
    try:
        with contextlib.redirect_stdout(sys.stderr):  # Stdout is for data, and a plugin may print while it is imported.
            module = importlib.import_module(module_name)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # An import can raise anything, even SystemExit. The other plugins must still load.
        trace = "".join(traceback.format_exception(error))
        yield Broken(module_name, _import_fault(error), trace, _names_in(module_name, named_by))
        return
    for _, cls in inspect.getmembers(module, inspect.isclass):
        own = cls.__module__ == module_name or cls.__module__.startswith(module_name + ".")
        if own and issubclass(cls, base) and not inspect.isabstract(cls) and cls is not base:
            fault = _fault(cls, named_by)
            yield Broken(module_name, fault, names=_names_in(module_name, named_by)) if fault else cls


def _import_fault(error: BaseException) -> str:
    """Return why a module does not import, in one line."""
    if not isinstance(error, PydanticUserError):
        return in_words(error)
    untyped = re.search("detected: `(.+?) = (.*?)`. All", error.message, re.DOTALL)
    if error.code == "model-field-missing-annotation" and untyped:
        name, value = untyped.groups()
        return f"field '{name}' has no type; write '{name}: {_typed(value)}'"
    return " ".join(f"{type(error).__name__}: {error.message}".split())  # `str` would add the address of a page


def _typed(value: str) -> str:
    """Return how the rest of a field with this default is written, `int = 3`."""
    try:
        default = ast.literal_eval(value)
    except (ValueError, SyntaxError):  # the text of an object, from which its type cannot be told
        default = None
    return "TYPE = ..." if default is None else f"{type(default).__name__} = {value}"


def name_fault(named_by: str, name: str) -> str | None:
    """Return why a plugin's `name` or `kind` cannot be written in a matrix file, or None."""
    allowed, pattern = _NAMES[named_by]
    return None if re.fullmatch(pattern, name) else f"{named_by} {name!r}: want {allowed}"


_NAMES = {
    "name": ("lower-case letters, digits and -", "[a-z0-9][a-z0-9-]*"),
    "kind": ("lower-case letters, digits, - and _", "[a-z0-9][a-z0-9_-]*"),
}


def _fault(cls: Any, named_by: str) -> str | None:
    """Return why a plugin's class cannot be used, or None."""
    name = getattr(cls, named_by, None)
    if not isinstance(name, str):
        return f"class {cls.__name__} has no `{named_by}`"
    if fault := name_fault(named_by, name):
        return fault
    at = getattr(cls, "at", None)
    return f"class {cls.__name__}: `at` names no field: {at!r}" if at and at not in cls.model_fields else None


def _names_in(module_name: str, named_by: str, files: Sequence[Path] = ()) -> tuple[str, ...]:
    """Return the names that a module which does not import may have: its last part, and the names in its text.

    The text is searched with a pattern, because the classes are not there to ask. Without these names the matrix rows
    that use the plugin would be refused as unknown, instead of failing alone with the import error.

    Args:
        module_name: the module.
        named_by: the class variable that holds a plugin's name.
        files: the files to search, if not the one that Python would import.
    """
    found = [module_name.rpartition(".")[2]]
    pattern = re.compile(rf"""^[ \t]+{named_by}[ \t]*(?::[^=\n]+)?=[ \t]*(["'])([\w.-]+)\1""", re.MULTILINE)
    with contextlib.suppress(ImportError, ValueError, OSError):
        spec = None if files else importlib.util.find_spec(module_name)
        for origin in files or ([Path(spec.origin)] if spec and spec.origin else []):
            whole = sorted(origin.parent.rglob("*.py")) if origin.name == "__init__.py" else [origin]
            texts = (file.read_text(encoding="utf-8", errors="replace") for file in whole)
            found += (match[2] for text in texts for match in pattern.finditer(text))
    return tuple(dict.fromkeys(found))


def by_name(found: Iterator[type[T] | Broken], attribute: str) -> tuple[dict[str, type[T]], list[Broken]]:
    """Return the usable classes by name, and the plugins that cannot be used.

    If two plugins have the same name, neither is usable. The meaning of a matrix must not depend on the import order.
    """
    named: dict[str, list[type[T]]] = {}
    amiss: list[Broken] = []
    for cls in found:
        if isinstance(cls, Broken):
            amiss.append(cls)
        elif cls not in (members := named.setdefault(getattr(cls, attribute), [])):
            members.append(cls)
    for name, members in named.items():
        if len(members) > 1:
            places = " and ".join(m.__module__ for m in members)
            reason = f"two plugins are called '{name}'; rename one or remove it"
            amiss.append(Broken(places, reason, names=(name,), clash=True))
    return {name: members[0] for name, members in named.items() if len(members) == 1}, amiss
