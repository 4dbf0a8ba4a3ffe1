"""The key of a stage: a digest of its settings, of the keys of its inputs, and of the code behind it."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel

from bench.errors import BenchError
from bench.pipeline.code import code_digests
from bench.pipeline.missing_inputs import MISSING_MARK, has_missing_mark, may_be_missing, noting_missing
from bench.pipeline.settings import PLAIN, Settings, is_semantic, place_of

AFFECTS_RESULTS = False


class Keyed(Settings):
    """Settings with a key. This is the part of a stage that needs neither a store nor a computation."""

    def __hash__(self) -> int:
        """Hash by key, so that stages with lists or dicts inside can be put into sets."""
        return hash(self.key)

    @functools.cached_property
    def key(self) -> str:
        """32 hex digits that stand for everything that decides the result.

        The first digit is `?` if an input is missing; see `bench.pipeline.missing_inputs`.
        """
        key = key_of(self.identity)
        return f"{MISSING_MARK}{key[1:]}" if may_be_missing() and has_missing_mark(self.identity) else key

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """The JSON tree behind the key: class, version, all settings, the inputs' keys, and the modules' digests.

        `code` holds the modules behind the stage and behind every model in its settings; see `code_digests`.
        """
        # One mapping for all models: most of them share their modules, and each module must stand in the key only once.
        code: dict[str, str] = {}
        return _describe_model(self, code) | {"code": code}

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Return a copy with changes. The copy gets a key of its own."""
        # pydantic copies `__dict__`, which holds the cached properties. Without this, a changed copy would keep the
        # original's key and be given its result.
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    @classmethod
    def stage_name(cls) -> str:
        """Return the name of the stage's folder in the store, which is the class name in lower case."""
        return cls.__name__.lower()


def canonical_json(value: Any) -> str:
    """Return JSON text that is equal for equal values: keys are sorted, floats are exact, and NaN is refused."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def key_of(identity: dict[str, Any]) -> str:
    """Return the key that an identity stands for."""
    return hashlib.sha256(canonical_json(identity).encode()).hexdigest()[:32]


def content_of(model: BaseModel) -> dict[str, str]:
    """Return the digests that stand in keys for the weights that settings name, or an empty mapping."""
    content = getattr(model, "content", None)
    if not callable(content) or isinstance(model, Keyed):  # a data set is a stage: its key holds its digest already
        return {}
    try:
        return dict(content())
    except (BenchError, OSError):  # the weights are missing, and no stage of this cell needs them
        return {}


def _describe(value: Any, code: dict[str, str]) -> Any:
    if type(value) in PLAIN:  # first, for most are, and whether they are models takes longer to tell
        return value
    if isinstance(value, Keyed):
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


@functools.cache
def _semantic_fields(cls: type[BaseModel]) -> tuple[str, ...]:
    return tuple(name for name, info in cls.model_fields.items() if is_semantic(info))


def _describe_model(model: BaseModel, code: dict[str, str]) -> dict[str, Any]:
    """Return the JSON tree of a model for a key, and add the modules behind its class to `code`."""
    cls = type(model)
    code.update(code_digests(cls))
    fields = {name: _describe(getattr(model, name), code) for name in _semantic_fields(cls)}
    facts = {"class": f"{cls.__module__}.{cls.__qualname__}", "version": getattr(cls, "version", 1)}
    if hidden := sorted(fields.keys() & (facts.keys() | {"code", "content"})):
        raise TypeError(f"{cls.__name__}: a setting cannot be called '{hidden[0]}', the key has a part of that name")
    described = facts | fields
    # A file on disk enters the key by its digest and never by its path. So a data set can move without a new key, and
    # a changed file under an old path gets a new one.
    content = getattr(model, "content", None)
    if callable(content):
        with noting_missing(model):
            described["content"] = content()
        if "content" not in described:
            described["content"] = {MISSING_MARK: hashlib.sha256(place_of(model).encode()).hexdigest()[:32]}
    return described
