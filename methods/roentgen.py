"""RoentGen (Chambon et al. 2022): sample images from noise and a prompt, with all steps of the schedule."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.contract import (
    AugmentedBatch,
    Context,
    Float32,
    GuidanceScale,
    Method,
    Stage,
    Task,
    lost_detail,
    with_detail,
)


class Roentgen(Method):
    """Sample images from noise and a prompt; the labels are the findings that the prompt names.

    With `parent_labels` the prompt names the observed labels of a train image, drawn among those with the target
    class. So findings occur together as often as in real images. That image is the parent, though only its labels are
    used; labels that are unknown for it stay unknown. With `target_only` the prompt names the target class only, every
    other label is 0, and there is no parent.
    """

    name: ClassVar[str] = "roentgen"
    at: ClassVar[str] = "num_inference_steps"
    uses_diffusion: ClassVar[bool] = True

    num_inference_steps: int = Field(75, ge=1, le=1000, description="length of the schedule; all steps are run")
    guidance_scale: GuidanceScale | None = Field(
        None, description="classifier-free guidance; 1 is none, null is the diffusion model's own"
    )
    prompt: Literal["parent_labels", "target_only"] = Field(
        "parent_labels", description="what the prompt names: a parent's labels, or the target class only"
    )

    detail: Literal["none", "random"] = Field(
        "none", description="texture to add back: none, or what the VAE loses of a random train image"
    )

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Return the latents of the train images, if detail of these is added."""
        return {} if self.detail == "none" else {"latents": task.latents}

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the sampled images."""
        model = ctx.diffusion
        shape = model.latent_shape(ctx.train.images.image_px)
        guidance = model.guidance_scale if self.guidance_scale is None else self.guidance_scale
        for index in ctx.batches(model.batch_size):

            def tell(done: float, index: np.ndarray = index) -> None:
                # A batch of 75 steps takes long, so progress is reported after each step and not after each batch.
                ctx.progress(index[0] + len(index) * min(1, done / (self.num_inference_steps + 1)))

            # The noise is drawn before the parent, so that both kinds of prompt start from the same noise.
            generators = [ctx.rng(i) for i in index]
            noise = np.stack([rng.standard_normal(shape, dtype=np.float32) for rng in generators])
            asked = [self._ask(ctx, ctx.samples[i], rng) for i, rng in zip(index, generators, strict=True)]
            labels = np.stack([a[0] for a in asked])
            prompts = [model.prompt(ctx.train.class_names, row) for row in labels]
            latents = model.sample(prompts, noise, self.num_inference_steps, guidance, tell)
            parents = np.array([[a[1]] for a in asked], dtype=np.int64)
            images = model.decode(latents)
            if self.detail == "random":
                donors = np.array([rng.integers(len(ctx.train)) for rng in generators])
                images = with_detail(images, lost_detail(ctx, ctx.inputs["latents"], donors))
            yield AugmentedBatch(images, labels, parents)

    def _ask(self, ctx: Context, target: int, rng: np.random.Generator) -> tuple[Float32, int]:
        """Return the labels to name in the prompt, `float32 [C]`, and the train row that they come from (-1: none)."""
        if self.prompt == "target_only":
            return np.eye(len(ctx.train.class_names), dtype=np.float32)[target], -1
        row = int(rng.choice(ctx.train.rows_with(target)))
        return ctx.train.labels[row], row

    @classmethod
    def toy(cls) -> Roentgen:
        """Return the method with two steps instead of 75."""
        return cls(num_inference_steps=2)
