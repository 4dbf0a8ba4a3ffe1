"""The base class of methods, and what a method is given: the plan, the task of a cell and the context."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field, SerializeAsAny, model_validator

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
    """How many images to make of which class: `per_class` for each tail class, unless `counts` names the class."""

    per_class: int = Field(40, ge=0)
    counts: dict[str, Annotated[int, Field(ge=0)]] = {}

    def resolve(self, train: TrainSet) -> dict[str, int]:
        """Return class name → number of images to make, tail classes first; classes with no images are left out.

        Raises:
            ConfigError: if `counts` names a class that the data set does not have.
        """
        self.check(train.class_names)
        return {name: n for name, n in self._wanted(train.tail).items() if n > 0}

    def samples(self, train: TrainSet, tail_only: bool = False) -> Int64:
        """Return the target class (column) of every image to make, `int64 [n]`, in the order of `resolve`.

        Raises:
            ConfigError: as `resolve` does, and with `tail_only` if `counts` asks for a class that is not a tail class.
        """
        wanted = self.resolve(train)
        for name in wanted:
            if tail_only and name not in train.tail:
                tail = listed(train.tail)
                raise ConfigError(f"augment.counts: '{name}' is no tail class, as the method needs (those are: {tail})")
        return np.array([train.class_names.index(name) for name, n in wanted.items() for _ in range(n)], dtype=np.int64)

    def size(self, train: Train) -> int | None:
        """Return the total number of images, or None if the tail classes are unknown until the data set is read."""
        found = train.split.dataset.known_size()
        return None if found is None else sum(self._wanted(found.tail).values())

    def _wanted(self, tail: Sequence[str]) -> dict[str, int]:
        return dict.fromkeys(tail, self.per_class) | self.counts

    def check(self, class_names: Sequence[str]) -> None:
        """Check that the data set has every class in `counts`.

        Raises:
            ConfigError: if it lacks one. The message gives the nearest valid name.
        """
        for name in self.counts:
            if name not in class_names:
                hint = nearest(name, class_names)
                have = listed(class_names)
                raise ConfigError(f"augment.counts: no class '{name}' in the data set{hint} (have: {have})")


class Task(Settings):
    """What a cell asks of a method. The stages in it may be inputs of the method's own stages.

    The result of `teacher` is a `bench.classifier.classifier.TrainedClassifier`: the control of this cell, trained
    with the same seed on real images only. It is None for the control itself and in a matrix without a control.
    """

    train: Train
    latents: Latents
    diffusion: DiffusionModel
    plan: Plan
    seed: int
    teacher: SerializeAsAny[Stage] | None = None


@dataclass(frozen=True)
class Context:
    """The argument of `Method.augment`.

    Attributes:
        train: the train split; everything in it is read-only.
        plan: class name → number of images to make.
        samples: `int64 [n]`, the target class (column) of every image to make, in order.
        inputs: the results of the stages that `Method.inputs` named, under the same names.
        seed: the seed of this method in this cell.
        device: the torch device to compute on.
        progress: call `progress(done)` with the number of samples made; fractions are allowed.
        batch_size: if set, overrides the batch size that the method asks `batches` for.
        start: the first sample to make. Earlier samples were kept from a killed run. `batches` starts here.
        diffusion_model: the diffusion model's settings, if the method uses it. Use `diffusion` for the loaded model.
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
        """Return the loaded diffusion model; only for methods with `uses_diffusion = True`."""
        if self.diffusion_model is None:
            raise TypeError("this method uses the diffusion model: set `uses_diffusion = True` on its class")
        return self.diffusion_model.load(self.device, self.train.images.colour)

    def rng(self, i: int) -> np.random.Generator:
        """Return the random generator of sample i.

        Each sample has a generator of its own, so that a sample does not depend on the batch size, on the number of
        devices or on where a killed run resumed. One generator for all samples would make the images depend on all
        three.
        """
        return seeds.rng(self.seed, "sample", int(i))

    def batches(self, size: int) -> Iterator[Int64]:
        """Yield the indices of the samples to make, in order, `size` at a time (or `batch_size`, if it is set)."""
        size = self.batch_size or size
        for begin in range(self.start, len(self.samples), size):
            end = min(begin + size, len(self.samples))
            yield np.arange(begin, end)
            self.progress(end)


class Method(Settings, ABC):
    """A method of augmentation. Its fields are its settings, its class variables are facts about it.

    The harness handles `labels`. `augment` always yields the method's own labels; the other policies are applied
    afterwards (`bench.augment.label_policies`), so that all policies share the same images.
    """

    name: ClassVar[str]  # The name in matrix files: lower-case letters, digits and -; unique.
    version: ClassVar[int] = 1  # Raise it when the same settings give different images.
    at: ClassVar[str | None] = None  # The field that `name@value` sets.
    makes_images: ClassVar[bool] = True  # False for a control that adds nothing: its plan is empty.
    uses_diffusion: ClassVar[bool] = False  # True makes `ctx.diffusion` available and puts its weights in the key.
    tail_only: ClassVar[bool] = False  # True if it makes images of tail classes alone: a plan for others is refused.
    soft_labels: ClassVar[bool] = False  # True if its own labels can lie between 0 and 1, which some losses refuse.
    presets: ClassVar[dict[str, dict[str, Any]]] = {}  # Name → settings; a matrix row chooses one with `preset`.

    labels: LabelPolicy = Field("own", description="label policy; own = the labels that the method gives")

    @model_validator(mode="after")
    def _steps_fit(self) -> Self:
        """Check that `denoise_steps` are not more than `num_inference_steps`, if the method has both settings."""
        asked, length = (getattr(self, name, None) for name in ("denoise_steps", "num_inference_steps"))
        if isinstance(asked, int) and isinstance(length, int) and asked > length:
            raise ValueError(f"denoise_steps: {asked} is more than num_inference_steps = {length}")
        return self

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Return the stages whose results `augment` needs, by name. A heavy step that variants share belongs here."""
        return {}

    @abstractmethod
    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the samples of `ctx.samples` from `ctx.start` on, in order, in batches of any size.

        Each batch is stored as soon as it is yielded, and a killed computation resumes after the last stored batch.
        """

    def diagnostics(self, task: Task) -> Stage | None:
        """Return a stage that judges the method's inner steps, or None.

        The result of the stage is a flat dict, name → number or None. It is shown beside the scores of the cell.
        """
        return None

    def skip(self, train: TrainSet) -> str | None:
        """Return why the method cannot be used on this train split, or None. A skip is reported and is no error."""
        return None

    def check(self, latent_px: int) -> None:
        """Check that the settings work with square latents of side `latent_px`, before anything is computed.

        The harness calls this if the method uses the diffusion model or latents and the image size is known.

        Raises:
            ConfigError: if they do not. The message names the setting and what is allowed.
        """

    @property
    def schedule_length(self) -> int | None:
        """Return the length of the sampling schedule that the settings ask of the diffusion model, or None.

        The harness refuses a length that the model's scheduler cannot take, before anything is computed. By default
        it is the setting `num_inference_steps`, if the method has one.
        """
        return getattr(self, "num_inference_steps", None)

    @classmethod
    def toy(cls) -> Method:
        """Return the method with small settings, so that the conformance suite runs in seconds."""
        return cls()

    @property
    def label(self) -> str:
        """Return the name for tables: `ours@5`, or the plain name."""
        return f"{self.name}@{getattr(self, self.at)}" if self.at else self.name
