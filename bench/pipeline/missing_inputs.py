"""Planning without data and weights: what stands in keys for files that are not there, so that a plan can be shown.

Such keys begin with `?`, as no digest does, and nothing computes under them. Where nothing is missing, keys are the
usual ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bench.errors import BenchError

STANDS_IN = "?"


@dataclass(frozen=True)
class Absent:
    """Something on disk that a plan was made without: the model that names it, and what is wrong with it."""

    model: BaseModel
    error: Exception


_NOTED: ContextVar[list[Absent] | None] = ContextVar("noted", default=None)


@contextlib.contextmanager
def placeholders() -> Iterator[list[Absent]]:
    """Let stages be planned whose data or weights are not there, and note in the list given what is missing.

    A key is worked out when it is first asked for: ask inside of the block.
    """
    noted: list[Absent] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def are_allowed() -> bool:
    """Tell whether placeholders may stand in keys."""
    return _NOTED.get() is not None


@contextlib.contextmanager
def noting(model: BaseModel) -> Iterator[None]:
    """Note what is raised of a model's files where placeholders are allowed; elsewhere it is raised."""
    noted = _NOTED.get()
    try:
        yield
    except (BenchError, OSError) as error:
        if noted is None:
            raise
        noted.append(Absent(model, error))


def is_semantic(info: FieldInfo) -> bool:
    """Tell whether a field of a model enters keys."""
    return bool((info.json_schema_extra or {}).get("semantic", True))  # type: ignore[union-attr]


def place_of(model: BaseModel) -> str:
    """Return where a model looks: its settings that never enter a key. Equal places are one input."""
    cls = type(model)
    given = {name: getattr(model, name) for name, info in cls.model_fields.items() if not is_semantic(info)}
    return f"{cls.__module__}.{cls.__qualname__} {given!r}"


def stands_in(described: Any) -> bool:
    """Tell whether there is a placeholder in a stage's identity, or below it a stage with one."""
    if isinstance(described, dict):
        below = described.get("key") if "stage" in described else None
        found = STANDS_IN in described or (isinstance(below, str) and below.startswith(STANDS_IN))
        return found or any(stands_in(v) for v in described.values())
    return isinstance(described, list) and any(stands_in(v) for v in described)
