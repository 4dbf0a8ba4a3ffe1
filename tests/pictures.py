"""A PNG encoder of our own: pixel values that no decoder's library had a hand in."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import numpy.typing as npt

_COLOUR = {1: 0, 2: 4, 3: 2, 4: 6}  # channels: colour type of the format


def write_png(path: Path, pixels: npt.NDArray[np.integer], bits: int | None = None) -> None:
    """Write `[H, W]` or `[H, W, channels]` of uint8 or uint16; `bits` below 8 packs grey values of that many bits."""
    bits = bits or pixels.dtype.itemsize * 8
    height, width, channels = (*pixels.shape, 1)[:3]
    if bits < 8:
        unpacked = np.unpackbits(pixels.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
        rows = np.packbits(unpacked.reshape(height, -1), axis=1)
    else:
        rows = pixels.reshape(height, -1).astype(f">u{bits // 8}").view(np.uint8)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    header = struct.pack(">IIBBBBB", width, height, bits, _COLOUR[channels], 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", body), (b"IEND", b"")]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*c) for c in chunks))


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
