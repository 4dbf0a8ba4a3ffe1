"""The one rule about colour: images are `uint8 [n, H, W]` (grey) or `uint8 [n, H, W, 3]` (red, green, blue).

A data set is one or the other, and so are the images that are made for it. Code that handles images calls these
functions, and so need not ask which of the two it was given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bench.tables import Float32, UInt8

if TYPE_CHECKING:
    from torch import Tensor


def image_shape(image_px: int, colour: bool) -> tuple[int, ...]:
    """Return the shape of one square image."""
    return (image_px, image_px, 3) if colour else (image_px, image_px)


def are_images(array: npt.NDArray[np.generic]) -> bool:
    """Tell whether an array holds square images, `uint8 [n, H, H]` or `uint8 [n, H, H, 3]`."""
    square = array.ndim > 1 and array.shape[1:] in (image_shape(array.shape[1], colour) for colour in (False, True))
    return square and array.dtype == np.uint8


def has_colour(images: npt.NDArray[np.generic]) -> bool:
    """Tell whether images have colour."""
    return images.ndim == 4


def over_images(values: Float32, images: npt.NDArray[np.generic]) -> Float32:
    """Return values of images, `[n]`, or of pixels, `[n, H, W]`, with axes that make `values * images` broadcast."""
    return values.reshape(values.shape + (1,) * (images.ndim - values.ndim))


def luma(images: UInt8) -> UInt8:
    """Return images as grey ones, `uint8 [n, H, W]`, by ITU-R 601, rounded as Pillow does."""
    if not has_colour(images):
        return images
    red, green, blue = np.moveaxis(images.astype(np.uint32), -1, 0)
    return ((19595 * red + 38470 * green + 7471 * blue + (1 << 15)) >> 16).astype(np.uint8)


def mosaic(rows: Sequence[UInt8], n_columns: int) -> UInt8:
    """Return rows of images as one picture, `uint8 [H, W]` or `[H, W, 3]`; a row with few images ends in black."""
    height, width, *colours = rows[0].shape[1:]
    picture = np.zeros((len(rows) * height, n_columns * width, *colours), np.uint8)
    for r, images in enumerate(rows):
        for c, image in enumerate(images):
            picture[r * height : (r + 1) * height, c * width : (c + 1) * width] = image
    return picture


def to_planes(images: UInt8) -> Tensor:
    """Return a copy of images as `uint8 [n, k, H, W]`. k is 1 or 3, and broadcasts to the three that networks take."""
    import torch

    # A grey image stays one plane until something is added to it: resizing three equal ones would take three times as
    # long, and another kernel may round otherwise.
    pixels = torch.from_numpy(np.array(images, order="C"))
    return pixels.permute(0, 3, 1, 2) if has_colour(images) else pixels[:, None]


def from_planes(planes: Tensor) -> UInt8:
    """Return planes `uint8 [n, k, H, W]` with k of 1 or 3 as images: what `to_planes` was given."""
    pixels = planes[:, 0] if planes.shape[1] == 1 else planes.permute(0, 2, 3, 1)
    return pixels.contiguous().cpu().numpy()


def to_vae(images: UInt8, device: str = "cpu") -> Tensor:
    """Return images as a VAE takes them, `float32 [n, 3, H, W]` in [-1, 1]; a grey one as three equal planes."""
    return (to_planes(images).to(device).float() / 127.5 - 1).expand(-1, 3, -1, -1)


def from_vae(decoded: Tensor, colour: bool) -> UInt8:
    """Return what a VAE has decoded, `float32 [n, 3, H, W]` in [-1, 1], as images; grey is the mean of planes."""
    import torch

    planes = decoded if colour else decoded.mean(dim=1, keepdim=True)
    return from_planes(((planes + 1) * 127.5).round().clamp(0, 255).to(torch.uint8))
