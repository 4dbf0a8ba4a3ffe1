"""Read PNG and JPEG files of any size, depth and colour into square arrays, or say why one cannot be read."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bench.data.encoded import refuse_incomplete, what_else
from bench.errors import DataError
from bench.pixels import image_shape
from bench.tables import Float32, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Fit = Literal["pad", "crop", "stretch"]
Depth = Literal["window", "full"]
Mode = Literal["L", "RGB"]  # Pillow's names, one letter a plane
UInt16 = npt.NDArray[np.uint16]
_OUTER = 0.02  # share of the pixels at each end of a picture's values that may be marks
_AT_ONCE = 1 << 20
MIN_SIDE_PX, MAX_SIDE_PX = 8, 30_000
_LARGEST_FILE = 1 << 30  # bytes; the largest picture that is accepted takes less without any compression
# Pillow raises any of these for a file that is cut off or damaged, depending on the place of the damage.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def read_bytes(path: Path) -> bytes:
    """Return the content of the file of a picture.

    Raises:
        DataError: if it is too large for a picture.
        OSError: if it cannot be read.
    """
    if (size := path.stat().st_size) > _LARGEST_FILE:
        raise DataError(f"absurdly large ({size:,} bytes, at most {_LARGEST_FILE:,})")
    return path.read_bytes()


def read_image(
    picture: Path | bytes,
    image_px: int,
    fit: Fit,
    depth: Depth,
    draft: bool = False,
    invert: bool = False,
    colour: bool = False,
) -> UInt8:
    """Return a picture as a grey array `uint8 [image_px, image_px]`, or with a last axis of 3 for `colour`.

    For a grey array, colour is converted to luma (ITU-R 601). For one with colour, grey is repeated for red, green and
    blue. An alpha channel is ignored, and the EXIF orientation is applied. The picture is made square and then resized
    in floating point with an antialiasing triangle filter.

    Args:
        picture: a PNG or JPEG file, or its content. Of a phone's file with several pictures the first is read, which is
            the one that viewers show.
        image_px: the side of the result in pixels.
        fit: `pad` with black to a centred square, `crop` the central square, or `stretch`.
        depth: how 16 bits become 8. `window` stretches the picture's own range without its outliers (see `window`);
            `full` divides by 257, or takes the high byte if there is colour or alpha.
        draft: let the JPEG decoder shrink the picture by 2, 4 or 8 (means of blocks) while its sides stay even and at
            least twice `image_px`. Large pictures then take a third of the time, and values differ a little.
        invert: make black white and white black (the negative), before the picture is padded.
        colour: keep red, green and blue.

    Raises:
        DataError: if the picture cannot be used. The message says what is wrong, without the name of the file.
        OSError: if the file cannot be read now, which is the fault of the disk and not of the picture.
    """
    content = picture if isinstance(picture, bytes) else read_bytes(picture)
    planes = _planes(content, depth, "RGB" if colour else "L", 2 * image_px if draft else None)
    squares = [_squared(255 - plane if invert else plane, image_px, fit) for plane in planes]
    pixels = np.rint(np.stack(squares, axis=-1)).clip(0, 255).astype(np.uint8)
    return pixels.reshape(image_shape(image_px, colour))


def _planes(content: bytes, depth: Depth, mode: Mode, least_px: int | None = None) -> list[Float32]:
    """Return the planes of a picture, each `float32 [H, W]` in 0..255: one for mode L, three for RGB.

    If `least_px` is given, a JPEG is shrunk by its decoder, to sides of at least `least_px`.

    Raises:
        DataError: if the picture cannot be used.
    """
    from PIL import Image

    refuse_incomplete(content)
    try:
        with Image.open(io.BytesIO(content), formats=("PNG", "JPEG")) as picture:
            _check_header(picture, depth)
            if least_px is not None:
                _shrink(picture, least_px, mode)
            picture.load()
            turned = _upright(picture)
            if turned.mode.startswith("I"):
                return [_eight_bits(np.asarray(turned).astype(np.uint16), depth)] * len(mode)
            bands = _without_alpha(turned).convert(mode).split()
            return [np.asarray(band).astype(np.float32) for band in bands]
    except Image.UnidentifiedImageError as error:
        raise DataError(what_else(content)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"absurdly large (more than {Image.MAX_IMAGE_PIXELS:,} pixels)") from error
    except _DAMAGED as error:
        raise DataError(f"damaged or cut off ({str(error) or type(error).__name__})") from error


def _shrink(picture: Image, least_px: int, mode: Mode) -> None:
    """Let the decoder of a JPEG divide both sides by 8, 4 or 2, as far as they stay even and at least `least_px`."""
    # A side that became odd could not be padded to a centred square: the picture would be off by half a pixel.
    width, height = picture.size
    for divisor in (8, 4, 2):
        if width % (2 * divisor) == height % (2 * divisor) == 0 and min(width, height) // divisor >= least_px:
            picture.draft(mode, (width // divisor, height // divisor))  # has no effect on a PNG
            return


def refuse_bombs() -> None:
    """Make Pillow refuse pictures that would fill the memory, which it only warns of, and not warn of broken EXIF."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _check_header(picture: ImageFile, depth: Depth) -> None:
    if min(picture.size) < MIN_SIDE_PX:
        raise DataError(f"{picture.width} x {picture.height} px; want {MIN_SIDE_PX} or more a side")
    if max(picture.size) > MAX_SIDE_PX:
        raise DataError(f"absurdly large ({picture.width} x {picture.height} px, at most {MAX_SIDE_PX} a side)")
    # An MPO is a JPEG with further pictures behind the first: a preview, or a map that brightens it on some screens.
    if (n_frames := getattr(picture, "n_frames", 1)) > 1 and picture.format != "MPO":
        raise DataError(f"holds {n_frames} pictures (animated?); want one")
    layout = str(picture.tile[0].args) if picture.format == "PNG" and picture.tile else ""
    # Pillow reads only the high byte of 16-bit colour, so `window` would stretch a range that has lost its low bits.
    if depth == "window" and "16" in layout and not picture.mode.startswith("I"):
        raise DataError("16 bits in colour or with alpha; save it as grey, or set depth: full to use the high byte")


def _upright(picture: Image) -> Image:
    """Return the picture turned as its EXIF says, or unchanged if the EXIF cannot be read. Viewers do the same."""
    from PIL import ImageOps

    try:
        return ImageOps.exif_transpose(picture)
    except _DAMAGED:
        return picture


def _without_alpha(picture: Image) -> Image:
    """Return the colours of the picture as they are stored. Transparent parts keep their colour."""
    if picture.mode == "P":
        picture = picture.convert("RGBA" if "transparency" in picture.info else "RGB")
    return picture.convert({"LA": "L", "RGBA": "RGB"}.get(picture.mode, picture.mode))


def _eight_bits(values: UInt16, depth: Depth) -> Float32:
    """Return 16-bit grey values as `float32` 0..255."""
    # X-ray detectors often use only 12 of the 16 bits. Divided by 257, such a picture would be almost black.
    low, high = window(values)
    if depth == "full" or high == low:
        return values.astype(np.float32) / np.float32(257)
    return (values.clip(low, high) - np.float32(low)) * np.float32(255 / (high - low))


def window(values: UInt16) -> tuple[int, int]:
    """Return the range of a picture's values without its outliers.

    An outlier lies farther from the 2nd or the 98th percentile than these lie apart. One dead pixel, or a mark that was
    burnt in at the full 16 bits, would otherwise leave a few dark levels to the anatomy.
    """
    # Cutting at percentiles, as is often done, would saturate the brightest pixels of every picture: calcifications
    # and devices. With this rule for outliers (that of the whiskers of a box plot) a picture without any keeps all.
    counts = np.zeros(1 << 16, np.int64)
    for start in range(0, values.size, _AT_ONCE):  # `bincount` makes eight bytes of each value
        counts += np.bincount(values.ravel()[start : start + _AT_ONCE], minlength=len(counts))
    below = np.cumsum(counts)
    low, high = (int(np.searchsorted(below, share * below[-1])) for share in (_OUTER, 1 - _OUTER))
    if low == high:
        return int(values.min()), int(values.max())
    there = np.flatnonzero(counts[: 2 * high - low + 1])
    there = there[there >= 2 * low - high]
    return int(there[0]), int(there[-1])


def _squared(grey: Float32, image_px: int, fit: Fit) -> Float32:
    """Return the picture as a square `float32 [image_px, image_px]`."""
    height, width = grey.shape
    side = min(height, width)
    if fit == "crop":
        top, left = (height - side) // 2, (width - side) // 2
        grey = grey[top : top + side, left : left + side]
    elif fit == "pad" and height < width:
        # The filter is separable, so the short side can be resized after the padding and the long one before it. A long
        # narrow strip that is padded at full size would fill the memory.
        grey = _padded_rows(_resized(grey, height, image_px), width)
    elif fit == "pad" and height > width:
        grey = _padded_rows(_resized(grey, image_px, width).T, height).T
    return _resized(grey, image_px, image_px)


def _padded_rows(grey: Float32, n_rows: int) -> Float32:
    top = (n_rows - len(grey)) // 2
    return np.pad(grey, ((top, n_rows - len(grey) - top), (0, 0)))


def _resized(grey: Float32, height: int, width: int) -> Float32:
    from PIL import Image

    if grey.shape == (height, width):
        return grey
    picture = Image.fromarray(np.ascontiguousarray(grey, dtype=np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))
