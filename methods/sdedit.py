"""SDEdit (Meng et al. 2022): real tail images, noised part of the way and denoised under their own labels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.contract import (
    AugmentedBatch,
    ConfigError,
    Context,
    Int64,
    Method,
    Stage,
    Task,
    TrainSet,
    UInt8,
    listed,
    nearest,
)
from methods.duplicate import copied_rows


class Sdedit(Method):
    """Redraw a real tail image: noise its latent to where the last `denoise_steps` begin, then denoise it.

    Few steps stay close to the parent, all of them are nearly a sample from noise. Prompt and labels are the parent's
    observed ones; parents are taken in turn, as the control `duplicate` copies them. A VAE drops what it takes for
    noise, so that its images are smoother than real ones and texture gives synthetic images, most of them of the tail,
    away; `detail` adds it back.
    """

    name: ClassVar[str] = "sdedit"
    at: ClassVar[str | None] = "denoise_steps"
    uses_diffusion: ClassVar[bool] = True

    denoise_steps: int = Field(
        12, ge=0, description="how many of the last steps of the schedule are run; 0 and the parent's detail = a copy"
    )
    num_inference_steps: int = Field(25, ge=1, le=1000, description="length of the schedule")
    guidance_scale: float = Field(2.0, ge=0, le=100, description="classifier-free guidance; 1 is none")
    detail: Literal["none", "parent", "random"] = Field(
        "parent", description="add what the VAE loses of the parent, or of a random train image"
    )
    copies: list[str] = Field([], description="classes that get copies of real images: those the model cannot draw")

    @model_validator(mode="after")
    def _steps_fit(self) -> Sdedit:
        if self.denoise_steps > self.num_inference_steps:
            raise ValueError(
                f"denoise_steps: {self.denoise_steps} is more than num_inference_steps = {self.num_inference_steps}"
            )
        return self

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Name the latents of the train images."""
        return {"latents": task.latents}

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the redrawn images; a sample's parent is the image that it was redrawn from.

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
        """Return `uint8 [b, H, W]`, the parents redrawn as samples `index`; each has its own generator."""
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
        lost = ctx.train.images[donors].astype(np.int16) - diffusion.decode(clean[donors])
        return np.clip(images + lost, 0, 255).astype(np.uint8)

    @classmethod
    def toy(cls) -> Sdedit:
        """Return one step of two."""
        return cls(denoise_steps=1, num_inference_steps=2)
