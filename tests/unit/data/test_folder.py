"""A folder of pictures and a CSV: what is read, and that what cannot be read is said by row."""

import os
import shutil

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from bench.config.validation import build
from bench.data.images import read_image
from bench.data.kinds.folder import FolderDataset
from bench.errors import ConfigError, DataError
from bench.store.store import Store

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


def test_colour_is_kept_if_the_settings_say_so(tmp_path):
    pixels = DRAW.integers(0, 256, (16, 16, 3), dtype=np.uint8)
    data = folder(tmp_path, GOOD, pictures=4, colour=True)
    save(tmp_path / "2.png", pixels)
    table = read(data, tmp_path)
    assert table.images.shape == (4, 16, 16, 3)
    np.testing.assert_array_equal(table.images[2], pixels)
    assert (table.images[0, ..., 0] == table.images[0, ..., 2]).all()  # a grey picture
    grey = folder(tmp_path, GOOD, pictures=4)
    assert read(grey, tmp_path).images.shape == (4, 16, 16)
    assert grey.key != data.key


def test_without_a_patient_column_every_image_is_its_own_patient(tmp_path):
    assert read(folder(tmp_path, GOOD), tmp_path).patients.tolist() == [0, 1, 2, 3]


def test_rarest_half_is_the_tail_and_names_win(tmp_path):
    assert read(folder(tmp_path, GOOD), tmp_path).tail == ("b",)
    named = read(folder(tmp_path, GOOD, tail=("a",), head=("c",)), tmp_path)
    assert (named.head, named.tail) == (("c",), ("a",))


def test_other_columns_are_not_classes(tmp_path):
    lines = [f"{i}.png,{50 + i},F,{i % 2},{int(i == 1)}" for i in range(5)]
    assert read(folder(tmp_path, lines, "path,age,sex,a,b"), tmp_path).class_names == ("a", "b")


def test_a_column_without_a_name_is_no_class(tmp_path):
    lines = [f"{i},{i}.png,{i % 2},{1 - i % 2}" for i in range(3)]  # as pandas writes its index
    assert read(folder(tmp_path, lines, ",path,a,b"), tmp_path).class_names == ("a", "b")


def test_a_byte_order_mark_quotes_crlf_and_blank_lines_are_fine(tmp_path):
    dataset = folder(tmp_path, [])
    text = '\ufeffpath,"a",b\r\n"0.png",1,0\r\n\r\n1.png, 0 ,1\r\n'
    (tmp_path / "labels.csv").write_bytes(text.encode("utf-8"))
    np.testing.assert_array_equal(read(dataset, tmp_path).labels, [[1, 0], [0, 1]])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"where": {"View": True}}, r"folder\.where\.View: want a number, or text in quotes, got true"),
        ({"where": {"View": ["PA", False]}}, r"folder\.where\.View\.1: want a number, or text in quotes, got false"),
        ({"workers": True}, r"folder\.workers: want a number, got true"),
        (
            {"excludes": {"Hernia": "Mass"}},
            r"folder\.excludes\.Hernia: want 'all', a list, e\.g\. \[a, b\], got 'Mass'",
        ),
        ({"excludes": {"Hernia": "alll"}}, r"got 'alll'; did you mean 'all'\?"),
    ],
)
def test_all_that_a_setting_takes_is_named(given, said):
    with pytest.raises(ConfigError, match=said):
        build(FolderDataset, {"csv": "x.csv"} | given, "folder")


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


# --- what is refused, by row


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([*GOOD, "4.png,yes,0,1"], "row 6: class 'a' is 'yes'; allowed: 1, 0, -1 (uncertain) or blank"),
        ([*GOOD, "4.png,2,0,1"], "row 6: class 'a' is '2'"),
        ([*GOOD, "4.png,nan,0,1"], "row 6: class 'a' is 'nan'"),
        ([*GOOD, "nowhere.png,1,0,1"], "row 6: nowhere.png: no such file"),
        ([*GOOD, "0.png,1,0,1"], "row 6: 0.png: the same picture as row 2"),
        ([*GOOD, "./0.png,1,0,1"], "row 6: ./0.png: the same picture as row 2"),
        ([*GOOD, ",1,0,1"], "row 6: the path is blank"),
        ([*GOOD, "../x.png,1,0,1"], "row 6: ../x.png: leads out of the root"),
        ([*GOOD, "/etc/hostname,1,0,1"], "row 6: /etc/hostname: leads out of the root"),
        ([*GOOD, ".,1,0,1"], "row 6: .: is a folder"),
        ([*GOOD, "a\0b.png,1,0,1"], "row 6 holds a NUL byte"),
        ([*GOOD, "x" * 300 + ".png,1,0,1"], "no such file"),
        ([*GOOD, "4.png,1,0"], "row 6: 3 columns, the header has 4"),
        ([*GOOD, "4.png,1,0,1,1"], "row 6: 5 columns, the header has 4"),
        ([*GOOD, '4.png,"1,0,1'], "row 6: a quote is opened and never closed"),
        ([], "no rows below the header"),
    ],
)
def test_bad_rows_are_named(tmp_path, lines, said):
    assert said in fault(tmp_path, lines)


def test_a_line_number_is_the_files_own(tmp_path):
    lines = ['0.png,1,0,0,"two\nlines"', "", "1.png,0,1,1,x", "9.png,0,1,1,x"]
    assert "row 6: 9.png: no such file" in fault(tmp_path, lines, header=f"path,{CLASSES},remark")


def test_the_first_three_and_the_number_of_all(tmp_path):
    said = fault(tmp_path, [*GOOD, *(f"gone{i}.png,1,0,1" for i in range(8))])
    assert "8 bad rows" in said
    assert said.count("no such file") == 3
    assert said.endswith("and 5 more")


def test_columns_that_are_not_there(tmp_path):
    said = fault(tmp_path, GOOD, header=f"paths,{CLASSES}")
    assert "no column 'path'; did you mean 'paths'?" in said
    assert "no column 'd'" in fault(tmp_path, GOOD, class_names=("a", "d"))
    assert "no column 'who'" in fault(tmp_path, GOOD, patient_column="who")
    assert "there twice" in fault(tmp_path, GOOD, header="path,a,b,b")
    assert "found 0 columns of 0/1" in fault(tmp_path, ["0.png,x,y,z"])
    assert "separated by ';'; want commas" in fault(tmp_path, ["0.png;1;0;0"], header="path;a;b;c")


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
    assert "row 6: link.png: a link that leads out of the root; set follow_links: true" in said
    assert "row 7: loop.png: a link to nowhere" in said


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
        Image.new("1", (30_001, 8)).save(path, format="PNG")
    elif kind == "bomb":
        Image.new("1", (20_000, 20_000)).save(path, format="PNG")


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("empty", "the file is empty"), ("text", "not a PNG or JPEG file"), ("gif", "a GIF file; convert it to PNG or JPEG"),
        ("cut png", "damaged or cut off"), ("cut jpg", "damaged or cut off"), ("flipped png", "damaged or cut off"),
        ("animated", "holds 3 pictures"), ("long", "30001 x 8 px, at most 30000"), ("bomb", "absurdly large"),
    ],
)  # fmt: skip
def test_unreadable_pictures_are_named_and_nothing_is_stored(tmp_path, kind, said):
    damaged(kind, tmp_path / "bad.png")
    text = fault(tmp_path, [*GOOD, "bad.png,1,0,1"])
    assert "row 6" in text
    assert "bad.png" in text
    assert said in text
    assert not list((tmp_path / "store" / "dataset-folder").glob("*/manifest.json"))


# --- settings that say what cells and links mean


def test_uncertain_and_blank_labels_are_what_the_settings_say(tmp_path):
    def column(name, **settings):
        table = read(folder(tmp_path, [*GOOD, "4.png,-1,0,0"], **settings), tmp_path)
        return table.labels[:, "abc".index(name)].tolist()

    nan = pytest.approx(np.nan, nan_ok=True)
    assert column("b") == [0, 1, nan, nan, 0]
    assert column("b", uncertain="positive") == [0, 1, nan, 1, 0]
    assert column("b", uncertain="negative", blank="negative") == [0, 1, 0, 0, 0]
    assert column("a", uncertain="negative") == [1, 0, 1, 1, 0]
    assert folder(tmp_path, GOOD).key != folder(tmp_path, GOOD, blank="negative").key


def test_links_out_of_the_root_are_followed_on_request_alone(tmp_path):
    root = tmp_path / "root"
    save(tmp_path / "outside" / "x.png", np.roll(GREY, 9))
    save(tmp_path / "outside" / "y.png", np.roll(GREY, 11))
    root.mkdir()
    os.symlink(tmp_path / "outside", root / "out")
    os.symlink(tmp_path / "outside" / "y.png", root / "y.png")
    lines = [*GOOD, "out/x.png,1,0,1", "y.png,0,1,0"]
    assert "2 bad rows" in fault(root, lines)
    followed = folder(root, lines, follow_links=True)
    expected = read_image(tmp_path / "outside" / "y.png", 16, "pad", "window")
    assert np.array_equal(read(followed, tmp_path).images[5], expected)
    assert "y.png: the same picture as row 6" in fault(
        root, [*lines[:4], "out/y.png,1,0,1", "y.png,0,1,0"], follow_links=True
    )
    assert "../outside/x.png: leads out" in fault(root, [*GOOD, "../outside/x.png,1,0,1"], follow_links=True)


def test_a_root_that_is_a_link_and_absolute_paths_into_it(tmp_path):
    (tmp_path / "disk").mkdir()
    os.symlink(tmp_path / "disk", tmp_path / "data")
    lines = [f"{tmp_path}/data/{line}" for line in GOOD[:2]] + [f"{tmp_path}/disk/{line}" for line in GOOD[2:]]
    assert len(read(folder(tmp_path / "data", lines), tmp_path).images) == 4


def test_pictures_that_are_replaced_by_others_of_the_same_size_are_read_anew(tmp_path):
    before = folder(tmp_path, GOOD)
    for i in range(4):
        Image.fromarray(np.roll(GREY, i)).save(tmp_path / f"{i}.png", compress_level=0)
    old = np.array(read(before, tmp_path).images)
    mended, was = tmp_path / "2.png", (tmp_path / "2.png").stat()
    size = was.st_size
    Image.fromarray(255 - np.roll(GREY, 2)).save(mended, compress_level=0)
    os.utime(mended, ns=(was.st_atime_ns, was.st_mtime_ns))  # as `cp -p` and archives do
    assert mended.stat().st_size == size
    after = FolderDataset(csv=before.csv, image_px=16)
    assert after.key != before.key
    new = read(after, tmp_path).images
    assert [bool((old[i] != new[i]).any()) for i in range(4)] == [False, False, True, False]


def test_pictures_that_are_only_touched_or_copied_are_not_read_anew(tmp_path):
    before = folder(tmp_path, GOOD)
    key = before.key
    for i in range(8):
        os.utime(tmp_path / f"{i}.png", (i, i))
    shutil.copytree(tmp_path, tmp_path / "copy")
    for root in (tmp_path, tmp_path / "copy"):
        assert FolderDataset(csv=str(root / "labels.csv"), image_px=16).key == key


def test_a_picture_that_changes_after_the_run_was_planned_is_refused_by_row(tmp_path, monkeypatch):
    planned = folder(tmp_path, GOOD)
    decode = FolderDataset._decode

    def late(self, *arguments):
        save(tmp_path / "2.png", 255 - GREY)
        return decode(self, *arguments)

    monkeypatch.setattr(FolderDataset, "_decode", late)
    with pytest.raises(DataError, match=r"row 4: 2\.png: changed since this run was planned; run it again"):
        read(planned, tmp_path)


def test_inverted_pictures_are_turned_all_or_by_a_column(tmp_path):
    plain = read(folder(tmp_path, GOOD, fit="stretch"), tmp_path).images.astype(int)
    all_turned = read(folder(tmp_path, GOOD, fit="stretch", invert=True), tmp_path).images
    assert np.abs(all_turned - (255 - plain)).max() <= 1  # by rounding
    words = ["MONOCHROME1", "MONOCHROME2", "1", "0"]
    lines = [f"{line},{word}" for line, word in zip(GOOD, words, strict=True)]
    settings = {"header": f"path,{CLASSES},photometric", "fit": "stretch", "invert": "photometric"}
    some = read(folder(tmp_path, lines, **settings), tmp_path)
    assert some.class_names == ("a", "b", "c")
    for i, turned in enumerate([True, False, True, False]):
        assert np.abs(some.images[i] - (255 - plain[i] if turned else plain[i])).max() <= 1
    lines[3] = f"{GOOD[3]},RGB"
    assert "row 5: column 'photometric' is 'RGB'; allowed: 1 or MONOCHROME1" in fault(tmp_path, lines, **settings)
    assert "no column 'nowhere'" in fault(tmp_path, lines, **settings | {"invert": "nowhere"})


def test_data_that_change_between_plan_and_run_are_not_stored_under_the_old_key(tmp_path):
    planned = folder(tmp_path, GOOD)
    _ = planned.key
    folder(tmp_path, [*GOOD, "4.png,0,0,0"])
    with pytest.raises(DataError, match="changed since this run was planned"):
        read(planned, tmp_path)


def test_a_column_of_words_is_a_class_that_is_refused_not_passed_over(tmp_path):
    lines = [f"{i}.png,{i % 2},{i % 3 % 2},{bool(i % 2)},F" for i in range(5)]
    assert "row 2: class 'c' is 'False'; allowed" in fault(tmp_path, lines, header=f"path,{CLASSES},sex")
    dataset = folder(tmp_path, lines, header=f"path,{CLASSES},sex", class_names=("a", "b"))
    assert read(dataset, tmp_path).class_names == ("a", "b")


def test_a_rare_class_with_nan_elsewhere_is_not_passed_over(tmp_path):
    lines = [f"{i}.png,{i % 2},{i % 3 % 2},{'1.0' if i == 3 else 'nan'},nan" for i in range(5)]
    assert "row 2: class 'c' is 'nan'; allowed" in fault(tmp_path, lines, header=f"path,{CLASSES},remark")


def test_the_first_conflicting_rows_of_a_patient_are_named(tmp_path):
    lines = ["0.png,ann,train,1,0", "1.png,bob,val,1,0", "2.png,ann,train,1,0", "3.png,ann,test,0,1"]
    said = fault(tmp_path, lines, header="path,who,part,a,b", patient_column="who", split_column="part")
    assert "1 bad row: row 2: patient 'ann' is in train, in row 5 in test; a patient must be in one part" in said
