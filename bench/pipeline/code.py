"""Find the code behind a stage: the modules of this project that it depends on, and a digest of each.

The code is part of a stage's key. If it were not, a changed line in a helper module would be answered with an old
result, because nobody remembers to raise a version number by hand. Some modules are left out of the key, because no
result depends on them: otherwise an edit of an error message or of a lock would throw away a week of trainings.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

from bench.pipeline.code_cache import content_key, remember, remembered

AFFECTS_RESULTS = False
_MARK = "AFFECTS_RESULTS"  # a module that sets this to False, or whose package does, is left out of keys


@functools.cache
def code_digests(cls: type) -> dict[str, str]:
    """Return the digests of the code that gives `cls` its meaning, as a mapping from module to digest.

    The modules are that of `cls` and every module of ours that it imports, directly or through others, except modules
    marked with `AFFECTS_RESULTS = False`. A digest is that of the syntax tree without docstrings, so a change of
    comments, formatting or documentation does not change it.

    Raises:
        TypeError: if the code of `cls` cannot be read.
    """
    if _source(cls.__module__) is None:
        # Refuse instead of leaving the code out of the key: the stage would get its old result after every change.
        raise TypeError(f"the code of {cls.__name__} cannot be read ({cls.__module__}); put it into a module's file")
    return {name: _code(name).digest for name in sorted(modules_behind(cls.__module__))}


@functools.cache
def modules_behind(module: str) -> frozenset[str]:
    """Return the names of our modules that `module` depends on, including itself. Installed libraries are not ours."""
    own = module.partition(".")[0]
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        if name in seen or _source(name) is None or is_left_out(name):
            continue
        seen.add(name)
        for base, imported in _code(name).imports:
            if base.partition(".")[0] == own or _is_ours(base.partition(".")[0]):  # libraries' files are not looked up
                todo.extend(_homes(base, imported))
    return frozenset(seen)


@functools.cache
def is_left_out(module: str) -> bool:
    """Tell whether a module, or a package around it, is marked with `AFFECTS_RESULTS = False`."""
    package = module.rpartition(".")[0]
    return not _code(module).affects_results or (bool(package) and is_left_out(package))


def _homes(base: str, name: str | None) -> Iterator[str]:
    """Yield the modules that `from base import name` depends on; `name` is None for `import base`.

    A face is a module that holds only imports and `__all__`, such as `bench.contract` or a package's `__init__`. A
    name that is imported from a face is traced to the module that defines it. A module with `from x import *` is no
    face, since the names in it are not known: it enters the key with all that it imports.
    """
    # If faces counted as modules of their own, the key of every method would depend on everything that
    # `bench.contract` names, and a change of any of it would compute every method again.
    if name is None:
        yield base
        return
    if _source(f"{base}.{name}") is not None:
        yield f"{base}.{name}"
    if _source(base) is None:
        return
    face = _code(base).names
    if face is None:
        yield base
    elif name == "*":
        for origin in face.values():
            yield from _homes(*origin)
    elif name in face:
        yield from _homes(*face[name])


@functools.cache
def _is_ours(root: str) -> bool:
    """Tell whether a top-level package belongs to this project or to a user's plugin, and not to a library."""
    # An installed library changes only with its version. Versions are recorded in the manifests, not in the keys:
    # otherwise an update of any library would make every result in the store useless.
    if root in ("bench", "methods"):
        return True
    spec = None if root in sys.stdlib_module_names else _spec(root)
    if spec is None:
        return False
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return not any(part in ("site-packages", "dist-packages") for place in places for part in Path(place).parts)


@functools.cache
def _spec(module: str) -> ModuleSpec | None:
    """Return where a module is found, without importing it or its parents, which may be slow or broken."""
    parent = module.rpartition(".")[0]
    if not parent:
        try:
            return importlib.util.find_spec(module)
        except ValueError:  # `__main__`, and modules that were made at run time, have no spec
            return None
    above = _spec(parent)
    if above is None or above.submodule_search_locations is None:
        return None
    return PathFinder.find_spec(module, above.submodule_search_locations)


@functools.cache
def _source(module: str) -> str | None:
    spec = _spec(module)
    if spec is None or not spec.origin or not spec.origin.endswith(".py"):
        return None
    return Path(spec.origin).read_text(encoding="utf-8")


@dataclass(frozen=True)
class _Module:
    """The facts about one module that a key needs.

    Attributes:
        digest: the digest of its syntax tree without docstrings.
        imports: (module, name) for each import in it; the name is None for `import module`.
        affects_results: False if the module sets `AFFECTS_RESULTS = False`.
        names: for a face, where each name comes from, as (module, name); None for any other module.
    """

    digest: str
    imports: tuple[tuple[str, str | None], ...]
    affects_results: bool
    names: dict[str, tuple[str, str | None]] | None


@functools.cache
def _code(module: str) -> _Module:
    """Return the facts about a module. An import whose name is only computed at run time is not found."""
    text = _source(module) or ""
    # Our own text is part of the key as well: facts that an older version of this file found are not used.
    key = content_key(_source(__name__) or "", module, str(_is_package(module)), text)
    kept = remembered(key)
    if kept is None:
        kept = asdict(_parsed(module, text))
        remember(key, kept)
    names = kept["names"]
    return _Module(
        digest=kept["digest"],
        imports=tuple((base, name) for base, name in kept["imports"]),
        affects_results=kept["affects_results"],
        names=None if names is None else {name: (base, origin) for name, (base, origin) in names.items()},
    )


def _parsed(module: str, source: str) -> _Module:
    tree = ast.parse(source)
    text: list[str] = []
    imports: list[tuple[str, str | None]] = []
    _dump(tree, module, text, imports)
    affects, names = True, {}
    is_face = True
    for node in tree.body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            for alias, origin in zip(node.names, _imported(module, node), strict=True):
                bound = alias.asname or alias.name
                names[bound] = origin
                # `from x import *` and `import x.y` give names that do not stand here, so nobody can be traced to them.
                is_face = is_face and bound.isidentifier()
        elif isinstance(node, ast.Assign) and [_name_of(t) for t in node.targets] == [_MARK]:
            affects = not (isinstance(node.value, ast.Constant) and node.value.value is False)
        elif not _is_docstring(node) and not _sets_all(node):
            is_face = False
    # Only the facts are cached, and not the tree: a process needs as long to free the trees of all modules at its end
    # as it needed to build them.
    digest = hashlib.sha256("".join(text).encode()).hexdigest()[:16]
    return _Module(digest, tuple(imports), affects, names if is_face else None)


def _dump(value: Any, module: str, text: list[str], imports: list[tuple[str, str | None]]) -> None:
    """Append a part of the syntax tree to `text`, without docstrings and positions, and its imports to `imports`."""
    # This does the work of `ast.walk` and `ast.dump` in one pass. Those two took a third of the time of a run in which
    # everything was already finished.
    # Fields that are empty, and whether a name is read or written (`ctx`), follow from the rest and are left out.
    kind = type(value)
    if kind is list:
        text.append("[")
        for part in value:
            _dump(part, module, text, imports)
        text.append("]")
    elif isinstance(value, ast.AST):
        if kind in _IMPORTING:
            imports.extend(_imported(module, value))
        text.append(f"{kind.__name__}(")
        for name in kind._fields:
            part = getattr(value, name, None)
            if part is None or name == "ctx":
                continue
            if name == "body" and kind in _DOCUMENTED and part and _is_docstring(part[0]):
                part = part[1:]
            text.append(f",{name}=")
            _dump(part, module, text, imports)
        text.append(")")
    else:
        text.append(f"{value!r},")


_IMPORTING = (ast.Import, ast.ImportFrom, ast.Call)
_DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)


def _sets_all(node: ast.AST) -> bool:
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AugAssign) else []
    return [_name_of(t) for t in targets] == ["__all__"]


def _imported(module: str, node: ast.AST) -> Iterator[tuple[str, str | None]]:
    if isinstance(node, ast.Import):
        yield from ((alias.name, None) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = _absolute("." * node.level + (node.module or ""), module)
        yield from ((base, alias.name) for alias in node.names)
    elif isinstance(node, ast.Call) and _name_of(node.func) in ("import_module", "__import__"):
        yield from ((_absolute(str(a.value), module), None) for a in node.args[:1] if isinstance(a, ast.Constant))


def _absolute(name: str, module: str) -> str:
    """Return the full name of what `module` calls `name`, which may be relative to its package (`.beside`)."""
    below = name.lstrip(".")
    level = len(name) - len(below)
    if not level:
        return name
    parts = module.split(".")
    package = parts[: len(parts) + _is_package(module) - level]
    return ".".join([*package, *([below] if below else [])])


def _name_of(called: ast.expr) -> str | None:
    return getattr(called, "attr", getattr(called, "id", None))


def _is_package(module: str) -> bool:
    spec = _spec(module)
    return bool(spec and spec.submodule_search_locations is not None)
