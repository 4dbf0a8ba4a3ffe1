"""The detail that a VAE loses, added back to images that it has decoded.

A VAE drops fine texture, so its images are smoother than real ones. Most synthetic images are of tail classes, so a
classifier could learn that smooth means tail. What the VAE loses of a real image is known: the image minus the same
image after encoding and decoding. Methods that decode latents can add it to their images.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.tables import Float32, Int64, UInt8

if TYPE_CHECKING:
    from bench.augment.latents import LatentTable
    from bench.augment.method import Context


def lost_detail(ctx: Context, latents: LatentTable, rows: Int64) -> Float32:
    """Return what the VAE loses of train images, of the shape of images, `float32` in levels of -255 to 255.

    Args:
        ctx: the context of a method with `uses_diffusion = True`.
        latents: the latents of the train images.
        rows: `int64 [n]`, train rows.
    """
    decoded = ctx.diffusion.decode(np.asarray(latents.mean[rows]))
    return ctx.train.images[rows].astype(np.float32) - decoded


def with_detail(images: UInt8, detail: Float32) -> UInt8:
    """Return `images` with `detail` (`float32`, of the same shape) added, rounded and cut off at 0 and 255."""
    return np.clip(np.rint(images + detail), 0, 255).astype(np.uint8)


def at_pixels(mask: Float32, image_px: int) -> Float32:
    """Return masks of latents, `float32 [n, h, w]`, at the size of the images, `float32 [n, image_px, image_px]`.

    Values between the sites are interpolated, so that the edge of a soft mask has no steps.
    """
    import torch
    from torch.nn import functional

    sites = torch.from_numpy(np.asarray(mask, dtype=np.float32))[:, None]
    return functional.interpolate(sites, size=(image_px, image_px), mode="bilinear")[:, 0].numpy()
