"""Erase: paint the head findings of a real tail image away, and keep its tail finding.

Rare findings seldom come alone, and a classifier may learn the company instead of the finding. Yang et al. (2025, arXiv
2512.20980) paint the findings of head classes away, with a model of normal images alone. Here the diffusion model is
asked for the image's tail findings only, at the sites where it sees the head findings.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.contract import (
    AugmentedBatch,
    Context,
    Float32,
    GuidanceScale,
    Int64,
    Method,
    PromptSaliency,
    PromptSaliencySettings,
    SaliencyTable,
    Stage,
    Task,
    at_pixels,
    lost_detail,
    over_images,
    soft_mask,
    with_detail,
)
from methods.duplicate import copied_rows


class Erase(Method):
    """Redraw the sites of the head findings of real tail images, under a prompt without these findings.

    A site is redrawn as far as the highest map of the image's head findings says (`soft_from` to `soft_to`). The rest
    is put back after each step. The labels are the parent's, with the erased findings absent. Parents are taken in
    turn, just as the control `duplicate` copies them. A parent without a head finding is copied; with `detail: none` it
    is as the VAE rebuilds it.

    This changes on purpose which findings occur together: see the co-occurrence gap beside FID.
    """

    name: ClassVar[str] = "erase"
    at: ClassVar[str | None] = "denoise_steps"
    uses_diffusion: ClassVar[bool] = True
    tail_only: ClassVar[bool] = True  # there are maps of tail images alone

    denoise_steps: int = Field(15, ge=1, description="number of last steps of the schedule that are run")
    num_inference_steps: int = Field(25, ge=1, le=1000, description="length of the schedule")
    guidance_scale: GuidanceScale = Field(2.0, description="classifier-free guidance; 1 is none")
    soft_from: float = Field(0.15, ge=0, lt=1, description="up to this value of the map, a site is kept")
    soft_to: float = Field(0.5, gt=0, le=1, description="from this value on, a site is redrawn")
    detail: Literal["none", "parent"] = Field(
        "parent", description="texture to add back: what the VAE loses of the parent, where it is kept"
    )
    saliency: PromptSaliencySettings = PromptSaliencySettings()

    @model_validator(mode="after")
    def _rises(self) -> Erase:
        if self.soft_from >= self.soft_to:
            raise ValueError(f"soft_from: {self.soft_from} is not below soft_to = {self.soft_to}")
        return self

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Return the latents of the train images, and the maps of the head findings."""
        maps = PromptSaliency(
            latents=task.latents,
            train=task.train,
            diffusion=task.diffusion,
            settings=self.saliency,
            wanted="head",
            seed=task.seed,
        )
        return {"latents": task.latents, "maps": maps}

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the images, with the share of each site that was redrawn as the extra `mask`."""
        rows, clean = copied_rows(ctx), ctx.inputs["latents"].mean
        for index in ctx.batches(ctx.diffusion.batch_size):
            parents = rows[index]
            mask = np.stack([self._mask(ctx.inputs["maps"], int(row)) for row in parents])
            labels = self._without_head(ctx, parents)
            prompts = [ctx.diffusion.prompt(ctx.train.class_names, row) for row in labels]
            noise = np.stack([ctx.rng(int(i)).standard_normal(clean.shape[1:], dtype=np.float32) for i in index])
            latents = ctx.diffusion.denoise(
                np.asarray(clean[parents]),
                prompts,
                noise,
                self.denoise_steps,
                self.num_inference_steps,
                self.guidance_scale,
                redraw=mask,
            )
            images = ctx.diffusion.decode(latents)
            if self.detail == "parent":
                lost = lost_detail(ctx, ctx.inputs["latents"], parents)
                kept = over_images(1 - at_pixels(mask, ctx.train.images.image_px), lost)
                images = with_detail(images, kept * lost)
            yield AugmentedBatch(images, labels, parents[:, None], {"mask": mask})

    def _mask(self, maps: SaliencyTable, row: int) -> Float32:
        """Return the share of each site of a train row that is redrawn, `float32 [h, w]`: by its highest map."""
        return soft_mask(maps.cams[maps.entries(row)].max(axis=0), self.soft_from, self.soft_to)

    def _without_head(self, ctx: Context, parents: Int64) -> Float32:
        """Return the labels of train rows without their head findings; what is unknown stays unknown."""
        labels = ctx.train.labels[parents].copy()
        for c in ctx.train.head_index:
            labels[labels[:, c] == 1, c] = 0
        return labels

    @classmethod
    def toy(cls) -> Erase:
        """Return the method with one step of a schedule of two, and maps of one draw."""
        return cls(denoise_steps=1, num_inference_steps=2, saliency=PromptSaliencySettings(n_draws=1))
