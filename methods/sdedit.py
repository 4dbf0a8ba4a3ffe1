"""SDEdit (Meng et al. 2022): add some noise to real tail images and denoise them with a prompt of their own labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.contract import (
    AugmentedBatch,
    ConfigError,
    Context,
    GuidanceScale,
    Int64,
    Method,
    Stage,
    Task,
    TrainSet,
    UInt8,
    listed,
    lost_detail,
    nearest,
    with_detail,
)
from methods.duplicate import copied_rows


class Sdedit(Method):
    """Redraw real tail images: noise the latent to where the last `denoise_steps` begin, then denoise it.

    Few steps stay close to the parent; all steps are nearly a sample from noise. Prompt and labels are the observed
    labels of the parent. Parents are taken in turn, just as the control `duplicate` copies them.

    `detail` adds the texture back that the VAE drops (`bench.augment.detail` says why).
    """

    name: ClassVar[str] = "sdedit"
    at: ClassVar[str | None] = "denoise_steps"
    uses_diffusion: ClassVar[bool] = True

    denoise_steps: int = Field(
        12, ge=0, description="number of last steps of the schedule that are run; 0 with the parent's detail is a copy"
    )
    num_inference_steps: int = Field(25, ge=1, le=1000, description="length of the schedule")
    guidance_scale: GuidanceScale = Field(2.0, description="classifier-free guidance; 1 is none")
    detail: Literal["none", "parent", "random"] = Field(
        "parent", description="texture to add back: what the VAE loses of the parent, or of a random train image"
    )
    copies: list[str] = Field([], description="classes that the model cannot draw; they get copies of real images")

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Return the latents of the train images."""
        return {"latents": task.latents}

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the redrawn images. The parent of a sample is the train row that it was redrawn from.

        Raises:
            ConfigError: if `copies` names a class that the data set does not have.
        """
        copied = np.isin(ctx.samples, self._copied_classes(ctx.train))
        rows = copied_rows(ctx)
        for index in ctx.batches(ctx.diffusion.batch_size):
            parents = rows[index]
            images = ctx.train.images[parents]
            if (redrawn := ~copied[index]).any():
                images[redrawn] = self._redraw(ctx, index[redrawn], parents[redrawn])
            yield AugmentedBatch(images, ctx.train.labels[parents], parents[:, None])

    def _copied_classes(self, train: TrainSet) -> list[int]:
        for name in self.copies:
            if name not in train.class_names:
                hint = nearest(name, train.class_names)
                raise ConfigError(f"sdedit.copies: no class '{name}'{hint} (have: {listed(train.class_names)})")
        return [train.class_names.index(name) for name in self.copies]

    def _redraw(self, ctx: Context, index: Int64, parents: Int64) -> UInt8:
        """Return the `parents` redrawn as the samples `index`."""
        diffusion, clean = ctx.diffusion, ctx.inputs["latents"].mean
        generators = [ctx.rng(int(i)) for i in index]
        noise = np.stack([rng.standard_normal(clean.shape[1:], dtype=np.float32) for rng in generators])
        prompts = [diffusion.prompt(ctx.train.class_names, row) for row in ctx.train.labels[parents]]
        latents = diffusion.denoise(
            clean[parents], prompts, noise, self.denoise_steps, self.num_inference_steps, self.guidance_scale
        )
        images = diffusion.decode(latents)
        if self.detail == "none":
            return images
        donors = parents
        if self.detail == "random":
            donors = np.array([rng.integers(len(ctx.train)) for rng in generators])
        return with_detail(images, lost_detail(ctx, ctx.inputs["latents"], donors))

    @classmethod
    def toy(cls) -> Sdedit:
        """Return the method with one step of a schedule of two."""
        return cls(denoise_steps=1, num_inference_steps=2)
