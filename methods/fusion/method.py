"""The paper's method: fuse a tail image's code with a head neighbour's, then denoise a little (arXiv 2405.01705)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.contract import AugmentedBatch, Context, Method, Stage, Task, TrainSet
from bench.prompts import prompt_for
from bench.types import Float32, Int64
from methods.fusion.codec import Codec, CodecSettings
from methods.fusion.fuse import Fused, FusedSet, FusionSettings, skip_reason
from methods.fusion.labels import LabelPolicy, assign, union
from methods.fusion.pairing import PairingSettings, Pairs
from methods.fusion.saliency import Saliency, SaliencySettings


class Fusion(Method):
    """`ours@d`: everything up to the fused latents is shared by every d; only d last denoising steps differ."""

    name: ClassVar[str] = "ours"
    at: ClassVar[str | None] = "denoise_steps"
    uses_diffusion: ClassVar[bool] = True

    denoise_steps: int = Field(5, ge=0, description="how many of the last steps of the schedule are run")
    num_inference_steps: int = Field(75, ge=1, le=1000, description="length of the schedule")
    guidance_scale: float = Field(3.5, ge=0, le=100, description="classifier-free guidance; 1 is none")
    denoise_start: Literal["sdedit", "released"] = Field(
        "sdedit", description="add the noise of the first step that is run, or enter without, as the released code does"
    )
    labels: LabelPolicy = Field("union", description="labels of a synthetic image")
    codec: CodecSettings = CodecSettings()
    saliency: SaliencySettings = SaliencySettings()
    pairing: PairingSettings = PairingSettings()
    fusion: FusionSettings = FusionSettings()

    @model_validator(mode="after")
    def _steps_fit(self) -> Fusion:
        if self.denoise_steps > self.num_inference_steps:
            raise ValueError(
                f"denoise_steps: {self.denoise_steps} is more than num_inference_steps = {self.num_inference_steps}"
            )
        return self

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Name the fused latents; codec, saliency and pairs stand below them."""
        codec = Codec(latents=task.latents, train=task.train, settings=self.codec, seed=task.seed)
        pairs = Pairs(saliency=Saliency(codec=codec, settings=self.saliency), settings=self.pairing)
        return {"fused": Fused(pairs=pairs, plan=task.plan, settings=self.fusion, seed=task.seed)}

    def skip(self, train: TrainSet) -> str | None:
        """Return a reason where there is no anchor or no partner."""
        return skip_reason(train)

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield images of the fused latents after the last `denoise_steps` steps, with maps and masks beside them."""
        fused: FusedSet = ctx.inputs["fused"]
        diffusion = ctx.diffusion
        for index in ctx.batches(diffusion.batch_size):
            anchor, partner = (ctx.train.labels[rows] for rows in fused.parents[index].T)
            prompts = [prompt_for(ctx.train.class_names, row) for row in union(anchor, partner)]
            latents = self._denoised(diffusion, fused.latents[index], prompts, ctx, index)
            share_tail = fused.mask[index].mean(axis=(1, 2), dtype=np.float32)
            yield AugmentedBatch(
                images=diffusion.decode(latents),
                labels=assign(self.labels, anchor, partner, ctx.samples[index], share_tail),
                parents=np.array(fused.parents[index]),
                extras={
                    "anchor_cam": fused.anchor_cam[index],
                    "partner_cam": fused.partner_cam[index],
                    "mask": fused.mask[index],
                    "share_tail": share_tail,
                },
            )

    def _denoised(self, diffusion: Any, latents: Float32, prompts: list[str], ctx: Context, index: Int64) -> Float32:
        """Return latents after the last steps; each sample's noise is from its own generator."""
        if self.denoise_steps == 0:
            return latents
        noise = None
        if self.denoise_start == "sdedit":
            shape = latents.shape[1:]
            noise = np.stack([ctx.rng(int(i)).standard_normal(shape, dtype=np.float32) for i in index])
        return diffusion.denoise(
            latents, prompts, noise, self.denoise_steps, self.num_inference_steps, self.guidance_scale
        )
