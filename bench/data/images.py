"""Read PNG and JPEG files of any size, depth and colour into square grey arrays, or say why one cannot be read."""

from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from bench.errors import DataError
from bench.tables import Float32, UInt8

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageFile import ImageFile

Fit = Literal["pad", "crop", "stretch"]
Depth = Literal["minmax", "full"]
MIN_SIDE_PX, MAX_SIDE_PX = 8, 30_000
_OTHERS = {  # file formats that people give by mistake: name, and the offset and the bytes that mark them
    "a DICOM file": (128, b"DICM"),
    "a GIF file": (0, b"GIF8"),
    "a TIFF file": (0, b"II*\0"),
    "a TIFF file of the other byte order": (0, b"MM\0*"),
    "a BMP file": (0, b"BM"),
    "a WebP file": (8, b"WEBP"),
    "a JPEG 2000 file": (4, b"jP  "),
    "a HEIF or AVIF file": (4, b"ftyp"),
    "a PDF file": (0, b"%PDF"),
    "a packed file (gzip)": (0, b"\x1f\x8b"),
}
# Pillow raises any of these for a file that is cut off or damaged, depending on the place of the damage.
_DAMAGED = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def read_image(path: Path, image_px: int, fit: Fit, depth: Depth, draft: bool = False) -> UInt8:
    """Return the picture in `path` as a grey array `uint8 [image_px, image_px]`.

    Colour is converted to luma (ITU-R 601), an alpha channel is ignored, and the EXIF orientation is applied. The
    picture is made square and then resized in floating point with an antialiasing triangle filter.

    Args:
        path: a PNG or JPEG file with one picture.
        image_px: the side of the result in pixels.
        fit: `pad` with black to a centred square, `crop` the central square, or `stretch`.
        depth: how 16 bits become 8. `minmax` stretches the picture's own range; `full` divides by 257, or takes the
            high byte if there is colour or alpha.
        draft: let the JPEG decoder shrink the picture by 2, 4 or 8 (means of blocks) while its sides stay even and at
            least twice `image_px`. Large pictures then take a third of the time, and values differ a little.

    Raises:
        DataError: if the picture cannot be used. The message says what is wrong, without the name of the file.
        OSError: if the file cannot be read now, which is the fault of the disk and not of the picture.
    """
    grey = _squared(_grey(path, depth, 2 * image_px if draft else None), image_px, fit)
    return np.rint(grey).clip(0, 255).astype(np.uint8)


def _grey(path: Path, depth: Depth, least_px: int | None = None) -> Float32:
    """Return the picture as `float32 [H, W]` in 0..255.

    If `least_px` is given, a JPEG is shrunk by its decoder, to sides of at least `least_px`.

    Raises:
        DataError: if the picture cannot be used.
        OSError: if the file cannot be read now.
    """
    from PIL import Image

    try:
        with Image.open(path, formats=("PNG", "JPEG")) as picture:
            _check_header(picture, depth)
            if least_px is not None:
                _shrink(picture, least_px)
            picture.load()
            turned = _upright(picture)
            if turned.mode.startswith("I"):
                return _eight_bits(np.asarray(turned).astype(np.float32), depth)
            return np.asarray(_without_alpha(turned).convert("L")).astype(np.float32)
    except Image.UnidentifiedImageError as error:
        raise DataError(_what_else(path)) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"absurdly large (more than {Image.MAX_IMAGE_PIXELS:,} pixels)") from error
    except _DAMAGED as error:
        # Pillow reports damage as an OSError too, but without an errno. With one, the disk has failed.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DataError(f"damaged or cut off ({str(error) or type(error).__name__})") from error


def _shrink(picture: Image, least_px: int) -> None:
    """Let the decoder of a JPEG divide both sides by 8, 4 or 2, as far as they stay even and at least `least_px`."""
    # A side that became odd could not be padded to a centred square: the picture would be off by half a pixel.
    width, height = picture.size
    for divisor in (8, 4, 2):
        if width % (2 * divisor) == height % (2 * divisor) == 0 and min(width, height) // divisor >= least_px:
            picture.draft("L", (width // divisor, height // divisor))  # has no effect on a PNG
            return


def refuse_bombs() -> None:
    """Make Pillow refuse pictures that would fill the memory, which it only warns of, and not warn of broken EXIF."""
    from PIL import Image

    warnings.filterwarnings("ignore", category=UserWarning, module="PIL")
    warnings.simplefilter("error", Image.DecompressionBombWarning)


def _what_else(path: Path) -> str:
    with open(path, "rb") as handle:
        start = handle.read(132)
    for name, (at, magic) in _OTHERS.items():
        if start[at : at + len(magic)] == magic:
            return f"{name}; convert it to PNG or JPEG"
    if start.startswith((b"\x89PNG", b"\xff\xd8\xff")):
        return "damaged or cut off (nothing behind its first bytes can be read)"
    return "not a PNG or JPEG file"


def _check_header(picture: ImageFile, depth: Depth) -> None:
    if min(picture.size) < MIN_SIDE_PX:
        raise DataError(f"{picture.width} x {picture.height} px; want {MIN_SIDE_PX} or more a side")
    if max(picture.size) > MAX_SIDE_PX:
        raise DataError(f"absurdly large ({picture.width} x {picture.height} px, at most {MAX_SIDE_PX} a side)")
    if (n_frames := getattr(picture, "n_frames", 1)) > 1:
        raise DataError(f"holds {n_frames} pictures (animated?); want one")
    layout = str(picture.tile[0].args) if picture.format == "PNG" and picture.tile else ""
    # Pillow reads only the high byte of 16-bit colour, so `minmax` would stretch a range that has lost its low bits.
    if depth == "minmax" and "16" in layout and not picture.mode.startswith("I"):
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


def _eight_bits(values: Float32, depth: Depth) -> Float32:
    """Return 16-bit grey values as 0..255."""
    # X-ray detectors often use only 12 of the 16 bits. Divided by 257, such a picture would be almost black.
    low, high = float(values.min()), float(values.max())
    if depth == "full" or high == low:
        return values / np.float32(257)
    return (values - np.float32(low)) * np.float32(255 / (high - low))


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
