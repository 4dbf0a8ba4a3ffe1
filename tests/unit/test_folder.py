"""A folder of pictures and a CSV: what is read, and that what cannot be read is said by row."""

import os

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from bench.datasets.folder import FolderDataset
from bench.datasets.images import read_image
from bench.errors import DataError
from bench.store import Store

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (24, 32), dtype=np.uint8)
CLASSES = "a,b,c"


def save(path, pixels=GREY, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def folder(tmp_path, lines, header=f"path,{CLASSES}", pictures=8, encoding="utf-8", **settings):
    """Return a data set over `pictures` written pictures 0.png, 1.png, … and these CSV lines."""
    for i in range(pictures):
        save(tmp_path / f"{i}.png", np.roll(GREY, i))
    (tmp_path / "labels.csv").write_text("\n".join([header, *lines]), encoding=encoding)
    return FolderDataset(csv=str(tmp_path / "labels.csv"), image_px=16, **settings)


def read(dataset, tmp_path):
    return Store(tmp_path / "store").get(dataset)


GOOD = ["0.png,1,0,0", "1.png,0,1,0", "2.png,1,,0", "3.png,1,-1,1"]


def fault(tmp_path, lines, **settings):
    with pytest.raises(DataError) as caught:
        read(folder(tmp_path, lines, **settings), tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is read


def test_labels_patients_splits_and_tail(tmp_path):
    lines = [
        "0.png,ann,train,1,0,0", "1.png,ann,train,0,1,0", "2.png,bob,validate,1,,0",
        "3.png,cy,TEST,1,-1,1", "4.png,dan,train,1,1,1.0",
    ]  # fmt: skip
    settings = {"patient_column": "who", "split_column": "part", "n_tail": 1}
    table = read(folder(tmp_path, lines, "path,who,part,a,b,c", **settings), tmp_path)
    nan = np.nan
    np.testing.assert_array_equal(table.labels, [[1, 0, 0], [0, 1, 0], [1, nan, 0], [1, nan, 1], [1, 1, 1]])
    assert table.patients.tolist() == [0, 0, 1, 2, 3]
    assert table.splits.tolist() == [0, 0, 1, 2, 0]
    assert (table.class_names, table.head, table.tail) == (("a", "b", "c"), ("a", "b"), ("c",))
    assert table.images.shape == (5, 16, 16)


def test_without_a_patient_column_every_image_is_its_own_patient(tmp_path):
    assert read(folder(tmp_path, GOOD), tmp_path).patients.tolist() == [0, 1, 2, 3]


def test_rarest_half_is_the_tail_and_names_win(tmp_path):
    assert read(folder(tmp_path, GOOD), tmp_path).tail == ("b",)
    named = read(folder(tmp_path, GOOD, tail=("a",), head=("c",)), tmp_path)
    assert (named.head, named.tail) == (("c",), ("a",))


def test_other_columns_are_not_classes(tmp_path):
    lines = [f"{i}.png,{50 + i},F,{i % 2},{int(i == 1)}" for i in range(5)]
    assert read(folder(tmp_path, lines, "path,age,sex,a,b"), tmp_path).class_names == ("a", "b")


def test_a_byte_order_mark_quotes_crlf_and_blank_lines_are_fine(tmp_path):
    dataset = folder(tmp_path, [])
    text = '\ufeffpath,"a",b\r\n"0.png",1,0\r\n\r\n1.png, 0 ,1\r\n'
    (tmp_path / "labels.csv").write_bytes(text.encode("utf-8"))
    np.testing.assert_array_equal(read(dataset, tmp_path).labels, [[1, 0], [0, 1]])


def test_a_root_elsewhere(tmp_path):
    save(tmp_path / "pictures" / "deep" / "x.png")
    save(tmp_path / "pictures" / "y.png", np.roll(GREY, 1))
    dataset = folder(tmp_path, ["deep/x.png,1,0,1", "y.png,0,1,0"], pictures=0, root=str(tmp_path / "pictures"))
    assert len(read(dataset, tmp_path).images) == 2


def test_the_key_follows_content_not_place(tmp_path):
    one, moved = folder(tmp_path / "one", []), None
    for place in ("one", "moved"):
        (tmp_path / place).mkdir(exist_ok=True)
        moved = folder(tmp_path / place, GOOD)
    one = folder(tmp_path / "one", GOOD)
    assert one.key == moved.key
    save(tmp_path / "moved" / "0.png", np.zeros((24, 32), np.uint8))
    assert folder(tmp_path / "moved", GOOD, pictures=0).key != one.key
    assert folder(tmp_path / "one", [*GOOD[:-1], "3.png,1,0,1"]).key != one.key
    assert folder(tmp_path / "one", GOOD, fit="crop").key != one.key
    assert folder(tmp_path / "one", GOOD, workers=1).key == one.key


# --- pictures


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


# --- what is refused, by row


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([*GOOD, "4.png,yes,0,1"], "row 6: class 'a' is 'yes'; allowed: 1, 0, -1 or blank"),
        ([*GOOD, "4.png,2,0,1"], "row 6: class 'a' is '2'"),
        ([*GOOD, "4.png,nan,0,1"], "row 6: class 'a' is 'nan'"),
        ([*GOOD, "nowhere.png,1,0,1"], "row 6: nowhere.png: no such file"),
        ([*GOOD, "0.png,1,0,1"], "row 6: 0.png: the same picture as row 2"),
        ([*GOOD, "./0.png,1,0,1"], "row 6: ./0.png: the same picture as row 2"),
        ([*GOOD, ",1,0,1"], "row 6: no path: the path is blank"),
        ([*GOOD, "../x.png,1,0,1"], "row 6: ../x.png: leads out of the root"),
        ([*GOOD, "/etc/hostname,1,0,1"], "row 6: /etc/hostname: leads out of the root"),
        ([*GOOD, ".,1,0,1"], "not a file"),
        ([*GOOD, "a\0b.png,1,0,1"], "no such file"),
        ([*GOOD, "x" * 300 + ".png,1,0,1"], "no such file"),
        ([*GOOD, "4.png,1,0"], "row 6: 3 columns, the header has 4"),
        ([*GOOD, "4.png,1,0,1,1"], "row 6: 5 columns, the header has 4"),
        ([*GOOD, '4.png,"1,0,1'], "row 6: unexpected end of data"),
        ([], "no rows below the header"),
    ],
)
def test_bad_rows_are_named(tmp_path, lines, said):
    assert said in fault(tmp_path, lines)


def test_a_line_number_is_the_files_own(tmp_path):
    lines = ['0.png,1,0,0,"two\nlines"', "", "1.png,0,1,1,x", "9.png,0,1,1,x"]
    assert "row 6: 9.png: no such file" in fault(tmp_path, lines, header=f"path,{CLASSES},remark")


def test_the_first_five_and_the_number_of_all(tmp_path):
    said = fault(tmp_path, [*GOOD, *(f"gone{i}.png,1,0,1" for i in range(8))])
    assert "8 bad rows" in said
    assert said.count("no such file") == 5
    assert said.endswith("and 3 more")


def test_columns_that_are_not_there(tmp_path):
    said = fault(tmp_path, GOOD, header=f"paths,{CLASSES}")
    assert "no column 'path'; did you mean 'paths'?" in said
    assert "no column 'd'" in fault(tmp_path, GOOD, class_names=("a", "d"))
    assert "no column 'who'" in fault(tmp_path, GOOD, patient_column="who")
    assert "there twice" in fault(tmp_path, GOOD, header="path,a,b,b")
    assert "found 0 columns of 0/1" in fault(tmp_path, ["0.png,x,y,z"])
    assert "commas must separate" in fault(tmp_path, ["0.png;1;0;0"], header="path;a;b;c")


def test_classes_of_head_and_tail(tmp_path):
    assert "no class 'cc'" in fault(tmp_path, GOOD, tail=("cc",))
    assert "in head and in tail" in fault(tmp_path, GOOD, tail=("a",), head=("a", "b"))
    assert "at least one must be head" in fault(tmp_path, GOOD, n_tail=3)
    with pytest.raises(ValidationError, match="not both"):
        folder(tmp_path, GOOD, tail=("a",), n_tail=1)


def test_encoding_split_and_patient(tmp_path):
    assert "row 3 is not UTF-8 (byte 0xe9)" in fault(tmp_path, ["0.png,1,0,0", "é.png,1,0,0"], encoding="latin-1")
    said = fault(tmp_path, ["0.png,holdout,1,0"], header="path,part,a,b", split_column="part")
    assert "row 2: column 'part' is 'holdout'; allowed: train, val, test" in said
    assert "row 2: column 'who' is blank" in fault(
        tmp_path, ["0.png,,1,0"], header="path,who,a,b", patient_column="who"
    )


def test_a_csv_that_is_missing_or_empty(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        _ = FolderDataset(csv=str(tmp_path / "none.csv")).key
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match="the file is empty"):
        _ = FolderDataset(csv=str(tmp_path / "empty.csv")).key


def test_a_link_out_of_the_root(tmp_path):
    root = tmp_path / "root"
    save(tmp_path / "outside.png")
    root.mkdir()
    os.symlink(tmp_path / "outside.png", root / "link.png")
    os.symlink(root / "loop.png", root / "loop.png")
    said = fault(root, [*GOOD, "link.png,1,0,1", "loop.png,1,0,1"])
    assert "row 6: link.png: leads out of the root" in said
    assert "row 7: loop.png: no such file" in said


def damaged(kind, path):
    """Write a picture that cannot be read."""
    noise = np.random.default_rng(1).integers(0, 256, (64, 64), dtype=np.uint8)
    if kind == "empty":
        path.touch()
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind in ("cut png", "cut jpg"):
        Image.fromarray(noise).save(path, format="PNG" if "png" in kind else "JPEG")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif kind == "flipped png":
        Image.fromarray(noise).save(path, format="PNG")
        raw = bytearray(path.read_bytes())
        raw[200:240] = bytes(40)
        path.write_bytes(raw)
    elif kind == "animated":
        frames = [Image.fromarray(np.roll(noise, i)) for i in range(3)]
        frames[0].save(path, format="PNG", save_all=True, append_images=frames[1:])
    elif kind == "gif":
        Image.fromarray(noise).save(path, format="GIF")
    elif kind == "long":
        Image.new("1", (30_001, 1)).save(path, format="PNG")
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "the file is empty"), ("text", "not a PNG or JPEG file"), ("gif", "not a PNG or JPEG file"),
        ("cut png", "damaged or cut off"), ("cut jpg", "damaged or cut off"), ("flipped png", "damaged or cut off"),
        ("animated", "holds 3 pictures"), ("long", "30001 x 1 px, at most 30000"), ("bomb", "absurdly large"),
    ],
)  # fmt: skip
def test_unreadable_pictures_are_named_and_nothing_is_stored(tmp_path, kind, said):
    damaged(kind, tmp_path / "bad.png")
    text = fault(tmp_path, [*GOOD, "bad.png,1,0,1"])
    assert "row 6" in text
    assert "bad.png" in text
    assert said in text
    assert not list((tmp_path / "store" / "dataset-folder").glob("*/manifest.json"))
