"""The paper's method: fuse a tail image's code with a head neighbour's, then denoise a little (arXiv 2405.01705)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.contract import (
    AugmentedBatch,
    Context,
    Diffusion,
    Float32,
    GuidanceScale,
    Int64,
    LabelPolicy,
    Method,
    PromptSaliency,
    Stage,
    Task,
    TrainSet,
    at_pixels,
    lost_detail,
    over_images,
    union,
    with_detail,
)
from methods.fusion.codec import Codec
from methods.fusion.diagnostics import Diagnostics
from methods.fusion.fuse import Fused, FusedSet, FusionSettings, skip_reason
from methods.fusion.pairing import IndexSpace, PairingSettings, Pairs
from methods.fusion.saliency import Saliency, SaliencySettings
from methods.fusion.settings import Checkpoint, CodecSettings

# The presets set every switch that the audit of the released code found. Sizes are left to the matrix files.
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
    "saliency": {"source": "classifier", "cam_method": "eigencam", "cam_layers": "all", "cam_target": "best"},
    "pairing": {"match": "none", "by": "cam", "k_neighbors": 3},
    "detail": "none",
    "denoise_start": "released",
    "prompt": "union",
    "fusion": {
        "space": "code",
        "mask": "hard",
        "thresholds": "per_class",
        "cam_high": 0.5,
        "cam_low": 0.5,
        "thresholds_std": 0.1,
    },
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
    "saliency": {"source": "classifier", "cam_method": "layercam", "cam_layers": "all", "cam_target": "each"},
    "pairing": {"match": "none", "by": "cam", "k_neighbors": 3},
    "detail": "none",
    "denoise_start": "sdedit",
    "prompt": "union",
    "fusion": {
        "space": "code",
        "mask": "hard",
        "thresholds": "fixed",
        "cam_high": 0.5,
        "cam_low": 0.5,
        "thresholds_std": 0.1,
    },
    "checkpoint": "last",
    "labels": "union",
}

_PROMPTED: dict[str, Any] = {
    "index_space": "global",
    "saliency": {
        "source": "prompt",
        "prompt": {"contrast": "without", "noise_level": 0.1, "n_draws": 3, "smoothing": 0.8},
    },
    "pairing": {"match": "head_labels", "by": "random", "k_neighbors": 5},
    "fusion": {"space": "latent", "mask": "soft", "soft_from": 0.15, "soft_to": 0.5},
    "denoise_start": "sdedit",
    "prompt": "union",
    "guidance_scale": 2.0,
    "detail": "parents",
    "labels": "union",
}

# Goes past the paper with the maps of its own code. The code is local, so that they point; they are sharp, so the mask
# follows them from their lowest values on; pairs and texture are those of `prompted`.
_LOCAL: dict[str, Any] = _CORRECTED | {
    "codec": _CORRECTED["codec"]
    | {"encoder": "local", "classifier": "local", "batches": "class_balanced", "positive_weights": "none"},
    "pairing": _PROMPTED["pairing"],
    "fusion": {"space": "code", "mask": "soft", "soft_from": 0.0, "soft_to": 0.1},
    "detail": "parents",
}


class Fusion(Method):
    """Fuse the code of a tail image with that of a similar head image, then run the last d denoising steps (`ours@d`).

    Everything up to the fused latents is shared by all d. With the preset `released` the method behaves like the
    paper's last release in all eight points that the audit found. With `corrected` (the defaults) it does so in none.
    """

    name: ClassVar[str] = "ours"
    at: ClassVar[str | None] = "denoise_steps"
    uses_diffusion: ClassVar[bool] = True
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "released": _RELEASED,
        "corrected": _CORRECTED,
        "prompted": _PROMPTED,
        "local": _LOCAL,
    }

    denoise_steps: int = Field(5, ge=0, description="number of last steps of the schedule that are run")
    num_inference_steps: int = Field(75, ge=1, le=1000, description="length of the schedule")
    guidance_scale: GuidanceScale = Field(3.5, description="classifier-free guidance; 1 is none")
    denoise_start: Literal["sdedit", "released"] = Field(
        "sdedit", description="sdedit: add the noise of the first step that is run; released: add none"
    )
    prompt: Literal["union", "tail_only"] = Field(
        "union", description="findings in the prompt: those of both parents, or only the anchor's tail classes"
    )
    index_space: IndexSpace = Field(
        "global", description="released: positions in a subset are used as train rows, see Pairs and Fused"
    )
    checkpoint: Checkpoint = Field(
        "last", description="generation whose codec is used; the released script uses the first one"
    )
    detail: Literal["none", "parents"] = Field(
        "none", description="texture to add back: what the VAE loses of each parent, where the image is that parent's"
    )
    labels: LabelPolicy = Field("union", description="label policy; own = union, as in the first release")
    codec: CodecSettings = CodecSettings()
    saliency: SaliencySettings = SaliencySettings()
    pairing: PairingSettings = PairingSettings()
    fusion: FusionSettings = FusionSettings()

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Return the stage of the fused latents, which has codec, saliency and pairs as its own inputs."""
        codec = Codec(latents=task.latents, train=task.train, settings=self.codec, seed=task.seed)
        pairs = Pairs(
            saliency=self._saliency(task, codec),
            settings=self.pairing,
            index_space=self.index_space,
            codec=codec if self.pairing.by == "code" else None,
            checkpoint=self.checkpoint,
        )
        fused = Fused(
            pairs=pairs,
            plan=task.plan,
            settings=self.fusion,
            seed=task.seed,
            codec=codec if self.fusion.space == "code" else None,
            checkpoint=self.checkpoint,
        )
        return {"fused": fused, "latents": task.latents} if self.detail == "parents" else {"fused": fused}

    def _saliency(self, task: Task, codec: Codec) -> Saliency | PromptSaliency:
        if self.saliency.source == "classifier":
            return Saliency(codec=codec, settings=self.saliency, checkpoint=self.checkpoint)
        return PromptSaliency(
            latents=task.latents,
            train=task.train,
            diffusion=task.diffusion,
            settings=self.saliency.prompt,
            wanted="tail_and_partners" if self.pairing.by == "cam" or self.fusion.mask == "hard" else "tail",
            seed=task.seed,
        )

    def check(self, latent_px: int) -> None:
        """Check that the classifier of codes is not too deep for the latent.

        Raises:
            ConfigError: if it is. The message names the setting.
        """
        self.codec.check(latent_px)

    def skip(self, train: TrainSet) -> str | None:
        """Return a reason if there is no anchor or no partner, else None."""
        return skip_reason(train)

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the images of the fused latents after the last `denoise_steps` steps, with maps and masks as extras."""
        fused: FusedSet = ctx.inputs["fused"]
        diffusion = ctx.diffusion
        for index in ctx.batches(diffusion.batch_size):
            parents = np.array(fused.parents[index])
            latents = self._denoised(
                diffusion, fused.latents[index], self._prompts(diffusion, ctx.train, parents), ctx, index
            )
            images = diffusion.decode(latents)
            if self.detail == "parents":
                images = with_detail(images, self._lost(ctx, parents, fused.mask[index].astype(np.float32)))
            yield AugmentedBatch(
                images=images,
                labels=union(ctx.train.labels[parents], excludes=ctx.train.excludes),
                parents=parents,
                extras=fused.extras(index, fused.mask[index].mean(axis=(1, 2), dtype=np.float32)),
            )

    def _lost(self, ctx: Context, parents: Int64, mask: Float32) -> Float32:
        """Return what the VAE loses of the parents, the anchor's where the mask has the anchor."""
        anchor, partner = (lost_detail(ctx, ctx.inputs["latents"], rows) for rows in parents.T)
        share = over_images(at_pixels(mask, ctx.train.images.image_px), anchor)
        return share * anchor + (1 - share) * partner

    def _prompts(self, diffusion: Diffusion, train: TrainSet, parents: Int64) -> list[str]:
        """Return the prompt of every sample."""
        if self.prompt == "union":
            named = union(train.labels[parents], excludes=train.excludes)
        else:
            of_tail = np.isin(np.arange(len(train.class_names)), train.tail_index)
            named = np.where(of_tail, train.labels[parents[:, 0]], 0)
        return [diffusion.prompt(train.class_names, row) for row in named]

    def _denoised(
        self, diffusion: Diffusion, latents: Float32, prompts: list[str], ctx: Context, index: Int64
    ) -> Float32:
        """Return `latents` after the last steps; the noise of a sample comes from its own generator."""
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
        """Return the stage that judges code, maps and masks, against the true masks if the data set has them."""
        return Diagnostics(fused=self.inputs(task)["fused"])
