"""The stage: a frozen configuration that is also a step of the pipeline, and the key it is stored under.

A stage is a pydantic model. Plain fields are its settings, fields that hold stages (also inside lists, dicts and
other models) are its inputs. Its key is the digest of that whole tree and of the code that gives it meaning, so
two cells that ask for the same thing share it, and a changed setting, default or helper module can never be
answered with an old result.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from bench.errors import ConfigError
from bench.pipeline.key import Keyed
from bench.pipeline.missing_inputs import MISSING_MARK

AFFECTS_RESULTS = False


@dataclass(frozen=True)
class Resources:
    """What one computation of a stage asks of a machine (read by executors, never part of a key)."""

    gpu: bool = False
    cpus: int = 1
    memory_gb: float = 4.0
    minutes: int = 1


class Work(Protocol):
    """What a stage is given while it computes; `bench.store.work` has the one implementation outside of tests.

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
        """Report how far the computation is; cheap enough to be called at every step."""


class Stage(Keyed):
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

    def measured_as(self) -> str:
        """Return the name under which computations of this kind are measured: stages of one name scale alike."""
        return self.stage_name()

    def require_inputs(self) -> None:
        """Refuse a stage that was planned without all of its inputs.

        Raises:
            ConfigError: naming the stage.
        """
        if self.key.startswith(MISSING_MARK):
            raise ConfigError(f"{self.stage_name()} was planned without all of its inputs; plan it again to compute it")

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


class FinishedStages(Protocol):
    """Knows which stages are finished: a store, or what was seen of one."""

    def has(self, stage: Stage) -> bool:
        """Tell whether `stage` is finished."""


def unfinished(targets: list[Stage], store: FinishedStages) -> list[Stage]:
    """Return the stages that a run would still have to compute for `targets`, each once, inputs first."""
    found: dict[str, Stage | None] = {}

    def visit(stage: Stage) -> None:
        if stage.key in found or store.has(stage):
            return
        found[stage.key] = None
        for below in stage.inputs():
            visit(below)
        del found[stage.key]  # set again, behind its inputs
        found[stage.key] = stage

    for target in targets:
        visit(target)
    return [stage for stage in found.values() if stage is not None]
