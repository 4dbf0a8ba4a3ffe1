"""Pictures into squares: sizes, depths, colours."""

from pathlib import Path

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
    assert np.abs(read_image(tmp_path / "x.png", px, "pad", "window") - reference(square, px)).max() <= 0.51


def test_fits(tmp_path):
    save(tmp_path / "x.png", np.full((16, 32), 200, np.uint8))
    padded = read_image(tmp_path / "x.png", 32, "pad", "window")
    assert padded[:8].max() == 0
    assert padded[24:].max() == 0
    assert (padded[8:24] == 200).all()
    wide = np.arange(32, dtype=np.uint8)[None].repeat(16, 0)
    save(tmp_path / "y.png", wide)
    assert np.array_equal(read_image(tmp_path / "y.png", 16, "crop", "window"), wide[:, 8:24])
    assert np.abs(read_image(tmp_path / "y.png", 16, "stretch", "window") - reference(wide, 16)).max() <= 0.51


@pytest.mark.parametrize("extension", ["png", "jpg"])
def test_grey_colour_palette_and_alpha_agree(tmp_path, extension):
    smooth = np.linspace(20, 220, 32).astype(np.uint8)[None].repeat(32, 0)
    picture = Image.fromarray(smooth)
    modes = ["L", "RGB", "CMYK"] if extension == "jpg" else ["L", "RGB", "RGBA", "LA", "P"]
    for mode in modes:
        converted = picture.quantize(64) if mode == "P" else picture.convert("RGB").convert(mode)
        converted.save(tmp_path / f"{mode}.{extension}")
        result = read_image(tmp_path / f"{mode}.{extension}", 32, "pad", "window")
        allowed = 3 if extension == "jpg" else 0
        assert np.abs(result.astype(int) - smooth).max() <= allowed, mode


@pytest.mark.parametrize("fit", ["pad", "crop", "stretch"])
def test_colour_is_each_plane_as_a_grey_picture_of_its_own(tmp_path, fit):
    pixels = DRAW.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    save(tmp_path / "x.png", pixels)
    for k in range(3):
        save(tmp_path / f"{k}.png", pixels[..., k])
    for px in (16, 32):
        found = read_image(tmp_path / "x.png", px, fit, "window", colour=True)
        assert found.shape == (px, px, 3)
        for k in range(3):
            np.testing.assert_array_equal(found[..., k], read_image(tmp_path / f"{k}.png", px, fit, "window"))


def test_grey_pictures_have_three_equal_planes_where_colour_is_kept(tmp_path):
    save(tmp_path / "8.png")
    Image.fromarray(GREY.astype(np.uint16) * 200).save(tmp_path / "16.png")
    for name in ("8.png", "16.png"):
        grey = read_image(tmp_path / name, 16, "pad", "window")
        found = read_image(tmp_path / name, 16, "pad", "window", colour=True)
        np.testing.assert_array_equal(found, np.repeat(grey[..., None], 3, axis=-1))


def test_palette_and_alpha_keep_their_colours_and_inverting_gives_the_negative(tmp_path):
    pixels = np.full((16, 16, 3), (200, 40, 90), np.uint8)
    save(tmp_path / "rgb.png", pixels)
    Image.fromarray(pixels).convert("P", palette=Image.Palette.ADAPTIVE).save(tmp_path / "palette.png")
    Image.fromarray(np.dstack([pixels, np.zeros((16, 16), np.uint8)])).save(tmp_path / "alpha.png")
    for name in ("rgb", "palette", "alpha"):
        found = read_image(tmp_path / f"{name}.png", 16, "pad", "window", colour=True)
        assert found[3, 4].tolist() == [200, 40, 90]
    negative = read_image(tmp_path / "rgb.png", 16, "pad", "window", invert=True, colour=True)
    assert negative[3, 4].tolist() == [55, 215, 165]


def test_a_jpeg_that_its_decoder_shrinks_keeps_its_colour(tmp_path):
    save(tmp_path / "x.jpg", np.full((256, 256, 3), (200, 40, 90), np.uint8))
    found = read_image(tmp_path / "x.jpg", 32, "pad", "window", draft=True, colour=True)
    assert np.abs(found.astype(int) - (200, 40, 90)).max() <= 2


def test_broken_exif_turns_nothing(tmp_path):
    save(tmp_path / "plain.png")
    save(tmp_path / "broken.png", exif=b"Exif\0\0no exif at all")
    broken, plain = (read_image(tmp_path / f"{n}.png", 16, "pad", "window") for n in ("broken", "plain"))
    assert np.array_equal(broken, plain)


def test_what_is_transparent_is_not_blackened(tmp_path):
    rgba = np.dstack([GREY, GREY, GREY, np.zeros_like(GREY)])
    save(tmp_path / "clear.png", rgba)
    save(tmp_path / "plain.png", GREY)
    clear, plain = (read_image(tmp_path / f"{n}.png", 16, "stretch", "window") for n in ("clear", "plain"))
    assert np.array_equal(clear, plain)


def test_sixteen_bits(tmp_path):
    twelve = np.linspace(100, 4095, 32 * 32).reshape(32, 32).astype(np.uint16)
    save(tmp_path / "x.png", twelve)
    stretched = read_image(tmp_path / "x.png", 32, "pad", "window")
    expected = (twelve - 100.0) / (4095 - 100) * 255
    assert np.abs(stretched - expected).max() <= 0.51
    assert np.abs(read_image(tmp_path / "x.png", 32, "pad", "full") - twelve / 257).max() <= 0.51


def test_one_bit_pictures(tmp_path):
    Image.fromarray(GREY > 128).save(tmp_path / "x.png")
    result = read_image(tmp_path / "x.png", 32, "pad", "window")
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
    found = read_image(tmp_path / "x.png", px, "pad", "window")
    assert np.abs(found - reference(padded, px)).max() <= 0.51


@pytest.mark.parametrize("shape", [(8, 30_000), (30_000, 8)])
def test_a_strip_does_not_fill_the_memory(tmp_path, shape):
    import tracemalloc

    write_png(tmp_path / "x.png", np.full(shape, 9, np.uint8))
    tracemalloc.start()
    read_image(tmp_path / "x.png", 32, "pad", "window")
    assert tracemalloc.get_traced_memory()[1] < 64 << 20  # padded first it is 3.6 GB
    tracemalloc.stop()


def test_sixteen_bits_of_colour_need_a_word(tmp_path):
    deep = DRAW.integers(0, 1 << 16, (16, 16), dtype=np.uint16)
    write_png(tmp_path / "x.png", np.dstack([deep, deep, deep]))
    with pytest.raises(DataError, match="16 bits in colour or with alpha; save it as grey, or set depth: full"):
        read_image(tmp_path / "x.png", 16, "pad", "window")
    assert np.abs(read_image(tmp_path / "x.png", 16, "pad", "full") - deep / 257).max() <= 1


def test_a_picture_that_the_disk_refuses_is_not_called_damaged(tmp_path, monkeypatch):
    save(tmp_path / "x.png")

    def stale(*_args, **_options):
        raise OSError(116, "Stale file handle")

    monkeypatch.setattr(Path, "read_bytes", stale)
    with pytest.raises(OSError, match="Stale"):
        read_image(tmp_path / "x.png", 16, "pad", "window")


def twelve_bits(side=64):
    """A smooth 12-bit picture with noise, as a detector stores it in 16 bits."""
    y, x = np.mgrid[0:side, 0:side] / side
    return (300 + 3000 * np.sin(3 * x) * y + DRAW.normal(0, 30, (side, side))).clip(0, 4095).astype(np.uint16)


@pytest.mark.parametrize("n_marked", [1, 40])
@pytest.mark.parametrize("value", [65535, 0])
def test_dead_pixels_and_burnt_in_marks_leave_the_anatomy_as_it_is(tmp_path, n_marked, value):
    plain = twelve_bits() + 20_000
    marked = plain.copy()
    marked[3, 3 : 3 + n_marked] = value
    for name, pixels in (("plain", plain), ("marked", marked)):
        write_png(tmp_path / f"{name}.png", pixels)
    read = {n: read_image(tmp_path / f"{n}.png", 64, "pad", "window").astype(int) for n in ("plain", "marked")}
    elsewhere = marked == plain
    assert np.abs(read["marked"] - read["plain"])[elsewhere].max() <= 3
    assert set(read["marked"][~elsewhere]) == {255 if value else 0}


def test_a_picture_without_outliers_keeps_its_whole_range(tmp_path):
    for name, pixels in {
        "detector": twelve_bits(),
        "few bright": np.where(DRAW.random((64, 64)) < 0.004, 4095, twelve_bits()),
        "steps": np.repeat(np.array([0, 900, 4095], np.uint16), [2000, 96, 2000]).reshape(64, 64),
    }.items():
        pixels = pixels.astype(np.uint16)
        write_png(tmp_path / "x.png", pixels)
        expected = (pixels - float(pixels.min())) / float(np.ptp(pixels)) * 255
        assert np.abs(read_image(tmp_path / "x.png", 64, "pad", "window") - expected).max() <= 0.51, name


@pytest.mark.parametrize(("values", "expected"), [((5, 5), {0}), ((0, 65535), {0, 255}), ((65535, 65535), {255})])
def test_pictures_of_one_or_two_values(tmp_path, values, expected):
    pixels = np.full((32, 32), values[0], np.uint16)
    pixels[4, 4] = values[1]
    write_png(tmp_path / "x.png", pixels)
    assert set(np.unique(read_image(tmp_path / "x.png", 32, "pad", "window"))) == expected


def test_an_inverted_picture_is_turned_before_it_is_padded(tmp_path):
    save(tmp_path / "x.png", GREY)
    save(tmp_path / "inverted.png", 255 - GREY)
    plain = read_image(tmp_path / "x.png", 32, "pad", "window")
    assert np.array_equal(read_image(tmp_path / "inverted.png", 32, "pad", "window", invert=True), plain)
    assert plain[:4].max() == 0  # the padding stays black


def smooth(side=96):
    return np.add.outer(np.arange(side), np.arange(side)).astype(np.uint8) + DRAW.integers(0, 9, (side, side), np.uint8)


def jpeg(path, **options):
    save(path, smooth(), quality=92, **options)
    return bytearray(path.read_bytes())


def refused(path):
    with pytest.raises(DataError) as error:
        read_image(path, 32, "pad", "window")
    return str(error.value)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end_is_refused_wherever_it_was_cut(tmp_path, progressive):
    whole = bytes(jpeg(tmp_path / "x.jpg", progressive=progressive))
    cuts = [2, 20, len(whole) // 3, len(whole) // 2, len(whole) - 9, len(whole) - 2, len(whole) - 1]
    for cut in cuts:
        for tail in (b"", bytes(len(whole) - cut), b"<html>"):
            (tmp_path / "y.jpg").write_bytes(whole[:cut] + tail)
            assert refused(tmp_path / "y.jpg").startswith(("damaged or cut off", "not a PNG or JPEG")), (cut, tail)


def test_bytes_behind_the_end_of_a_jpeg_are_allowed(tmp_path):
    whole = bytes(jpeg(tmp_path / "x.jpg"))
    (tmp_path / "y.jpg").write_bytes(whole + b"\0" * 100)
    x, y = (read_image(tmp_path / f"{n}.jpg", 32, "pad", "window") for n in "xy")
    assert np.array_equal(x, y)


@pytest.mark.parametrize(
    ("frame", "bits", "said"),
    [(0xC3, 16, "a lossless JPEG"), (0xC1, 12, "a 12-bit JPEG"), (0xF7, 8, "a JPEG-LS file"), (0xC2, 12, "a 12-bit")],
)
def test_kinds_of_jpeg_that_are_not_read_are_named(tmp_path, frame, bits, said):
    content = jpeg(tmp_path / "x.jpg")
    at = content.index(b"\xff\xc0")
    content[at + 1], content[at + 4] = frame, bits
    (tmp_path / "x.jpg").write_bytes(content)
    assert refused(tmp_path / "x.jpg").startswith(said)
    assert "convert it to PNG" in refused(tmp_path / "x.jpg")


def test_the_first_picture_of_a_phones_file_is_read(tmp_path):
    big = Image.fromarray(smooth()).convert("RGB")
    small = Image.fromarray(255 - smooth(32)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter to the right
    big.save(tmp_path / "phone.jpg", "MPO", save_all=True, append_images=[small], quality=95, exif=exif.tobytes())
    big.save(tmp_path / "plain.jpg", quality=95, exif=exif.tobytes())
    phone, plain = (read_image(tmp_path / f"{n}.jpg", 48, "pad", "window") for n in ("phone", "plain"))
    assert np.array_equal(phone, plain)


def test_a_png_with_missing_or_changed_bytes_is_refused(tmp_path):
    save(tmp_path / "x.png", smooth())
    whole = (tmp_path / "x.png").read_bytes()
    half, n = len(whole) // 2, len(whole)
    for name, content in {
        "no end": whole[:-12],
        "no last checksum": whole[:-1],
        "half": whole[:half],
        "zeros": whole[:half] + bytes(n - half),
        "a hole": whole[:half] + bytes(50) + whole[half + 50 :],
        "one bit": whole[:half] + bytes([whole[half] ^ 1]) + whole[half + 1 :],
    }.items():
        (tmp_path / "y.png").write_bytes(content)
        assert refused(tmp_path / "y.png").startswith("damaged or cut off"), name


def test_a_file_that_is_too_large_for_a_picture_is_not_read(tmp_path):
    with open(tmp_path / "x.png", "wb") as handle:
        handle.truncate((1 << 30) + 1)  # a sparse file
    assert "absurdly large (1,073,741,825 bytes" in refused(tmp_path / "x.png")
