"""A method of augmentation: what it is asked, what it is given, and what it yields."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, SerializeAsAny

from bench import seeds
from bench.augment.label_policies import LabelPolicy
from bench.augment.latents import Latents
from bench.data.split import Train
from bench.diffusion.model import DiffusionModel
from bench.diffusion.pipeline import Diffusion
from bench.errors import ConfigError, listed, nearest
from bench.pipeline.settings import Settings
from bench.pipeline.stage import Stage
from bench.tables import AugmentedBatch, Int64, TrainSet


class Plan(Settings):
    """How many images to make for which class; `per_class` for every tail class unless `counts` names it."""

    per_class: int = Field(40, ge=0)
    counts: dict[str, Annotated[int, Field(ge=0)]] = {}

    def resolve(self, train: TrainSet) -> dict[str, int]:
        """Return class name → number to make, in the order of `train.tail`; classes with none are left out.

        Raises:
            ConfigError: if `counts` names a class that the data set does not have.
        """
        self.check(train.class_names)
        return {name: n for name, n in self._wanted(train.tail).items() if n > 0}

    def size(self, train: Train) -> int | None:
        """Return the number of images in all, or None where the tail is not known before the data set is read."""
        found = train.split.dataset.known_size()
        return None if found is None else sum(self._wanted(found.tail).values())

    def _wanted(self, tail: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(tail, self.per_class) | self.counts

    def check(self, class_names: Sequence[str]) -> None:
        """Refuse a class that the data set does not have.

        Raises:
            ConfigError: naming it and the nearest valid name.
        """
        for name in self.counts:
            if name not in class_names:
                hint = nearest(name, class_names)
                have = listed(class_names)
                raise ConfigError(f"augment.counts: no class '{name}' in the data set{hint} (have: {have})")


class Task(Settings):
    """What a cell asks of a method, as stages that the method's own stages may have as inputs.

    `teacher`'s result is a `bench.classifier.classifier.TrainedClassifier`: this cell's control, trained with
    the same seed on real images alone. It is None for the control itself and in a matrix without one.
    """

    train: Train
    latents: Latents
    diffusion: DiffusionModel
    plan: Plan
    seed: int
    teacher: SerializeAsAny[Stage] | None = None


@dataclass(frozen=True)
class Context:
    """What `augment` is given.

    Attributes:
        train: the train split; everything in it is read-only.
        plan: class name → number of images to make.
        samples: `int64 [n]`, the target class (column) of every image to make, in order.
        inputs: results of the stages that `Method.inputs` named, by the same names.
        seed: the seed of this method in this cell.
        device: torch device to compute on.
        progress: call `progress(done)` with the number of samples made (fractions are welcome).
        start: the first sample to make; those before it were made before a kill. `batches` knows.
    """

    train: TrainSet
    plan: dict[str, int]
    samples: Int64
    inputs: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    progress: Callable[[float], None] = lambda done: None
    batch_size: int | None = None
    start: int = 0
    diffusion_model: DiffusionModel | None = None

    @property
    def diffusion(self) -> Diffusion:
        """The loaded diffusion model, for a method with `uses_diffusion = True`."""
        if self.diffusion_model is None:
            raise TypeError("this method asks for the diffusion model: set `uses_diffusion = True` on its class")
        return self.diffusion_model.load(self.device)

    def rng(self, i: int) -> np.random.Generator:
        """Return the generator of sample i: the same whatever the batch size, device count or point of resume."""
        return seeds.rng(self.seed, "sample", int(i))

    def batches(self, size: int) -> Iterator[Int64]:
        """Yield the numbers of the samples to make, in order, `size` (or the harness's own size) at a time."""
        size = self.batch_size or size
        for begin in range(self.start, len(self.samples), size):
            end = min(begin + size, len(self.samples))
            yield np.arange(begin, end)
            self.progress(end)


class Method(Settings, ABC):
    """A method: its fields are its settings, its class variables are facts about it.

    `labels` is the harness's business: `augment` yields the method's own labels, other policies are made from the
    samples' parents (`bench.augment.label_policies`), and images are shared by all of them.
    """

    name: ClassVar[str]  # lower case, unique; what a matrix file says
    version: ClassVar[int] = 1  # raise it when the same settings give other images
    at: ClassVar[str | None] = None  # the field that `name@value` sets
    makes_images: ClassVar[bool] = True  # False: the plan is empty (a control that adds nothing)
    uses_diffusion: ClassVar[bool] = False  # True: `ctx.diffusion` is there, and its weights enter the key
    presets: ClassVar[dict[str, dict[str, Any]]] = {}  # name -> settings, which a matrix row's `preset` chooses

    labels: LabelPolicy = Field("own", description="label policy; own = what the method itself says")

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Name the stages whose results `augment` needs; a heavy step that variants share belongs here."""
        return {}

    @abstractmethod
    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the samples of `ctx.samples` from `ctx.start` on, in order, in batches of any size.

        Each batch is kept as soon as it is yielded: a killed computation goes on behind the last one.
        """

    def diagnostics(self, task: Task) -> Stage | None:
        """Return a stage that judges the method's inner steps, or None.

        Its result is a flat dict, name → number or None, shown beside the scores of the cell.
        """
        return None

    def skip(self, train: TrainSet) -> str | None:
        """Return why the method cannot serve this train split, or None. A skip is reported, never an error."""
        return None

    def check(self, latent_px: int) -> None:
        """Refuse, before anything is computed, settings that cannot work with latents of `latent_px` sites a side.

        Asked of a method that uses the diffusion model or latents, where the side of the images is known.

        Raises:
            ConfigError: naming the setting and what is allowed.
        """

    @classmethod
    def toy(cls) -> Method:
        """Return the method with settings small enough for the conformance suite to run in seconds."""
        return cls()

    @property
    def label(self) -> str:
        """Name for tables: `ours@5`, or the plain name."""
        return f"{self.name}@{getattr(self, self.at)}" if self.at else self.name
