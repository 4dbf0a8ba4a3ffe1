"""The paper's method: fuse a tail image's code with a head neighbour's, then denoise a little (arXiv 2405.01705)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.contract import (
    CLAIMED_CLASS,
    PARENT_SHARE,
    AugmentedBatch,
    Context,
    Float32,
    Int64,
    LabelPolicy,
    Method,
    Stage,
    Task,
    TrainSet,
    union,
)
from methods.fusion.codec import Codec
from methods.fusion.diagnostics import Diagnostics
from methods.fusion.fuse import Fused, FusedSet, FusionSettings, skip_reason
from methods.fusion.pairing import IndexSpace, PairingSettings, Pairs
from methods.fusion.saliency import Saliency, SaliencySettings
from methods.fusion.settings import Checkpoint, CodecSettings

# What the audit of the released code found, switch by switch, and what goes with each; sizes are the matrix's business.
_RELEASED: dict[str, Any] = {
    "codec": {
        "code_activation": "tanh",
        "temperature": 1.0,
        "decoder_range": "tanh",
        "imitation_loss": "per_word_bce",
        "pseudo_labels": "sampled",
        "student_reset": True,
    },
    "index_space": "released",
    "saliency": {"cam_method": "eigencam", "cam_layers": "all", "cam_target": "best"},
    "pairing": {"by": "cam", "k_neighbors": 3},
    "denoise_start": "released",
    "prompt": "union",
    "fusion": {"thresholds": "per_class", "cam_high": 0.5, "cam_low": 0.5, "thresholds_std": 0.1},
    "checkpoint": "first",
    "labels": "released",
}
_CORRECTED: dict[str, Any] = {
    "codec": {
        "code_activation": "softmax",
        "temperature": 0.1,
        "decoder_range": "linear",
        "imitation_loss": "cross_entropy",
        "pseudo_labels": "sampled",
        "student_reset": True,
    },
    "index_space": "global",
    "saliency": {"cam_method": "layercam", "cam_layers": "all", "cam_target": "each"},
    "pairing": {"by": "cam", "k_neighbors": 3},
    "denoise_start": "sdedit",
    "prompt": "union",
    "fusion": {"thresholds": "fixed", "cam_high": 0.5, "cam_low": 0.5, "thresholds_std": 0.1},
    "checkpoint": "last",
    "labels": "union",
}


class Fusion(Method):
    """`ours@d`: everything up to the fused latents is shared by every d; only d last denoising steps differ.

    Presets: `released` behaves as the paper's last release in all eight points of its audit, `corrected` (the defaults)
    in none.
    """

    name: ClassVar[str] = "ours"
    at: ClassVar[str | None] = "denoise_steps"
    uses_diffusion: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {"released": _RELEASED, "corrected": _CORRECTED}

    denoise_steps: int = Field(5, ge=0, description="how many of the last steps of the schedule are run")
    num_inference_steps: int = Field(75, ge=1, le=1000, description="length of the schedule")
    guidance_scale: float = Field(3.5, ge=0, le=100, description="classifier-free guidance; 1 is none")
    denoise_start: Literal["sdedit", "released"] = Field(
        "sdedit", description="add the noise of the first step that is run, or enter without, as the released code does"
    )
    prompt: Literal["union", "tail_only"] = Field(
        "union", description="findings named: of both parents, or only the anchor's tail classes"
    )
    index_space: IndexSpace = Field(
        "global", description="released: positions in a subset are used as rows of the train split, see Pairs and Fused"
    )
    checkpoint: Checkpoint = Field(
        "last", description="generation whose codec is used; the released script fuses with the first one's"
    )
    labels: LabelPolicy = Field("union", description="label policy; own = union, the first release's")
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
        saliency = Saliency(codec=codec, settings=self.saliency, checkpoint=self.checkpoint)
        pairs = Pairs(saliency=saliency, settings=self.pairing, index_space=self.index_space)
        return {"fused": Fused(pairs=pairs, plan=task.plan, settings=self.fusion, seed=task.seed)}

    def check(self, latent_px: int) -> None:
        """Refuse a classifier of codes that is too deep for the latent.

        Raises:
            ConfigError: naming the setting.
        """
        self.codec.check(latent_px)

    def skip(self, train: TrainSet) -> str | None:
        """Return a reason where there is no anchor or no partner."""
        return skip_reason(train)

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield images of the fused latents after the last `denoise_steps` steps, with maps and masks beside them."""
        fused: FusedSet = ctx.inputs["fused"]
        diffusion = ctx.diffusion
        for index in ctx.batches(diffusion.batch_size):
            parents = np.array(fused.parents[index])
            latents = self._denoised(
                diffusion, fused.latents[index], self._prompts(diffusion, ctx.train, parents), ctx, index
            )
            share_tail = fused.mask[index].mean(axis=(1, 2), dtype=np.float32)
            yield AugmentedBatch(
                images=diffusion.decode(latents),
                labels=union(ctx.train.labels[parents]),
                parents=parents,
                extras={
                    "anchor_cam": fused.anchor_cam[index],
                    "partner_cam": fused.partner_cam[index],
                    "mask": fused.mask[index],
                    PARENT_SHARE: np.stack([share_tail, 1 - share_tail], axis=1),
                    CLAIMED_CLASS: fused.claimed_class[index],
                },
            )

    def _prompts(self, diffusion: Any, train: TrainSet, parents: Int64) -> list[str]:
        """Return what the diffusion model is told of every sample."""
        if self.prompt == "union":
            named = union(train.labels[parents])
        else:
            of_tail = np.isin(np.arange(len(train.class_names)), train.tail_index)
            named = np.where(of_tail, train.labels[parents[:, 0]], 0)
        return [diffusion.prompt(train.class_names, row) for row in named]

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

    def diagnostics(self, task: Task) -> Stage:
        """Name the stage that judges code, maps and masks, against the truth where the data set knows it."""
        return Diagnostics(fused=self.inputs(task)["fused"])
