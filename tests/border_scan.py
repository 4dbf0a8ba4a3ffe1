"""A scanner of what was written: it unpacks all that it can, then looks for words, rows of pixels and a planted mark."""

from __future__ import annotations

import base64
import io
import re
import struct
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

MARK = np.array([1, 1, 1, 1, 1, 0, 0, 1, 1, 0, 1, 0, 1], dtype=np.float32)  # Barker's code: like nothing but itself
_WIDTHS = (26, 32, 64, 120, 124, 128, 132, 136, 140, 176, 180, 184, 224, 256)  # of a picture that is looked for
_EVERY, _EVERY_OF_MANY, _MANY = 3, 12, 400  # rows that are looked at; of high pictures fewer
_AGREE = 3  # of them, one below the other
_ESCAPED = {b"n": b"\n", b"r": b"\r", b"t": b"\t", b"b": b"\b", b"f": b"\f"}  # in the texts of a PDF
_BLOCK, _HEADER = 32768, 7  # of W&B's transaction log


@dataclass
class Found:
    """What a folder held: where each thing was.

    Attributes:
        words: word → files.
        rows: files that hold a row of pixels (or of numbers) of an array.
        marks: files with a picture that shows the mark.
        pictures: how many pictures were looked at.
    """

    words: dict[str, set[str]] = field(default_factory=dict)
    rows: set[str] = field(default_factory=set)
    marks: set[str] = field(default_factory=set)
    pictures: int = 0


def plant(image: np.ndarray) -> np.ndarray:
    """Return a picture with the mark over its upper half, the darks and the lights of its own not quite covered."""
    height, width = image.shape
    bits = MARK[(np.arange(width) * len(MARK) // width)]
    marked = image.astype(np.float32)
    marked[: height // 2] = 0.1 * marked[: height // 2] + 225 * bits
    return marked.astype(np.uint8)


def scan(folder: Path, words: Iterable[str], arrays: Iterable[np.ndarray]) -> Found:
    """Look through every file below `folder`, its name too.

    Args:
        folder: what was written.
        words: texts, looked for without regard to case, and as UTF-16 too.
        arrays: images, maps, latents; of each row of an array one line of numbers is looked for, as bytes.
    """
    found, lines = Found(), Lines(line for array in arrays for line in _lines(array))
    needles = {w: (w.lower().encode(), w.lower().encode("utf-16-le")) for w in words}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink() or path.is_dir():
            pieces: list[bytes] = [name.encode(), str(path.readlink()).encode() if path.is_symlink() else b""]
        else:
            pieces = [name.encode(), *_unpacked(path.read_bytes())]
        for piece in pieces:
            lower = piece.lower()
            for word, forms in needles.items():
                if any(form in lower for form in forms):
                    found.words.setdefault(word, set()).add(name)
            if lines.any_in(piece):
                found.rows.add(name)
            picture = _picture(piece)
            if picture is not None:
                found.pictures += 1
                if lines.any_in(picture.tobytes()):
                    found.rows.add(name)
                if shows_mark(picture):
                    found.marks.add(name)
    return found


class Lines:
    """Many lines of bytes to look for at once."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self.starting: dict[bytes, set[bytes]] = {}
        for line in lines:
            self.starting.setdefault(line[:8], set()).add(line)
        self.pairs = np.zeros((4, 1 << 16), dtype=bool)  # two bytes that some line has at 0, 2, 4, 6
        for start in self.starting:
            self.pairs[np.arange(4), np.frombuffer(start, dtype="<u2")] = True

    def any_in(self, data: bytes) -> bool:
        """Tell whether one of the lines is in the data, wherever it begins."""
        one = np.frombuffer(data, dtype=np.uint8).astype(np.uint16)
        pairs = one[:-1] | one[1:] << 8
        n = len(pairs) - 6
        if n <= 0:
            return False
        maybe = self.pairs[0][pairs[:n]]
        for k in range(1, 4):
            maybe &= self.pairs[k][pairs[2 * k : 2 * k + n]]
        places = (int(i) for i in np.flatnonzero(maybe))
        return any(data.startswith(line, i) for i in places for line in self.starting.get(data[i : i + 8], ()))


def _lines(array: np.ndarray) -> Iterator[bytes]:
    """Yield, of every row, the line with the most different values, as the bytes that a file would hold."""
    for one in array:
        flat = np.ascontiguousarray(one).reshape(-1, one.shape[-1])
        variety = [len(np.unique(line)) for line in flat]
        best = int(np.argmax(variety))
        if variety[best] >= min(8, flat.shape[1]):
            yield flat[best].tobytes()


def _unpacked(data: bytes, depth: int = 0) -> Iterator[bytes]:
    """Yield the bytes and all that can be unpacked of them: logs, compressed streams, pictures in text."""
    yield data
    if depth > 3:
        return
    if data[:4] == b":W&B":
        yield _records(data)
    for match in re.finditer(rb"data:[\w/+.-]+;base64,([A-Za-z0-9+/=]+)", data):
        yield from _unpacked(base64.b64decode(match[1]), depth + 1)
    yield from _pictures_of_pdf(data)
    if data[:4] not in (b"\x89PNG", b"RIFF"):  # their pixels are looked at as pictures
        for match in re.finditer(rb"\x78[\x01\x5e\x9c\xda]|\x1f\x8b\x08", data):
            with_header = zlib.decompressobj(wbits=47)
            try:
                inner = with_header.decompress(data[match.start() :])
            except zlib.error:
                continue
            if len(inner) > 32:
                yield from _unpacked(inner, depth + 1)


def _pictures_of_pdf(data: bytes) -> Iterator[bytes]:
    """Yield the pictures of a PDF as PNG files: their streams are what such a file holds."""
    for match in re.finditer(rb"<<((?:(?!endobj|stream).)*?/Subtype /Image.*?)>>\s*stream\r?\n", data, re.DOTALL):
        facts = match[1]
        numbers = [int(re.search(rb"/%s (\d+)" % n, facts)[1]) for n in (b"Width", b"Height", b"BitsPerComponent")]
        palette = re.search(rb"/Indexed /DeviceRGB \d+\s*\((.*)\)\s*\]", facts, re.DOTALL)
        colour = 3 if palette else 2 if b"/DeviceRGB" in facts else 0
        stream = data[match.end() : data.index(b"endstream", match.end())]
        colours = re.sub(rb"\\(.)", lambda m: _ESCAPED.get(m[1], m[1]), palette[1], flags=re.DOTALL) if palette else b""
        chunks = [(b"IHDR", struct.pack(">IIBBBBB", *numbers, colour, 0, 0, 0))]
        chunks += [(b"PLTE", colours)] if palette else []
        chunks += [(b"IDAT", stream), (b"IEND", b"")]
        body = (struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
        yield b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _records(data: bytes) -> bytes:
    """Return a transaction log without the headers that stand inside long records."""
    out, at = bytearray(), _HEADER
    while at + _HEADER <= len(data):
        left = _BLOCK - at % _BLOCK
        if left < _HEADER:
            at += left
            continue
        length = int.from_bytes(data[at + 4 : at + 6], "little")
        out += data[at + _HEADER : at + _HEADER + length]
        at += _HEADER + length
    return bytes(out)


def _picture(data: bytes) -> np.ndarray | None:
    if data[:4] not in (b"\x89PNG", b"RIFF") and data[:3] != b"\xff\xd8\xff" and data[:3] != b"GIF":
        return None
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("L"))


def shows_mark(picture: np.ndarray) -> bool:
    """Tell whether some rows, one below the other, show the mark at the same place."""
    rows = picture[:: _EVERY if len(picture) < _MANY else _EVERY_OF_MANY].astype(np.float32)
    rows = rows[np.ptp(rows, axis=1) > 60]
    for width in _WIDTHS:
        if picture.shape[1] < width or len(rows) < _AGREE:
            continue
        hits = _correlation(rows, width) > 0.85
        run = hits[: len(hits) - _AGREE + 1].copy()
        for k in range(1, _AGREE):
            run &= hits[k : len(hits) - _AGREE + 1 + k]
        if run.any():
            return True
    return False


def _correlation(rows: np.ndarray, width: int) -> np.ndarray:
    """Return the correlation of the mark at each place of each row; 0 where a row is flat."""
    template = MARK[np.arange(width) * len(MARK) // width]
    template = (template - template.mean()) / np.linalg.norm(template - template.mean())
    n = rows.shape[1]
    spectrum = np.fft.rfft(rows, n, axis=1) * np.conj(np.fft.rfft(template, n))
    products = np.fft.irfft(spectrum, n, axis=1)[:, : n - width + 1]
    sums, squares = (np.cumsum(np.pad(r, ((0, 0), (1, 0))), axis=1, dtype=np.float64) for r in (rows, rows**2))
    total = sums[:, width:] - sums[:, :-width]
    spread = np.sqrt(np.maximum(squares[:, width:] - squares[:, :-width] - total**2 / width, 0))
    return np.where(spread > 20 * np.sqrt(width), products / np.maximum(spread, 1e-6), 0.0)
