"""Look at the bytes of a picture before they are decoded: what they are, and whether all of them are there.

Decoders are lenient. They fill what is missing with grey or black, and a picture that lacks its lower half would be
taken for a whole one.
"""

from __future__ import annotations

import re
import zlib

from bench.errors import DataError

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
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_SCAN, _END, _NO_LENGTH = 0xDA, b"\xff\xd9", (0x01, 0xD8)
_FRAMES = (*range(0xC0, 0xC4), *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0))  # "start of frame"
_LOSSLESS, _JPEG_LS = (0xC3, 0xC7, 0xCB, 0xCF), 0xF7


def what_else(content: bytes) -> str:
    """Return what a file is that cannot be read as a PNG or JPEG, and what to do."""
    for name, (at, magic) in _OTHERS.items():
        if content[at : at + len(magic)] == magic:
            return f"{name}; convert it to PNG or JPEG"
    if content.startswith((_PNG[:4], _JPEG)):
        return "damaged or cut off (nothing behind its first bytes can be read)"
    return "not a PNG or JPEG file"


def refuse_incomplete(content: bytes) -> None:
    """Refuse a PNG or JPEG whose end is missing or whose checksums are wrong, and kinds of JPEG that are not read.

    Bytes behind the end of the picture are allowed: phones store a second picture there.

    Raises:
        DataError: saying what is wrong.
    """
    if content.startswith(_JPEG):
        _check_jpeg(content)
    elif content.startswith(_PNG):
        _check_png(content)


def _check_jpeg(content: bytes) -> None:
    at = 2
    while marker := _MARKER.search(content, at):
        kind, at = marker[1][0], marker.end()
        # Compressed data never holds the end marker: a byte FF is followed by 00 there.
        if kind == _SCAN:
            if content.find(_END, at) >= 0:
                return
            break
        if kind in _FRAMES or kind == _JPEG_LS:
            _check_frame(kind, content[at + 2 : at + 3])
        if kind not in _NO_LENGTH:
            at += int.from_bytes(content[at : at + 2], "big")
    raise DataError("damaged or cut off (the end marker of the JPEG is missing)")


def _check_frame(kind: int, depth: bytes) -> None:
    bits = int.from_bytes(depth, "big")  # 0 where the file ends before it
    # Archives export these for their 12 or 16 bits. Said to be damaged, they would be downloaded again in vain.
    named = "JPEG-LS file" if kind == _JPEG_LS else "lossless JPEG" if kind in _LOSSLESS else f"{bits}-bit JPEG"
    if kind == _JPEG_LS or kind in _LOSSLESS or bits not in (0, 8):
        raise DataError(f"a {named}, which is not read; convert it to PNG (of 16 bits, to keep all grey levels)")


def _check_png(content: bytes) -> None:
    view, at = memoryview(content), len(_PNG)
    while at + 12 <= len(content):
        length, name = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        end = at + 8 + length
        # A chunk with a small first letter is not needed for the pixels.
        if name[:1].isupper() and zlib.crc32(view[at + 4 : end]) != int.from_bytes(content[end : end + 4], "big"):
            raise DataError("damaged or cut off (a checksum of the PNG is wrong)")
        if name == b"IEND":
            return
        at = end + 4
    raise DataError("damaged or cut off (the end of the PNG is missing)")
