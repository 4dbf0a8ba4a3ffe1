"""The stage: a frozen configuration that is also a step of the pipeline.

A stage is a pydantic model. Its plain fields are its settings. Its fields that hold stages, also inside lists, dicts
and other models, are its inputs. Its key is the digest of that whole tree and of the code that gives it meaning. So two
cells that need the same result share it, and a changed setting, default or helper module never gets an old result.
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
from bench.pipeline.settings import PLAIN

AFFECTS_RESULTS = False


@dataclass(frozen=True)
class Resources:
    """What one computation of a stage needs of a machine. Executors read it; it is never part of a key."""

    gpu: bool = False
    cpus: int = 1
    memory_gb: float = 4.0
    minutes: int = 1


class Work(Protocol):
    """What a stage is given while it computes. `bench.store.work` has the only implementation outside of tests.

    It is a protocol here so that stages need not import the store.

    Attributes:
        out: the folder for the files of the result. It is empty at the start of every attempt.
        ckpt: a folder for checkpoints. It is kept from one attempt to the next.
    """

    out: Path
    ckpt: Path

    @property
    def device(self) -> str:
        """The torch device to compute on: `cpu`, `cuda`, `cuda:1` or `mps`."""

    def get(self, stage: Stage) -> Any:
        """Return the result of an input stage. It is computed first if it is not in the store."""

    def progress(self, done: float, total: float, note: str = "") -> None:
        """Report how far the computation is. It is cheap enough to be called at every step."""


class Stage(Keyed):
    """One step of the pipeline: `compute` writes a folder of files, and `open` reads it back.

    A subclass raises `version` when the meaning of its result changes although its code does not.
    """

    version: ClassVar[int] = 1
    resources: ClassVar[Resources] = Resources()

    def compute(self, work: Work) -> None:
        """Write the result's files into `work.out`; read inputs with `work.get(stage)`."""
        raise TypeError(f"{type(self).__name__} does not say how it is computed")

    def open(self, folder: Path) -> Any:
        """Return the finished result in `folder`. Large arrays are memory-mapped."""
        return folder

    def size(self) -> int | None:
        """Return how many images one computation processes, or None if that is not known before it runs.

        Estimates scale the seconds and bytes of one computation to another of its kind by the ratio of their sizes.
        By default, the size is that of the data set below the stage.
        """
        sizes = [s.size() for s in walk([self])[:-1] if not s.inputs()]
        return max((n for n in sizes if n is not None), default=None)

    def measured_as(self) -> str:
        """Return the name under which computations of this kind are measured: stages of one name scale alike."""
        return self.stage_name()

    def require_inputs(self) -> None:
        """Refuse to compute a stage that was planned while an input was missing.

        Raises:
            ConfigError: if the stage was planned so. The message names it.
        """
        if self.key.startswith(MISSING_MARK):
            raise ConfigError(f"{self.stage_name()} was planned without all of its inputs; plan it again to compute it")

    def inputs(self) -> list[Stage]:
        """Return the stages directly below this one, in field order, each once."""
        found = (s for name in type(self).model_fields for s in _stages_in(getattr(self, name)))
        return list({s.key: s for s in found}.values())


def _stages_in(value: Any) -> Iterator[Stage]:
    if type(value) in PLAIN:
        return
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
    """Return `targets` and all stages below them, each once, and every input before the stages that need it."""
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
    """Something that knows which stages are finished, such as a store."""

    def has(self, stage: Stage) -> bool:
        """Tell whether `stage` is finished."""


def unfinished(targets: list[Stage], store: FinishedStages) -> list[Stage]:
    """Return the stages that a run would still have to compute for `targets`, each once, inputs first."""
    # The inputs of a finished stage are not visited. They may have been cleaned up, and nothing needs them any more.
    found: dict[str, Stage | None] = {}

    def visit(stage: Stage) -> None:
        if stage.key in found or store.has(stage):
            return
        found[stage.key] = None
        for below in stage.inputs():
            visit(below)
        del found[stage.key]  # and insert it again, so that it stands behind its inputs
        found[stage.key] = stage

    for target in targets:
        visit(target)
    return [stage for stage in found.values() if stage is not None]
