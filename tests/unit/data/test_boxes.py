"""Boxes around findings: the masks that they become, how they are matched with pictures, and what is refused."""

import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from bench.data.box_masks import box_mask
from bench.data.images import read_image
from bench.data.kinds.folder import FolderDataset
from bench.errors import DataError
from bench.plugins import registry
from bench.store.store import Store
from tests.pictures import write_png

FITS = ("pad", "crop", "stretch")
PAGE = Path(__file__).parents[3] / "docs" / "data.md"
HEADER = "image,finding,x,y,w,h"
GOOD = ["one/0.png,a,4,2,8,8", "1.png,b,0,0,4,4", "1.png,b,20,16,8,8", "elsewhere.png,a,1,1,900,900"]


def square_of(width, height, fit):
    """Return the first column, first row, width and height of the square, in pixels of the picture."""
    if fit == "stretch":
        return 0, 0, width, height
    side = max(width, height) if fit == "pad" else min(width, height)
    # The rest of an odd difference is on the right and at the bottom, of the black border and of what is cut off.
    left, top = ((side - n) // 2 * -1 if fit == "pad" else (n - side) // 2 for n in (width, height))
    return left, top, side, side


def expected_mask(box, size, fit, side):
    """Return the mask of one box, with fractions and site by site."""
    left, top, wide, high = square_of(*size, fit)
    x0, x1 = (Fraction(min(max(x - left, 0), wide)) * side / wide for x in box[::2])
    y0, y1 = (Fraction(min(max(y - top, 0), high)) * side / high for y in box[1::2])
    mask, any_area = np.zeros((side, side), bool), x1 > x0 and y1 > y0
    for row in range(side):
        for col in range(side):
            across, down = min(x1, col + 1) - max(x0, col), min(y1, row + 1) - max(y0, row)
            mask[row, col] = across > 0 and down > 0 and across * down >= Fraction(1, 2)
    if any_area and not mask.any():
        mask[min(int((y0 + y1) / 2), side - 1), min(int((x0 + x1) / 2), side - 1)] = True
    return mask


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(32, 32), (33, 20), (20, 33), (96, 17)])
def test_a_site_is_in_if_the_box_covers_half_of_it_or_if_it_holds_the_centre(fit, size):
    rng = np.random.default_rng(0)
    n_small = n_gone = 0
    for _ in range(60):
        (x0, x1), (y0, y1) = (np.sort(rng.choice(n + 1, 2, replace=False)).tolist() for n in size)
        if rng.random() < 0.4:
            x1, y1 = x0 + 1, y0 + 1
        for side in (1, 4, 7):
            wanted = expected_mask((x0, y0, x1, y1), size, fit, side)
            np.testing.assert_array_equal(box_mask((x0, y0, x1, y1), size, fit, side), wanted)
            n_small, n_gone = n_small + (wanted.sum() == 1), n_gone + (not wanted.any())
    assert n_small
    assert bool(n_gone) == (fit == "crop" and size[0] != size[1])  # outside of what the crop leaves


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("size", [(24, 24), (33, 20), (20, 33)])
def test_a_mask_lies_where_the_image_has_the_pixels_of_the_box(tmp_path, fit, size):
    pixels = np.zeros(size[::-1], np.uint8)
    pixels[6:15, 7:18] = 255
    write_png(tmp_path / "x.png", pixels)
    image_px = max(size) if fit == "pad" else min(size)
    image = read_image(tmp_path / "x.png", image_px, fit, "window")
    mask = box_mask((7, 6, 18, 15), size, fit, image_px)
    if fit != "stretch" or size[0] == size[1]:  # these are not resized
        np.testing.assert_array_equal(mask, image > 127)
    else:  # at an edge, the resizing filter reaches beyond the pixel
        assert np.mean(mask != (image > 127)) < 0.03
        assert (image > 127).any()


# --- a folder with boxes


THREE = ("one/0.png,1,0", "1.png,0,1", "two/2.png,1,1")


def folder(tmp_path, boxes=(), header=HEADER, rows=THREE, labels_header="path,a,b", **settings):
    """Return a data set of three pictures of 28 x 24 px with these boxes; some settings are those of the boxes."""
    for i, row in enumerate(rows):
        (path := tmp_path / row.partition(",")[0]).parent.mkdir(parents=True, exist_ok=True)
        write_png(path, np.random.default_rng(i).integers(0, 256, (24, 28), dtype=np.uint8))
    (tmp_path / "labels.csv").write_text("\n".join([labels_header, *rows]), encoding="utf-8")
    (tmp_path / "boxes.csv").write_text("\n".join([header, *boxes]), encoding="utf-8")
    own = {k: settings.pop(k) for k in list(settings) if k == "names" or k.endswith("_column")}
    given = {"csv": str(tmp_path / "boxes.csv")} | own if boxes else None
    return FolderDataset(csv=str(tmp_path / "labels.csv"), image_px=14, boxes=given, **settings)


@pytest.mark.parametrize("fit", FITS)
def test_boxes_of_a_finding_are_united_and_all_else_is_empty(tmp_path, fit):
    data = folder(tmp_path, GOOD, fit=fit)
    found = data.true_masks(np.array([2, 1, 0, 1]), 7)
    assert found.shape == (4, 2, 7, 7)
    np.testing.assert_array_equal(found[2, 0], expected_mask((4, 2, 12, 10), (28, 24), fit, 7))
    both = [expected_mask(box, (28, 24), fit, 7) for box in ((0, 0, 4, 4), (20, 16, 28, 24))]
    np.testing.assert_array_equal(found[1, 1], both[0] | both[1])
    np.testing.assert_array_equal(found[1], found[3])
    assert not found[0].any()
    assert not found[2, 1].any()
    assert not found[1, 0].any()


def test_without_boxes_there_are_no_masks(tmp_path):
    assert folder(tmp_path).true_masks(np.array([0]), 7) is None


@pytest.mark.parametrize("side", [0, 15])
def test_more_sites_than_pixels_are_refused(tmp_path, side):
    with pytest.raises(ValueError, match=f"image_px = 14, got {side}"):
        folder(tmp_path, GOOD).true_masks(np.array([0]), side)


def test_what_is_not_used_is_told(tmp_path):
    data = folder(tmp_path, [*GOOD, "0.png,b,1,1,9,9", "2.png,dot,1,1,9,9"], names={"dot": None})
    note = data.selection_note()
    assert "4 used, in 2 images, found by path, 1 of them by file name" in note
    assert "1 of images that are not taken" in note
    assert "1 left out by boxes.names" in note
    assert "1 of those used are of a finding whose label is not 1" in note
    assert "(rows 6)" not in note
    told = {check.what: check for check in data.sources()}["boxes"]
    assert told.ok
    assert "label is not 1 (rows 6)" in told.said


def test_a_finding_can_have_another_name(tmp_path):
    data = folder(tmp_path, ["1.png,Bee,0,0,9,9"], names={"Bee": "b"})
    assert data.true_masks(np.array([1]), 7)[0].any(axis=(1, 2)).tolist() == [False, True]


def test_a_prefix_of_paths_may_be_there_or_not(tmp_path):
    data = folder(tmp_path, ["set/one/0.png,a,0,0,9,9", "two/2.png,a,0,0,9,9"], path_prefix="set/",
                  rows=("one/0.png,1,0", "1.png,0,1", "two/2.png,1,1"))  # fmt: skip
    (tmp_path / "labels.csv").write_text("path,a,b\nset/one/0.png,1,0\n1.png,0,1\nset/two/2.png,1,1\n")
    assert data.true_masks(np.arange(3), 7).any(axis=(2, 3)).tolist() == [[True, False], [False, False], [True, False]]


def test_the_key_follows_the_boxes_and_not_their_place(tmp_path):
    key = folder(tmp_path / "one", GOOD).key
    assert folder(tmp_path / "moved", GOOD).key == key
    assert folder(tmp_path / "other", GOOD[:-1]).key != key
    assert folder(tmp_path / "none").key != key
    header = HEADER.replace("x,y", "y,x")
    assert folder(tmp_path / "swapped", GOOD, header).key != key


def test_the_table_has_the_same_images_with_boxes(tmp_path):
    store = Store(tmp_path / "store")
    with_boxes, without = store.get(folder(tmp_path, GOOD)), store.get(folder(tmp_path / "none"))
    np.testing.assert_array_equal(with_boxes.images, without.images)


REFUSED = {
    "no number": (["1.png,b,0,zero,4,4"], "row 2: column 'y' is 'zero'; want a number of pixels"),
    "thousands": (['1.png,b,0,"1,000",4,4'], "column 'y' is '1,000'"),
    "infinite": (["1.png,b,0,1e999,4,4"], "column 'y' is '1e999'"),
    "nan": (["1.png,b,0,nan,4,4"], "column 'y' is 'nan'"),
    "blank number": (["1.png,b,0,0,,4"], "column 'w' is blank"),
    "no width": (["1.png,b,0,0,0,4"], "the box is 0 wide and 4 high; both must be above 0"),
    "negative height": (["1.png,b,0,9,5,-4"], "the box is 5 wide and -4 high"),
    "no image": ([",b,0,0,4,4"], "column 'image' is blank"),
    "no finding": (["1.png,,0,0,4,4"], "column 'finding' is blank"),
    "a short row": (["1.png,b,0,0"], "column 'w' is blank"),
    "a long row": (["1.png,b,0,0,4,4,4"], "row 2: more cells than the header has"),
    "no row": ([""], "no rows below the header"),
    "an empty row": (["1.png,b,0,0,4,4", ",,,,,"], "row 3: column 'image' is blank"),
    "an unknown finding": (["1.png,B,0,0,4,4"], "row 2: 'B' is no class (have: a, b); to rename it, say names: {B: CLASS}"),
    "no listed picture": (["9.png,b,0,0,4,4"], "none of the 1 boxes is of a listed picture (the first is of '9.png'"),
    "an open quote": (['1.png,"b,0,0,4,4'], "row 2: unexpected end of data"),
}  # fmt: skip


def fault(data):
    with pytest.raises(DataError) as caught:
        _ = data.key
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert "boxes.csv" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_row_is_refused_before_anything_is_computed(tmp_path, case):
    rows, said = REFUSED[case]
    assert said in fault(folder(tmp_path, rows))


def test_names_are_checked(tmp_path):
    assert "no box is of 'Be'; did you mean 'Bee'?" in fault(folder(tmp_path, ["1.png,Bee,0,0,4,4"], names={"Be": "b"}))
    assert "'c' is no class (have: a, b)" in fault(folder(tmp_path, ["1.png,Bee,0,0,4,4"], names={"Bee": "c"}))
    assert "(and 1 other findings)" in fault(folder(tmp_path, ["1.png,Bee,0,0,4,4", "1.png,Sea,0,0,4,4"]))


def test_columns_are_checked(tmp_path):
    assert "no column 'x'" in fault(folder(tmp_path, GOOD, "image,finding,x64,y,w,h"))
    assert "name it in boxes.x_column" in fault(folder(tmp_path, GOOD, "image,finding,x64,y,w,h"))
    assert "column 'y' is there 2 times" in fault(folder(tmp_path, GOOD, "image,finding,y,y,w,h", x_column="y"))


def test_a_file_name_of_two_pictures_is_refused_and_a_path_is_not(tmp_path):
    rows = ("one/0.png,1,0", "two/0.png,1,1", "1.png,0,1")
    said = fault(folder(tmp_path, ["0.png,a,0,0,4,4"], rows=rows))
    assert "row 2: '0.png' may be any of 2 pictures ('one/0.png' and 'two/0.png', …); write its path" in said
    assert folder(tmp_path, ["two/0.png,a,0,0,4,4"], rows=rows).true_masks(np.array([1]), 7).any()


def test_a_picture_that_is_not_taken_counts_when_a_box_has_a_file_name(tmp_path):
    rows, header = ("one/0.png,1,0,PA", "two/0.png,1,1,AP", "1.png,0,1,PA"), "path,a,b,view"
    given = {"rows": rows, "labels_header": header, "where": {"view": "PA"}, "not_classes": ["view"]}
    assert "row 2: '0.png' may be any of 2 pictures" in fault(folder(tmp_path, ["0.png,a,0,0,4,4"], **given))
    data = folder(tmp_path, ["two/0.png,a,0,0,4,4", "one/0.png,a,0,0,4,4"], **given)
    assert "1 used, in 1 images, found by path; 1 of images that are not taken" in data.selection_note()


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path):
    data = folder(tmp_path, GOOD)
    (tmp_path / "boxes.csv").write_bytes("image,finding,x,y,w,h\nä,b,1,1,1,1\n".encode("utf-16"))
    assert "not UTF-8" in fault(data)
    missing = data.boxes.model_copy(update={"csv": str(tmp_path / "no-boxes.csv")})
    assert "check the setting 'boxes.csv'" in fault(data.model_copy(update={"boxes": missing}))


@pytest.mark.parametrize("box", ["-2,0,9,9", "0,-2,9,9", "20,0,10,9", "0,20,9,6", "28,0,0.5,9", "-1,0,1,9"])
def test_a_box_outside_of_its_picture_is_refused_before_a_picture_is_decoded(tmp_path, box):
    data = folder(tmp_path, [*GOOD, f"two/2.png,a,{box}"])
    for use in (lambda: Store(tmp_path / "store").get(data), lambda: data.true_masks(np.array([2]), 7)):
        with pytest.raises(DataError, match=r"boxes.csv: 1 bad row: row 6: two/2.png: the box is from .* 28 x 24 px"):
            use()
    told = {check.what: check for check in data.sources()}["boxes"]
    assert not told.ok


def test_up_to_a_pixel_outside_is_rounding(tmp_path):
    data = folder(tmp_path, ["1.png,b,-0.9,-0.9,29.8,25.8", "two/2.png,b,0,0,28,24"])
    one, other = data.true_masks(np.array([1, 2]), 14)
    np.testing.assert_array_equal(one, other)  # of the same size; what is outside of it is cut off


def test_a_picture_that_exif_turns_is_refused(tmp_path):
    data = folder(tmp_path, GOOD)
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "1.png") as picture:
        picture.save(tmp_path / "1.png", exif=exif)
    with pytest.raises(DataError, match=r"row 3: 1.png: EXIF turns the picture \(orientation 6\)"):
        data.true_masks(np.array([1]), 7)


# --- the list of ChestX-ray14


def test_the_list_of_chestxray14_is_read_with_the_settings_of_the_page(tmp_path):
    section = PAGE.read_text(encoding="utf-8").partition("## ChestX-ray14")[2].partition("\n## ")[0]
    first, second = (yaml.safe_load(text) for text in re.findall(r"```yaml\n(.*?)```", section, re.DOTALL))
    said = ["Infiltration", "Mass|Infiltration", "Mass", "No Finding"]
    for i in range(4):
        write_png(tmp_path / f"0000000{i}_000.png", np.full((20, 20), 40 * i, np.uint8))
    rows = [f"0000000{i}_000.png,{labels},0,{i}" for i, labels in enumerate(said)]
    (tmp_path / "list.csv").write_text("\n".join(["Image Index,Finding Labels,Follow-up #,Patient ID", *rows]))
    found = [
        "00000001_000.png,Infiltrate,2.08474576271186,5.01921666949,8.7796610,9.186440,,,",
        "00000002_000.png,Mass,1,1,9,9",
    ]
    (tmp_path / "boxes.csv").write_text("\n".join(["Image Index,Finding Label,Bbox [x,y,w,h],,,", *found]))
    given = first["datasets"][0] | {
        "csv": str(tmp_path / "list.csv"),
        "root": str(tmp_path),
        "n_tail": 1,
        "image_px": 10,
    }
    data = registry.parse_dataset(given | {"boxes": second["boxes"] | {"csv": str(tmp_path / "boxes.csv")}})
    masks = data.true_masks(np.arange(4), 10)
    assert data.known_classes() == ("Infiltration", "Mass")
    assert masks.any(axis=(2, 3)).tolist() == [[False, False], [True, False], [False, True], [False, False]]
    np.testing.assert_array_equal(np.argwhere(masks[1, 0])[[0, -1]], [[3, 1], [6, 4]])
