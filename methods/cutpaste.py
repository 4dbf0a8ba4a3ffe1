"""Cut and paste: the anchor's pixels inside the mask of `ours`, the partner's outside.

This is the control for fusing in latent space. Anchors, partners, maps and masks are those of `ours` with the same
settings, and the stages that make them are shared, so they are computed once. Only the last part differs: `ours` puts
codes or latents together, decodes them and runs denoising steps. Here the pixels of real images are put together as
they are (compare CutMix, Yun et al. 2019, and Simple Copy-Paste, Ghiasi et al. 2021).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.contract import (
    AugmentedBatch,
    Context,
    Float32,
    Method,
    PromptSaliencySettings,
    Stage,
    Task,
    TrainSet,
    UInt8,
    at_pixels,
    over_images,
    union,
)
from methods.fusion import Fusion
from methods.fusion.fuse import FusedSet, FusionSettings
from methods.fusion.pairing import IndexSpace, PairingSettings
from methods.fusion.saliency import SaliencySettings
from methods.fusion.settings import Checkpoint, CodecSettings

BATCH = 64
_OF_MASKS = (
    "index_space",
    "checkpoint",
    "codec",
    "saliency",
    "pairing",
    "fusion",
)  # the settings of `ours` that matter
_PRESETS: dict[str, dict[str, Any]] = {
    name: {field: value for field, value in chosen.items() if field in (*_OF_MASKS, "labels")}
    for name, chosen in Fusion.presets.items()
}


class CutPaste(Method):
    """Put the pixels of a tail image into a head image, where the mask of `ours` says so. There are no denoising steps.

    The settings beside `edge` are those of `ours`, with its defaults and presets. Rows of both methods with equal
    settings have the same pairs and masks. `fusion.space` says what `ours` fuses and does not change an image here, but
    keep it equal as well: the masks are made and stored together with the fused latents. A sample has the findings of
    both parents.
    """

    name: ClassVar[str] = "cutpaste"
    presets: ClassVar[dict[str, dict[str, Any]]] = _PRESETS | {
        name: _PRESETS[name] | {"edge": "soft"} for name in ("prompted", "local")
    }

    edge: Literal["hard", "soft"] = Field(
        "hard", description="hard: all pixels of a site have its share; soft: interpolated between the sites"
    )
    index_space: IndexSpace = Field("global", description="as in `ours`")
    checkpoint: Checkpoint = Field("last", description="as in `ours`: generation whose codec is used")
    codec: CodecSettings = CodecSettings()
    saliency: SaliencySettings = SaliencySettings()
    pairing: PairingSettings = PairingSettings()
    fusion: FusionSettings = FusionSettings()

    @property
    def _ours(self) -> Fusion:
        """Return the method whose masks are used."""
        return Fusion(**{name: getattr(self, name) for name in _OF_MASKS})

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Return the stage of `ours` that holds pairs and masks."""
        return {"fused": self._ours.inputs(task)["fused"]}

    def check(self, latent_px: int) -> None:
        """Check that the classifier of codes is not too deep for the latent.

        Raises:
            ConfigError: if it is. The message names the setting.
        """
        self._ours.check(latent_px)

    def skip(self, train: TrainSet) -> str | None:
        """Return a reason if there is no anchor or no partner, else None."""
        return self._ours.skip(train)

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the images with parents [anchor, partner], with maps and masks as extras."""
        fused: FusedSet = ctx.inputs["fused"]
        for index in ctx.batches(BATCH):
            parents = np.array(fused.parents[index])
            share = self._at_pixels(fused.mask[index].astype(np.float32), ctx.train.images.image_px)
            yield AugmentedBatch(
                images=pasted(ctx.train.images[parents[:, 0]], ctx.train.images[parents[:, 1]], share),
                labels=union(ctx.train.labels[parents], excludes=ctx.train.excludes),
                parents=parents,
                extras=fused.extras(index, share.mean(axis=(1, 2), dtype=np.float32)),
            )

    def _at_pixels(self, mask: Float32, image_px: int) -> Float32:
        """Return the anchor's share of every pixel, `float32 [b, image_px, image_px]`."""
        if self.edge == "soft":
            return at_pixels(mask, image_px)
        side = image_px // mask.shape[1]
        return mask.repeat(side, axis=1).repeat(side, axis=2)

    def diagnostics(self, task: Task) -> Stage:
        """Return the stage of `ours` that judges maps and masks."""
        return self._ours.diagnostics(task)

    @classmethod
    def toy(cls) -> CutPaste:
        """Return the method with maps by prompts, of one draw, so that no codec is trained."""
        chosen = cls.presets["prompted"]
        saliency = SaliencySettings(source="prompt", prompt=PromptSaliencySettings(n_draws=1))
        return cls(**(chosen | {"saliency": saliency}))


def pasted(anchors: UInt8, partners: UInt8, share: Float32) -> UInt8:
    """Return the mean of two stacks of images, weighted by the anchor's `share` of each pixel, `float32 [b, H, W]`.

    Where the share is 0 or 1, the pixel is the parent's own.
    """
    share = over_images(share, anchors)
    return np.rint(share * anchors + (1 - share) * partners).astype(np.uint8)
