"""The stage: a frozen configuration that is also a step of the pipeline, and the key it is stored under.

A stage is a pydantic model. Plain fields are its settings, fields that hold stages (also inside lists, dicts and
other models) are its inputs. Its key is the digest of that whole tree and of the code that gives it meaning, so
two cells that ask for the same thing share it, and a changed setting, default or helper module can never be
answered with an old result.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from pydantic import BaseModel, ConfigDict, Field

from bench.errors import ConfigError
from bench.pipeline.missing_inputs import STANDS_IN, are_allowed, is_semantic, noting, place_of, stands_in

# Modules that cannot change what a stage computes, only whether and where it is computed and how it is told.
# Everything else of ours that a stage imports, directly or through others, enters its key by itself.
INERT = frozenset(
    {
        "bench",
        "methods",
        "bench.errors",
        "bench.files",
        "bench.pipeline.stage",
        "bench.augment.unusable",
        "bench.store.store",
        "bench.store.attempt",
    }
) | {
    "bench.store.claims",
    "bench.store.leases",
    "bench.store.inventory",
    "bench.store.cleanup",
    "bench.store.verify",
    "bench.pipeline.missing_inputs",
}
INERT |= {"bench.doctor", "bench.checks"}


class Settings(BaseModel):
    """A frozen model that refuses unknown fields: the base of stages, methods and every other setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def not_semantic(default: Any, *, word: bool = False, **kwargs: Any) -> Any:
    """Return a pydantic field that never enters a key: where or how fast, not what.

    A text in it is taken for a place on disk, which no report that is passed on names, unless it is a `word`.
    """
    return Field(default, json_schema_extra={"semantic": False, "word": word}, **kwargs)


@dataclass(frozen=True)
class Resources:
    """What one computation of a stage asks of a machine (read by executors, never part of a key)."""

    gpu: bool = False
    cpus: int = 1
    memory_gb: float = 4.0
    minutes: int = 1


class Work(Protocol):
    """What a stage is given while it computes; `bench.store.store` has the one implementation outside of tests.

    Attributes:
        out: the folder to write the result's files into, empty at the start of every attempt.
        ckpt: a folder that is kept between attempts, for checkpoints.
    """

    out: Path
    ckpt: Path

    @property
    def device(self) -> str:
        """The torch device to compute on: `cpu`, `cuda`, `cuda:1` or `mps`."""

    def get(self, stage: Stage) -> Any:
        """Return the result of an input, computing it first if it is not there."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Tell how far the computation is; cheap enough to be called at every step."""


class Stage(Settings):
    """One step: `compute` fills a folder, `open` reads it back. Subclasses bump `version` when meaning changes."""

    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources()

    def compute(self, work: Work) -> None:
        """Write the result's files into `work.out`; read inputs with `work.get(stage)`."""
        raise TypeError(f"{type(self).__name__} does not say how it is computed")

    def open(self, folder: Path) -> Any:
        """Return the finished result in `folder` (memory-mapped where it is large)."""
        return folder

    def size(self) -> int | None:
        """Return how many images a computation passes through, or None where that is not known before it runs.

        Seconds and bytes of one computation are scaled to another of its kind by the ratio of their sizes. Unless a
        stage says otherwise, it passes once through the data set below it.
        """
        sizes = [s.size() for s in walk([self])[:-1] if not s.inputs()]
        return max((n for n in sizes if n is not None), default=None)

    def __hash__(self) -> int:
        """Hash by key, so that stages with lists or dicts inside can stand in sets."""
        return hash(self.key)

    @functools.cached_property
    def key(self) -> str:
        """32 hex digits that stand for everything that decides the result; see `bench.pipeline.missing_inputs`."""
        key = key_of(self.identity)
        return f"{STANDS_IN}{key[1:]}" if are_allowed() and stands_in(self.identity) else key

    def require_inputs(self) -> None:
        """Refuse a stage that was planned without all of its inputs.

        Raises:
            ConfigError: saying so.
        """
        if self.key.startswith(STANDS_IN):
            raise ConfigError(f"{self.stage_name()} was planned without all of its inputs; plan it again to compute it")

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The JSON tree behind the key: class, version, full settings, inputs by their keys, modules by their digests.

        `code` holds the modules behind the stage and behind every model in its settings; see `code_digests`.
        """
        code: dict[str, str] = {}
        return _describe_model(self, code) | {"code": code}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with changes; it never inherits the key that was worked out for the original."""
        copied = super().model_copy(update=update, deep=deep)
        for name in ("key", "identity"):
            copied.__dict__.pop(name, None)
        return copied

    @classmethod
    def stage_name(cls) -> str:
        """Name of the stage's folder in the store."""
        return cls.__name__.lower()

    def inputs(self) -> list[Stage]:
        """Return the stages directly below this one, in field order, each once."""
        found = (s for name in type(self).model_fields for s in _stages_in(getattr(self, name)))
        return list({s.key: s for s in found}.values())


def _stages_in(value: Any) -> Iterator[Stage]:
    if isinstance(value, Stage):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _stages_in(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from _stages_in(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _stages_in(item)


def walk(targets: list[Stage]) -> list[Stage]:
    """Return `targets` and everything below them, each once, inputs before what needs them."""
    seen: dict[str, Stage] = {}

    def visit(stage: Stage) -> None:
        if stage.key not in seen:
            for below in stage.inputs():
                visit(below)
            seen[stage.key] = stage

    for target in targets:
        visit(target)
    return list(seen.values())


def canonical_json(value: Any) -> str:
    """Return JSON that is equal for equal values: sorted keys, repr floats, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(identity: dict[str, Any]) -> str:
    """Return the key that an identity stands for."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:32]


def _describe(value: Any, code: dict[str, str]) -> Any:
    if isinstance(value, Stage):
        return {"stage": value.stage_name(), "key": value.key}
    if isinstance(value, BaseModel):
        return _describe_model(value, code)
    if isinstance(value, dict):
        return {str(k): _describe(v, code) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_describe(v, code) for v in value]
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise TypeError(f"a {type(value).__name__} cannot be part of a stage's key (a path means a place, not a content)")


def _describe_model(model: BaseModel, code: dict[str, str]) -> dict[str, Any]:
    """Return what a model says, and add the modules behind its class to `code`."""
    cls = type(model)
    code.update(code_digests(cls))
    fields = {
        name: _describe(getattr(model, name), code) for name, info in cls.model_fields.items() if is_semantic(info)
    }
    facts = {"class": f"{cls.__module__}.{cls.__qualname__}", "version": getattr(cls, "version", 1)}
    if hidden := sorted(fields.keys() & (facts.keys() | {"code", "content"})):
        raise TypeError(f"{cls.__name__}: a setting cannot be called '{hidden[0]}', the key has a part of that name")
    described = facts | fields
    content = getattr(model, "content", None)  # data on disk enters by what it holds, not by where it lies
    if callable(content):
        with noting(model):
            described["content"] = content()
        if "content" not in described:
            described["content"] = {STANDS_IN: hashlib.sha256(place_of(model).encode()).hexdigest()[:32]}
    return described


@functools.cache
def code_digests(cls: type) -> dict[str, str]:
    """Return module → digest of the code that gives `cls` its meaning.

    That is its module and every module of ours that it imports, directly or through others, but for `INERT`.
    Digests are of the syntax tree without docstrings: comments, formatting and documentation do not count.
    """
    if cls.__module__ not in INERT and _source(cls.__module__) is None:
        # without its code in the key, a changed stage would be answered with an old result
        raise TypeError(f"the code of {cls.__name__} cannot be read ({cls.__module__}); put it into a module's file")
    return {name: _code(name)[0] for name in sorted(modules_behind(cls.__module__))}


@functools.cache
def modules_behind(module: str) -> frozenset[str]:
    """Return the names of our modules that `module` depends on, itself included. Ours are those of no library."""
    own = module.partition(".")[0]
    seen: set[str] = set()
    todo = [module]
    while todo:
        name = todo.pop()
        root = name.partition(".")[0]
        if name in seen or name in INERT or not (root == own or _is_ours(root)) or _source(name) is None:
            continue
        seen.add(name)
        todo.extend(_code(name)[1])
    return frozenset(seen)


@functools.cache
def _is_ours(root: str) -> bool:
    """Tell whether a package is edited here: of a library, only its version could change (manifests hold it)."""
    if root in ("bench", "methods"):
        return True
    spec = None if root in sys.stdlib_module_names else _spec(root)
    if spec is None:
        return False
    places = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    return not any(part in ("site-packages", "dist-packages") for place in places for part in Path(place).parts)


@functools.cache
def _spec(module: str) -> ModuleSpec | None:
    """Find a module without importing it or its parents: they may be heavy, or broken."""
    parent = module.rpartition(".")[0]
    if not parent:
        try:
            return importlib.util.find_spec(module)
        except ValueError:  # `__main__` and modules made by hand have none
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


@functools.cache
def _code(module: str) -> tuple[str, tuple[str, ...]]:
    """Return the digest of a module and the names that it imports, anywhere in it; `from a import b`: `a` and `a.b`.

    An import by a name that is only worked out while the module runs is not seen.
    """
    tree = ast.parse(_source(module) or "")
    nodes = list(ast.walk(tree))
    imports = tuple(name for node in nodes for name in _imported(module, node))
    for node in nodes:
        body = getattr(node, "body", None)
        holds_docstring = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if holds_docstring and body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
            node.body = body[1:] or [ast.Pass()]  # type: ignore[attr-defined]
    # the tree is not kept: the trees of all modules take a process as long to take down as to build
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16], imports


def _imported(module: str, node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        base = node.module or ""
        if node.level:
            parts = module.split(".")
            package = parts[: len(parts) + _is_package(module) - node.level]
            base = ".".join([*package, *([base] if base else [])])
        yield from (base, *(f"{base}.{alias.name}" for alias in node.names))
    elif isinstance(node, ast.Call) and _name_of(node.func) in ("import_module", "__import__"):
        yield from (str(a.value) for a in node.args[:1] if isinstance(a, ast.Constant))


def _name_of(called: ast.expr) -> str | None:
    return getattr(called, "attr", getattr(called, "id", None))


def _is_package(module: str) -> bool:
    spec = _spec(module)
    return bool(spec and spec.submodule_search_locations is not None)
