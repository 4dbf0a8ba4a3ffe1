"""PNG and JPEG files of any size, depth and colour into square grey arrays; what cannot be read says why."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.errors import DataError
from bench.types import Float32, UInt8

Fit = Literal["pad", "crop", "stretch"]
Depth = Literal["minmax", "full"]
MAX_SIDE_PX = 30_000
# What Pillow raises for files that are cut off or damaged, depending on where.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def read_image(path: Path, image_px: int, fit: Fit, depth: Depth) -> UInt8:
    """Return the picture in `path` as grey `uint8 [image_px, image_px]`.

    Colour becomes luma (ITU-R 601), an alpha channel is left out. Resizing is by an antialiased triangle filter in
    float, after squaring.

    Args:
        path: a PNG or JPEG file with one picture.
        image_px: side of the result.
        fit: `pad` with black to a centred square, `crop` the central square, or `stretch`.
        depth: how 16 bits become 8: `minmax` stretches the picture's own range, `full` divides by 257.

    Raises:
        DataError: saying what is wrong with the file, without its name.
    """
    grey = _resize(_square(_grey(path, depth), fit), image_px)
    return np.rint(grey).clip(0, 255).astype(np.uint8)


def _grey(path: Path, depth: Depth) -> Float32:
    """Return `float32 [H, W]` in 0..255."""
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            _check_header(picture)
            picture.load()
            if picture.mode.startswith("I"):
                return _eight_bits(np.asarray(picture).astype(np.float32), depth)
            return np.asarray(_without_alpha(picture).convert("L")).astype(np.float32)
    except Image.UnidentifiedImageError as error:
        raise DataError("not a PNG or JPEG file") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"absurdly large ({error})") from error
    except _DAMAGED as error:
        raise DataError(f"damaged or cut off ({str(error) or type(error).__name__})") from error


def _check_header(picture: Any) -> None:
    if max(picture.size) > MAX_SIDE_PX:
        raise DataError(f"absurdly large ({picture.width} x {picture.height} px, at most {MAX_SIDE_PX} a side)")
    if getattr(picture, "n_frames", 1) > 1:
        raise DataError(f"holds {picture.n_frames} pictures (animated?); want one")


def _without_alpha(picture: Any) -> Any:
    """Return the picture's colours as they are stored: what is transparent is not painted black."""
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    return picture.convert({"LA": "L", "RGBA": "RGB"}.get(picture.mode, picture.mode))


def _eight_bits(values: Float32, depth: Depth) -> Float32:
    """Return 16-bit grey values as 0..255. Detectors often fill 12 of the 16 bits, hence `minmax`."""
    low, high = float(values.min()), float(values.max())
    if depth == "full" or high == low:
        return values / np.float32(257)
    return (values - np.float32(low)) * np.float32(255 / (high - low))


def _square(grey: Float32, fit: Fit) -> Float32:
    height, width = grey.shape
    if fit == "stretch" or height == width:
        return grey
    if fit == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return grey[top : top + side, left : left + side]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    return np.pad(grey, ((top, side - height - top), (left, side - width - left)))


def _resize(grey: Float32, image_px: int) -> Float32:
    from PIL import Image

    if grey.shape == (image_px, image_px):
        return grey
    picture = Image.fromarray(np.ascontiguousarray(grey, dtype=np.float32))
    return np.asarray(picture.resize((image_px, image_px), Image.Resampling.BILINEAR))
