"""The file of the package `medmnist`: what is read of it, against numpy, and what is refused."""

import numpy as np
import pytest

from bench.data import npz_file
from bench.data.kinds.medmnist import CLASS_NAMES, MedMnist
from bench.errors import DataError, SourceError
from bench.store.store import Store
from tests.medmnist_files import medmnist_file


def read(file, tmp_path, **settings):
    return Store(tmp_path / "store").get(MedMnist(root=str(file.parent), **settings))


@pytest.mark.parametrize("compressed", [False, True])
def test_images_labels_and_parts_are_those_of_the_file(tmp_path, compressed, monkeypatch):
    monkeypatch.setattr("bench.data.kinds.medmnist._BLOCK", 33)
    file = medmnist_file(tmp_path / "m", compressed=compressed)
    table, found = read(file, tmp_path), np.load(file)
    np.testing.assert_array_equal(
        table.images, np.concatenate([found[f"{p}_images"] for p in ("train", "val", "test")])
    )
    np.testing.assert_array_equal(
        table.labels, np.concatenate([found[f"{p}_labels"] for p in ("train", "val", "test")])
    )
    assert table.splits.tolist() == [0] * 200 + [1] * 80 + [2] * 90
    assert not table.patients_known
    rarest = np.argsort(found["train_labels"].sum(axis=0), kind="stable")[:7]
    assert set(table.tail) == {CLASS_NAMES["chestmnist"][i] for i in rarest}


def test_the_files_shape_says_whether_there_is_colour(tmp_path):
    file = medmnist_file(tmp_path / "m", "dermamnist", image_px=28, n_classes=7, colour=True)
    table, found = read(file, tmp_path, flag="dermamnist", image_px=28), np.load(file)
    expected = np.concatenate([found[f"{p}_images"] for p in ("train", "val", "test")])
    assert expected.shape[1:] == (28, 28, 3)
    np.testing.assert_array_equal(table.images, expected)


@pytest.mark.parametrize("flag", sorted(set(CLASS_NAMES) - {"chestmnist"}))
def test_one_label_an_image_becomes_a_column_for_each_class(tmp_path, flag):
    n_classes = len(CLASS_NAMES[flag])
    file = medmnist_file(tmp_path / "m", flag, image_px=28, n_classes=n_classes)
    known = MedMnist(root=str(file.parent), flag=flag, image_px=28).known_labels()
    assert known.labels.sum(axis=1).tolist() == [1] * 370
    numbers = np.concatenate([np.load(file)[f"{p}_labels"][:, 0] for p in ("train", "val", "test")])
    np.testing.assert_array_equal(known.labels.argmax(axis=1), numbers)


def test_a_limit_draws_images_that_keep_their_labels_and_names(tmp_path):
    file = medmnist_file(tmp_path / "m")
    data = MedMnist(root=str(file.parent), limit=100)
    table, found = Store(tmp_path / "store").get(data), np.load(file)
    assert np.bincount(table.splits).tolist() == [54, 21, 24]
    for row in (0, 53, 54, 98):
        place, part = data.name_of(row, tmp_path).removeprefix("image ").split(" of ")
        np.testing.assert_array_equal(table.images[row], found[f"{part}_images"][int(place)])
        np.testing.assert_array_equal(table.labels[row], found[f"{part}_labels"][int(place)])
    other = MedMnist(root=str(file.parent), limit=100, sample_seed=1)
    assert other.known_labels().labels.tolist() != table.labels.tolist()


def test_the_key_holds_the_content_and_not_the_place(tmp_path):
    here, there = medmnist_file(tmp_path / "a"), medmnist_file(tmp_path / "b")
    assert MedMnist(root=str(here.parent)).key == MedMnist(root=str(there.parent)).key
    medmnist_file(tmp_path / "b", n=(200, 80, 91))
    assert MedMnist(root=str(here.parent)).key != MedMnist(root=str(there.parent)).key


def test_a_file_that_is_not_there_says_how_to_get_it(tmp_path):
    data = MedMnist(root=str(tmp_path), image_px=128)
    assert data.known_labels() is None
    with pytest.raises(
        SourceError, match=r"chestmnist_128\.npz: no such file.*CC BY 4.0.*pip install medmnist.*size=128"
    ):
        data.content()
    (check,) = data.sources()
    assert not check.ok
    assert "medmnist.ChestMNIST(split='train', download=True, size=128" in check.said


RGB = np.zeros((200, 64, 64, 3), np.uint8)


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"val_labels": None}, r"no array 'val_labels' \(have: test_images"),
        ({"train_images": RGB}, r"'val_images' is uint8 \[80, 64, 64\], want uint8 \[n, 64, 64, 3\]"),
        ({"val_images": RGB[:80]}, r"'val_images' is uint8 \[80, 64, 64, 3\], want uint8 \[n, 64, 64\]"),
        ({"train_images": RGB[..., :2]}, r"is uint8 \[200, 64, 64, 2\], want uint8 \[n, 64, 64\]"),
        ({"train_images": np.zeros((200, 28, 28), np.uint8)}, r"\[200, 28, 28\], want uint8 \[n, 64, 64\]"),
        ({"train_images": np.zeros((200, 64, 64), np.float32)}, "is float32"),
        (
            {"val_labels": np.zeros((79, 14), np.uint8)},
            r"'val_labels' is uint8 \[79, 14\], want whole numbers \[80, 14\]",
        ),
        ({"val_labels": np.zeros((80, 13), np.uint8)}, r"\[80, 13\], want whole numbers \[80, 14\]"),
        ({"val_labels": np.zeros((80, 14))}, "is float64"),
        ({"test_labels": np.full((90, 14), 2)}, "'test_labels': row 0 is .*; want numbers of 0 to 1"),
        ({"train_labels": np.full((200, 14), None)}, "holds Python objects"),
        ({"train_labels": np.zeros((0, 14), np.uint8), "train_images": RGB[:0, :, :, 0]}, "is empty"),
        ({"train_labels": np.asfortranarray(np.ones((200, 14), np.uint8))}, "stored by columns"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path, arrays, said):
    file = medmnist_file(tmp_path / "m", **arrays)
    with pytest.raises(DataError, match=said) as caught:
        MedMnist(root=str(file.parent)).known_labels()
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_file_is_refused(tmp_path, compressed):
    file = medmnist_file(tmp_path / "m", compressed=compressed)
    whole = file.read_bytes()
    for broken in (whole[: len(whole) // 2], b"no archive", whole[:2000] + bytes(500) + whole[2500:]):
        file.write_bytes(broken)
        with pytest.raises(DataError, match="damaged"):
            list(npz_file.blocks(file, "train_images", 50))
