"""What is odd about images: found where it was put, told in counts, and nothing about ordinary ones."""

import numpy as np
import pytest

from bench.data.census import FLAWS, by_group, counts, flaws, odd_corners, odd_rows, same_as, table_notes, write_census

DRAW = np.random.default_rng(0)
PART = np.array([0, 0, 0, 1, 2] * 8)
LABELS = np.zeros((40, 2), np.float32)


def radiographs(n=40, px=32):
    """Images with dark corners and a bright middle, with noise."""
    y, x = np.mgrid[0:px, 0:px] / (px - 1) - 0.5
    body = 190 * np.exp(-4 * (x**2 + y**2)) + 20
    return (body + DRAW.normal(0, 8, (n, px, px))).clip(0, 255).astype(np.uint8)


def noted(tmp_path, images, labels=LABELS, part=PART):
    write_census(tmp_path, images)
    return table_notes(tmp_path, labels, part)


def test_nothing_is_told_of_ordinary_images(tmp_path):
    assert noted(tmp_path, radiographs()) == []
    assert noted(tmp_path, radiographs(0), LABELS[:0], PART[:0]) == []
    assert odd_rows(tmp_path) == {}


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("constant", lambda x: np.full_like(x, 90)),
        ("constant", lambda x: np.pad(np.full((32, 20), 255, np.uint8), ((0, 0), (6, 6)))),  # white, padded with black
        ("nearly_black", lambda x: x // 17),  # as a picture with one hot pixel
        ("nearly_white", lambda x: 255 - x // 17),
    ],
)
def test_failed_images_are_counted_where_they_are(tmp_path, name, make):
    images = radiographs()
    for i in (3, 17, 30):
        images[i] = make(images[i])
    found = flaws(images)
    assert np.flatnonzero(found & FLAWS[name]).tolist() == [3, 17, 30]
    assert counts(found) | {"bright_corners": 0} == {
        "images": 40, "constant": 0, "nearly_black": 0, "nearly_white": 0, "bright_corners": 0, name: 3,
    }  # fmt: skip
    assert f"of 40 pictures as they were read, 3 {name.replace('_', ' ')}" in noted(tmp_path, images)
    assert odd_rows(tmp_path)[name.replace("_", " ")].tolist() == [3, 17, 30]


@pytest.mark.parametrize("mostly_inverted", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_inverted_images_are_those_whose_corners_differ_from_the_others(tmp_path, mostly_inverted, padded):
    images = radiographs()
    odd = [1, 2, 20, 39]
    turned = np.isin(np.arange(40), odd) != mostly_inverted
    images[turned] = 255 - images[turned]
    if padded:
        images = np.pad(images, ((0, 0), (0, 0), (6, 6)))
        images = np.pad(images[:, :, :], ((0, 0), (6, 6), (0, 0)))
    assert odd_corners(flaws(images)).tolist() == odd
    [note] = noted(tmp_path, images)
    said = "not brighter" if mostly_inverted else "brighter"
    assert note.startswith(f"4 of 40 pictures are {said} in their corners than in their middle, unlike the others")
    assert "MONOCHROME1" in note


def test_a_few_bright_corners_among_many_images_are_white_frames(tmp_path):
    images = np.concatenate([radiographs(200), 255 - radiographs(2)])
    assert len(odd_corners(flaws(images))) == 0


def test_equal_images_in_two_parts_and_with_other_labels_are_told(tmp_path):
    images, labels = radiographs(), LABELS.copy()
    labels[[4, 12], 1] = [1, np.nan]
    images[4] = images[12] = images[0]  # rows 0, 4 and 12: train, test and train
    images[7] = images[5]  # both train, with equal labels
    images[[20, 21]] = 7  # constant: told as such
    expected = [next(j for j in range(i + 1) if np.array_equal(images[i], images[j])) for i in range(40)]
    assert same_as(images).tolist() == expected
    notes = noted(tmp_path, images, labels)
    assert notes[0] == "of 40 pictures as they were read, 2 constant"
    assert notes[1].startswith("3 pictures have exactly the pixels of another, 1 of one in another part of the ")
    assert notes[1].endswith("2 of one with other labels")
    assert odd_rows(tmp_path)["equal to another"].tolist() == [4, 7, 12]


def test_groups_are_counted_apart_whatever_the_size_of_a_block(monkeypatch):
    images = radiographs(9)
    images[[1, 5]] = 0
    monkeypatch.setattr("bench.data.census._ROWS", 2)
    found = by_group(images, np.array([3, 3, 3, 3, 7, 7, 7, 7, 7]))
    assert {g: (c["images"], c["constant"]) for g, c in found.items()} == {"3": (4, 1), "7": (5, 1)}
    assert by_group(images[:0], np.zeros(0, np.int64)) == {}


def test_an_image_with_colour_is_judged_by_its_luma_and_never_for_its_corners(tmp_path):
    images = np.repeat(radiographs()[..., None], 3, axis=-1)
    images[::4] = 255 - images[::4]
    images[3], images[5], images[9] = 90, (200, 30, 90), images[9] // 17  # grey, one colour, and nearly black
    found = counts(flaws(images))
    assert (found["constant"], found["nearly_black"], found["bright_corners"]) == (2, 1, 0)
    images[7] = images[6]
    assert same_as(images)[7] == 6
    images[7, 0, 0, 2] ^= 1  # blue weighs so little that the luma may be the same
    assert same_as(images)[7] == 7
