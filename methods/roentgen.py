"""RoentGen (Chambon et al. 2022): plain text-conditioned sampling from noise, all steps of the schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.contract import AugmentedBatch, Context, Float32, Method


class Roentgen(Method):
    """Ask the diffusion model for an image in words; the labels are what the words say.

    With `parent_labels` the words are the observed labels of a train image drawn among those of the target class,
    which keeps the co-occurrence of findings; that image is the parent, though only its labels are used, and what is
    unknown of it stays unknown. With `target_only` the words are the class alone, every other label is 0, and there
    is no parent.
    """

    name: ClassVar[str] = "roentgen"
    at: ClassVar[str] = "num_inference_steps"
    uses_diffusion: ClassVar[bool] = True

    num_inference_steps: int = Field(75, ge=1, le=1000, description="length of the schedule, all of it run")
    guidance_scale: float | None = Field(
        None, ge=0, description="of classifier-free guidance; 1 is none, null the diffusion model's own"
    )
    prompt: Literal["parent_labels", "target_only"] = Field("parent_labels", description="what the words name")

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the sampled images."""
        model = ctx.diffusion
        shape = model.latent_shape(ctx.train.images.image_px)
        guidance = model.guidance_scale if self.guidance_scale is None else self.guidance_scale
        for index in ctx.batches(model.batch_size):

            def tell(done: float, index: np.ndarray = index) -> None:  # a batch of 75 steps is long: tell each step
                ctx.progress(index[0] + len(index) * min(1, done / (self.num_inference_steps + 1)))

            # the noise is drawn first, so that it is the same whatever the words
            generators = [ctx.rng(i) for i in index]
            noise = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in generators])
            asked = [self._ask(ctx, ctx.samples[i], rng) for i, rng in zip(index, generators, strict=True)]
            labels = np.stack([a[0] for a in asked])
            prompts = [model.prompt(ctx.train.class_names, row) for row in labels]
            latents = model.sample(prompts, noise, self.num_inference_steps, guidance, tell)
            parents = np.array([[a[1]] for a in asked], dtype=np.int64)
            yield AugmentedBatch(model.decode(latents), labels, parents)

    def _ask(self, ctx: Context, target: int, rng: np.random.Generator) -> tuple[Float32, int]:
        """Return the labels `float32 [C]` to ask for, and the train row they are of (-1: none)."""
        if self.prompt == "target_only":
            return np.eye(len(ctx.train.class_names), dtype=np.float32)[target], -1
        row = int(rng.choice(ctx.train.rows_with(target)))
        return ctx.train.labels[row], row

    @classmethod
    def toy(cls) -> Roentgen:
        """Return two steps instead of 75."""
        return cls(num_inference_steps=2)
