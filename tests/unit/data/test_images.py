"""Pictures into grey squares: sizes, depths, colours."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.images import read_image
from bench.errors import DataError
from tests.pictures import write_png

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (24, 32), dtype=np.uint8)


def save(path, pixels=GREY, **options):
    Image.fromarray(pixels).save(path, **options)


def reference(pixels, px):
    """Antialiased triangle filter, by torch."""
    tensor = torch.from_numpy(np.asarray(pixels, np.float32))[None, None]
    return torch.nn.functional.interpolate(tensor, (px, px), mode="bilinear", antialias=True)[0, 0].numpy()


@pytest.mark.parametrize("px", [8, 16, 48])
def test_resizing_is_antialiased(tmp_path, px):
    square = DRAW.integers(0, 256, (32, 32), dtype=np.uint8)
    save(tmp_path / "x.png", square)
    assert np.abs(read_image(tmp_path / "x.png", px, "pad", "minmax") - reference(square, px)).max() <= 0.51


def test_fits(tmp_path):
    save(tmp_path / "x.png", np.full((16, 32), 200, np.uint8))
    padded = read_image(tmp_path / "x.png", 32, "pad", "minmax")
    assert padded[:8].max() == 0
    assert padded[24:].max() == 0
    assert (padded[8:24] == 200).all()
    wide = np.arange(32, dtype=np.uint8)[None].repeat(16, 0)
    save(tmp_path / "y.png", wide)
    assert np.array_equal(read_image(tmp_path / "y.png", 16, "crop", "minmax"), wide[:, 8:24])
    assert np.abs(read_image(tmp_path / "y.png", 16, "stretch", "minmax") - reference(wide, 16)).max() <= 0.51


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_grey_colour_palette_and_alpha_agree(tmp_path, extension):
    smooth = np.linspace(20, 220, 32).astype(np.uint8)[None].repeat(32, 0)
    picture = Image.fromarray(smooth)
    modes = ["L", "RGB", "CMYK"] if extension == "jpg" else ["L", "RGB", "RGBA", "LA", "P"]
    for mode in modes:
        converted = picture.quantize(64) if mode == "P" else picture.convert("RGB").convert(mode)
        converted.save(tmp_path / f"{mode}.{extension}")
        result = read_image(tmp_path / f"{mode}.{extension}", 32, "pad", "minmax")
        allowed = 3 if extension == "jpg" else 0
        assert np.abs(result.astype(int) - smooth).max() <= allowed, mode


def test_broken_exif_turns_nothing(tmp_path):
    save(tmp_path / "plain.png")
    save(tmp_path / "broken.png", exif=b"Exif\0\0no exif at all")
    broken, plain = (read_image(tmp_path / f"{n}.png", 16, "pad", "minmax") for n in ("broken", "plain"))
    assert np.array_equal(broken, plain)


def test_what_is_transparent_is_not_blackened(tmp_path):
    rgba = np.dstack([GREY, GREY, GREY, np.zeros_like(GREY)])
    save(tmp_path / "clear.png", rgba)
    save(tmp_path / "plain.png", GREY)
    clear, plain = (read_image(tmp_path / f"{n}.png", 16, "stretch", "minmax") for n in ("clear", "plain"))
    assert np.array_equal(clear, plain)


def test_sixteen_bits(tmp_path):
    twelve = np.linspace(100, 4095, 32 * 32).reshape(32, 32).astype(np.uint16)
    save(tmp_path / "x.png", twelve)
    stretched = read_image(tmp_path / "x.png", 32, "pad", "minmax")
    expected = (twelve - 100.0) / (4095 - 100) * 255
    assert np.abs(stretched - expected).max() <= 0.51
    assert np.abs(read_image(tmp_path / "x.png", 32, "pad", "full") - twelve / 257).max() <= 0.51


def test_one_bit_pictures(tmp_path):
    Image.fromarray(GREY > 128).save(tmp_path / "x.png")
    result = read_image(tmp_path / "x.png", 32, "pad", "minmax")
    assert set(np.unique(result[4:28])) == {0, 255}


@pytest.mark.parametrize("shape", [(20, 301), (301, 20), (9, 64), (64, 63)])
@pytest.mark.parametrize("px", [16, 80])
def test_a_picture_padded_late_is_the_picture_padded_first(tmp_path, shape, px):
    pixels = DRAW.integers(0, 256, shape, dtype=np.uint8)
    save(tmp_path / "x.png", pixels)
    side = max(shape)
    padded = np.zeros((side, side), np.uint8)
    top, left = ((side - n) // 2 for n in shape)
    padded[top : top + shape[0], left : left + shape[1]] = pixels
    found = read_image(tmp_path / "x.png", px, "pad", "minmax")
    assert np.abs(found - reference(padded, px)).max() <= 0.51


@pytest.mark.parametrize("shape", [(8, 30_000), (30_000, 8)])
def test_a_strip_does_not_fill_the_memory(tmp_path, shape):
    import tracemalloc

    write_png(tmp_path / "x.png", np.full(shape, 9, np.uint8))
    tracemalloc.start()
    read_image(tmp_path / "x.png", 32, "pad", "minmax")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20  # padded first it is 3.6 GB
    tracemalloc.stop()


def test_sixteen_bits_of_colour_need_a_word(tmp_path):
    deep = DRAW.integers(0, 1 << 16, (16, 16), dtype=np.uint16)
    write_png(tmp_path / "x.png", np.dstack([deep, deep, deep]))
    with pytest.raises(DataError, match="16 bits in colour or with alpha; save it as grey, or set depth: full"):
        read_image(tmp_path / "x.png", 16, "pad", "minmax")
    assert np.abs(read_image(tmp_path / "x.png", 16, "pad", "full") - deep / 257).max() <= 1


def test_a_picture_that_the_disk_refuses_is_not_called_damaged(tmp_path, monkeypatch):
    save(tmp_path / "x.png")

    def stale(*_args, **_options):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Image, "open", stale)
    with pytest.raises(OSError, match="Stale"):
        read_image(tmp_path / "x.png", 16, "pad", "minmax")
