"""Images, maps and masks as tiles: small colour pictures of one size, for figures and trackers."""

from __future__ import annotations

import numpy as np

from bench.tables import UInt8

ANCHOR_RGB, PARTNER_RGB = (230, 159, 0), (0, 114, 178)  # Okabe & Ito's orange and blue


def _resized(image: np.ndarray, px: int, smooth: bool = True) -> np.ndarray:
    from PIL import Image

    method = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((px, px), method))


def _plane(values: np.ndarray) -> np.ndarray:
    """Return a map in [0, 1] as `uint8 [h, w]` without leading axes of length 1."""
    flat = np.asarray(values, dtype=np.float32).reshape(values.shape[-2:])
    return (np.clip(np.nan_to_num(flat), 0, 1) * 255).astype(np.uint8)


def tile(image: np.ndarray, px: int) -> UInt8:
    """Return an image, `uint8 [H, W]` or `[H, W, 3]`, as a tile, `uint8 [px, px, 3]`."""
    resized = _resized(image, px)
    return np.broadcast_to(resized.reshape(px, px, -1), (px, px, 3))


def overlay(image: np.ndarray, cam: np.ndarray, px: int) -> UInt8:
    """Return an image below a map that is more opaque where it is stronger, `uint8 [px, px, 3]`."""
    import matplotlib

    heat = _resized(_plane(cam), px).astype(np.float32) / 255
    colour = matplotlib.colormaps["inferno"](0.35 + 0.6 * heat)[..., :3] * 255
    weight = 0.75 * heat[..., None]
    return (tile(image, px) * (1 - weight) + colour * weight).astype(np.uint8)


def two_colours(mask: np.ndarray, px: int) -> UInt8:
    """Return a mask as a tile: orange where it is 1, blue where it is 0, `uint8 [px, px, 3]`."""
    share = _resized(_plane(mask), px, smooth=False).astype(np.float32)[..., None] / 255
    return (share * np.array(ANCHOR_RGB) + (1 - share) * np.array(PARTNER_RGB)).astype(np.uint8)
