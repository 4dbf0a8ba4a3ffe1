"""Plan stages while data or weights are missing, so that `--dry-run` can show the plan before they are there.

The key of a stage holds digests of the files that it reads. If such a file is missing, a mark takes the place of its
digest, and every key that depends on it begins with `?`. No digest begins with `?`, so such a key can never be confused
with a real one, and nothing is computed under it. Keys that depend on no missing file are the usual ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel

from bench.errors import BenchError

AFFECTS_RESULTS = False

MISSING_MARK = "?"


@dataclass(frozen=True)
class Absent:
    """A missing input: the model that names it, and the error that says what is wrong with it."""

    model: BaseModel
    error: Exception


# A context variable and not an argument: keys are computed in properties, far below whoever plans. It is empty outside
# of `plan_without_inputs`, so a real run can never compute a stage under a key that lacks an input.
_NOTED: ContextVar[list[Absent] | None] = ContextVar("noted", default=None)


@contextlib.contextmanager
def plan_without_inputs() -> Iterator[list[Absent]]:
    """Allow stages to be planned without their data and weights; yield a list that collects what is missing.

    A key is computed when it is first asked for, so ask for all keys inside the block.
    """
    noted: list[Absent] = []
    token = _NOTED.set(noted)
    try:
        yield noted
    finally:
        _NOTED.reset(token)


def may_be_missing() -> bool:
    """Tell whether stages are being planned without their inputs."""
    return _NOTED.get() is not None


@contextlib.contextmanager
def noting_missing(model: BaseModel) -> Iterator[None]:
    """Record an error that reading a model's files raises, if inputs may be missing; otherwise raise it."""
    noted = _NOTED.get()
    try:
        yield
    except (BenchError, OSError) as error:
        if noted is None:
            raise
        noted.append(Absent(model, error))


def has_missing_mark(described: Any) -> bool:
    """Tell whether a stage's identity holds the mark, or names an input whose key begins with it."""
    if isinstance(described, dict):
        below = described.get("key") if "stage" in described else None
        found = MISSING_MARK in described or (isinstance(below, str) and below.startswith(MISSING_MARK))
        return found or any(has_missing_mark(v) for v in described.values())
    return isinstance(described, list) and any(has_missing_mark(v) for v in described)
