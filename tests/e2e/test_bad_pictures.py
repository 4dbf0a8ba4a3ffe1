"""Pictures: those that cannot be used fail their cell in one line, all others are read as they look."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.e2e.driver import Bench
from tests.e2e.faulty import HEADER, ROW, Case, N, failed_line, good_rows
from tests.pictures import write_png


def saved(name: str, mode: str = "L", **options: Any) -> Callable[[Path], None]:
    """Return what writes a picture with Pillow under a name that may not fit its format."""

    def prepare(root: Path) -> None:
        noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
        frames = [Image.fromarray(np.roll(noise, i)).convert(mode) for i in range(options.pop("frames", 1))]
        more = {"save_all": True, "append_images": frames[1:]} if frames[1:] else {}
        frames[0].save(root / name, **options, **more)

    return prepare


def cut(name: str, kept: float, **options: Any) -> Callable[[Path], None]:
    """Return what writes the first part of a picture."""

    def prepare(root: Path) -> None:
        saved(name, **options)(root)
        whole = (root / name).read_bytes()
        (root / name).write_bytes(whole[: int(kept * len(whole))])

    return prepare


def raw(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(content) and None


def black(name: str, side: int) -> Callable[[Path], None]:
    return lambda root: Image.new("1", (side, side)).save(root / name)


def png(name: str, shape: tuple[int, ...], dtype: type = np.uint8, bits: int | None = None) -> Callable[[Path], None]:
    return lambda root: write_png(root / name, np.zeros(shape, dtype), bits)


BAD = ["bad.png,p0,train,1,0"]
PICTURES: dict[str, Case] = {
    "cut PNG": Case("bad.png: damaged or cut off", BAD, prepare=cut("bad.png", 0.5)),
    "cut header": Case("bad.png: damaged or cut off", BAD, prepare=cut("bad.png", 0.003)),
    "cut JPEG": Case("bad.jpg: damaged or cut off", ["bad.jpg,p0,train,1,0"], prepare=cut("bad.jpg", 0.5)),
    "text": Case("bad.png: not a PNG or JPEG file", BAD, prepare=raw("bad.png", b"<html>404</html>")),
    "DICOM": Case("bad.png: a DICOM file; convert it to PNG", BAD, prepare=raw("bad.png", bytes(128) + b"DICM" + bytes(99))),
    "GIF": Case("bad.png: a GIF file; convert it to PNG", BAD, prepare=saved("bad.png", format="GIF")),
    "animated GIF": Case("bad.png: a GIF file", BAD, prepare=saved("bad.png", format="GIF", frames=3)),
    "float TIFF": Case("bad.png: a TIFF file", BAD, prepare=saved("bad.png", "F", format="TIFF")),
    "many-page TIFF": Case("bad.png: a TIFF file", BAD, prepare=saved("bad.png", format="TIFF", frames=3)),
    "WebP": Case("bad.png: a WebP file", BAD, prepare=saved("bad.png", format="WEBP")),
    "animated PNG": Case("bad.png: holds 3 pictures (animated?); want one", BAD, prepare=saved("bad.png", frames=3)),
    "1 x 1": Case("bad.png: 1 x 1 px; want 8 or more a side", BAD, prepare=png("bad.png", (1, 1))),
    "wide": Case("bad.png: absurdly large (30001 x 8 px", BAD, prepare=png("bad.png", (8, 30_001))),
    "bomb that Pillow warns of": Case("bad.png: absurdly large", BAD, prepare=black("bad.png", 9_500)),
    "bomb that Pillow refuses": Case("bad.png: absurdly large", BAD, prepare=black("bad.png", 20_000)),
    "JPEG without its end": Case("bad.jpg: damaged or cut off (the end marker", ["bad.jpg,p0,train,1,0"], prepare=cut("bad.jpg", 0.999)),
    "16 bits of colour": Case("bad.png: 16 bits in colour or with alpha", BAD, prepare=png("bad.png", (32, 32, 3), np.uint16)),
    "16 bits with alpha": Case("bad.png: 16 bits in colour or with alpha", BAD, prepare=png("bad.png", (32, 32, 2), np.uint16)),
}  # fmt: skip


@pytest.mark.filterwarnings("default")  # as in a run: Pillow's warning alone must not be what refuses
@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_that_cannot_be_used_fails_the_cell_before_anything_else(
    bench: Bench, tmp_path: Path, name: str
) -> None:
    case = PICTURES[name]
    said = bench("run", case.matrix(tmp_path), "--store", tmp_path / "store", "--wandb", "off", "--jobs", 1, "--quiet")
    line = failed_line(said)
    assert line.startswith("failed: folder/baseline/s0: DataError: ")
    assert f"labels.csv: 1 bad picture: {ROW}: {case.said}" in line
    assert not list((tmp_path / "store").glob("*/*/manifest.json"))


def upright(pixels: np.ndarray) -> bytes:
    """Return EXIF that says "turn a quarter to the right", which a viewer does."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif.tobytes()


def accepted(root: Path) -> Iterator[tuple[str, np.ndarray, int]]:
    """Write a picture of every kind that is read; yield its name, its grey values and what rounding is allowed."""
    smooth = np.add.outer(np.linspace(10, 120, 32), np.linspace(10, 120, 32)).round().astype(np.uint8)
    noise = np.random.default_rng(2).integers(0, 256, (32, 32, 4), dtype=np.uint8)
    luma = noise[..., :3] @ np.array([0.299, 0.587, 0.114])
    twelve = (smooth.astype(np.uint16) + 7) * 16

    def pillow(name: str, picture: Any, **options: Any) -> str:
        picture.save(root / name, **options)
        return name

    for name, pixels, grey in [
        ("grey", smooth, smooth),
        ("grey-alpha", np.dstack([smooth, noise[..., 3]]), smooth),
        ("colour", noise[..., :3], luma),
        ("colour-alpha", noise, luma),
        ("sixteen", twelve, (twelve - twelve.min()) * (255 / np.ptp(twelve))),
    ]:
        write_png(root / f"{name}.png", pixels)
        yield f"{name}.png", grey, 1
    for bits in (1, 2, 4):
        few = smooth >> (8 - bits)
        write_png(root / f"bits{bits}.png", few, bits)
        yield f"bits{bits}.png", few * (255 // (2**bits - 1)), 0
    plain = Image.fromarray(smooth)
    yield pillow("palette.png", Image.fromarray(smooth >> 2 << 2).quantize(64)), smooth >> 2 << 2, 0
    yield pillow("clear.png", Image.fromarray(smooth >> 2 << 2).quantize(64), transparency=0), smooth >> 2 << 2, 0
    yield pillow("grey.jpg", plain, quality=95), smooth, 3
    yield pillow("colour.jpg", plain.convert("RGB"), quality=95, progressive=True), smooth, 3
    yield pillow("print.jpg", plain.convert("RGB").convert("CMYK"), quality=95), smooth, 3
    yield pillow("turned.jpg", plain, quality=95, exif=upright(smooth)), np.rot90(smooth, -1), 3
    yield pillow("turned.png", plain, exif=upright(smooth)), np.rot90(smooth, -1), 0
    for name, shape in {"wide": (10, 32), "tall": (32, 10)}.items():
        side = [(32 - n) // 2 for n in shape]
        write_png(root / f"{name}.png", smooth[: shape[0], : shape[1]])
        padded = np.zeros((32, 32))
        padded[side[0] : side[0] + shape[0], side[1] : side[1] + shape[1]] = smooth[: shape[0], : shape[1]]
        yield f"{name}.png", padded, 0
    write_png(root / "long.png", np.full((8, 30_000), 200, np.uint8))
    yield "long.png", np.zeros((32, 32)), 2
    write_png(root / "double.png", smooth.repeat(3, 0).repeat(3, 1))
    yield "double.png", smooth, 6


def test_what_is_accepted_runs_to_the_table_and_every_picture_is_read_right(bench: Bench, tmp_path: Path) -> None:
    case = Case("")
    matrix = case.matrix(tmp_path)
    pictures = list(accepted(tmp_path / "data"))
    rows = good_rows() + [f"{name},p{i % 4},x,{i % 2},{int(i % 3 == 0)}" for i, (name, _, _) in enumerate(pictures)]
    text = "\r\n".join(["\ufeff" + HEADER, *rows])  # with the mark and the line ends of a spreadsheet
    (tmp_path / "data" / "labels.csv").write_bytes(text.encode())
    said = bench("run", matrix, "--store", tmp_path / "store", "--wandb", "off", "--jobs", 1, "--quiet", "--json")
    assert said.code == 0, said.err
    [row] = json.loads(said.out)
    assert 0 <= row["map_all"] <= 1
    [table] = (tmp_path / "store" / "dataset-folder").glob("*/images.npy")
    images = np.load(table)[N:].astype(float)
    off = {n: np.abs(image - grey).max() for image, (n, grey, _) in zip(images, pictures, strict=True)}
    assert {n: o for (n, _, allowed), o in zip(pictures, off.values(), strict=True) if o > allowed} == {}
