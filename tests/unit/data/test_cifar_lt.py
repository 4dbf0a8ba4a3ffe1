"""CIFAR with a long tail: what is read, against Python's own unpickler, which images are chosen, and what is refused."""

import pickle
import re
import warnings

import numpy as np
import pytest
from pydantic import ValidationError

from bench.data.kinds.cifar_lt import CifarLt, long_tailed_sizes
from bench.errors import DataError, SourceError
from bench.store.store import Store
from tests.cifar_files import cifar_files, write

BOTH = pytest.mark.parametrize("n_classes", [10, 100])


def official(folder, part):
    """Return images and labels of a part as torchvision reads them."""
    names = {"train": ["train"], "test": ["test"]}
    if folder.name == "cifar-10-batches-py":
        names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's modules have other names today
        found = [pickle.loads((folder / name).read_bytes(), encoding="latin1") for name in names[part]]
    images = np.vstack([one["data"] for one in found]).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, np.concatenate([one.get("labels", one.get("fine_labels")) for one in found])


def read(folder, tmp_path, **settings):
    n_classes = 100 if "100" in folder.name else 10
    data = CifarLt(root=str(folder.parent), n_classes=n_classes, **settings)
    return data, Store(tmp_path / "store").get(data)


@BOTH
@pytest.mark.parametrize("order", ["C", "F"])
def test_images_and_labels_are_those_that_torchvision_reads(tmp_path, n_classes, order):
    folder = cifar_files(tmp_path / "files", n_classes, order=order)
    data, table = read(folder, tmp_path, imbalance_factor=1)
    assert table.class_names == tuple(f"thing_{i}" for i in range(n_classes)) == data.known_classes()
    assert table.images.shape[1:] == (32, 32, 3)
    for part, rows in (("train", table.splits < 2), ("test", table.splits == 2)):
        images, labels = official(folder, part)
        number = {image.tobytes(): i for i, image in enumerate(images)}
        numbers = [number[image.tobytes()] for image in table.images[rows]]
        assert sorted(numbers) == list(range(len(labels)))  # balanced: nothing is left out, and nothing is there twice
        np.testing.assert_array_equal(table.labels[rows], np.eye(n_classes)[labels[numbers]])
        for k in (0, -1):
            assert data.name_of(int(np.flatnonzero(rows)[k]), tmp_path) == f"image {numbers[k]} of {part}"


@pytest.mark.parametrize(("n", "n_classes", "total"), [(5000, 10, 12406), (500, 100, 10847)])
def test_the_sizes_are_those_of_the_literature(n, n_classes, total):
    sizes = long_tailed_sizes(n, n_classes, 100)
    assert (sizes[0], sizes[-1], sum(sizes)) == (n, n // 100, total)
    assert long_tailed_sizes(n, n_classes, 1) == [n] * n_classes
    assert long_tailed_sizes(3, n_classes, 1000)[-1] == 1


def test_train_has_the_long_tail_and_val_and_test_are_balanced(tmp_path):
    folder = cifar_files(tmp_path / "files", n_train=40)
    data, table = read(folder, tmp_path, imbalance_factor=12, val_share=0.2, n_tail=3)
    counts = [table.labels[table.splits == part].sum(axis=0).tolist() for part in range(3)]
    assert counts[0] == [max(1, int(32 * 12 ** (-i / 9))) for i in range(10)]
    assert (counts[1], counts[2]) == ([8] * 10, [6] * 10)
    assert (table.head, table.tail) == (table.class_names[:7], table.class_names[7:])
    assert not table.patients_known
    known = data.known_labels()
    for name in ("labels", "splits", "patients"):
        np.testing.assert_array_equal(getattr(known, name), getattr(table, name))
    assert (known.head, known.tail) == (table.head, table.tail)


def images_of(data, part, tmp_path):
    table = Store(tmp_path / "store").get(data)
    return {image.tobytes() for image in table.images[table.splits == part]}


def test_a_weaker_imbalance_adds_images_and_another_seed_draws_others(tmp_path):
    root = str(cifar_files(tmp_path / "files", n_train=30).parent)
    steep, flat = CifarLt(root=root, imbalance_factor=20), CifarLt(root=root, imbalance_factor=5)
    assert images_of(steep, 0, tmp_path) < images_of(flat, 0, tmp_path)
    assert images_of(steep, 1, tmp_path) == images_of(flat, 1, tmp_path)
    other = CifarLt(root=root, imbalance_factor=20, sample_seed=1)
    assert images_of(other, 0, tmp_path) != images_of(steep, 0, tmp_path)
    assert images_of(other, 1, tmp_path) != images_of(steep, 1, tmp_path)
    assert not images_of(steep, 0, tmp_path) & images_of(steep, 1, tmp_path)


def test_a_pilot_takes_a_share_of_each_class_in_every_part(tmp_path):
    folder = cifar_files(tmp_path / "files", n_train=40, n_test=20)
    _, table = read(folder, tmp_path, images_per_class=10, imbalance_factor=1)
    assert [int((table.splits == part).sum()) for part in range(3)] == [90, 10, 50]
    assert CifarLt().pilot_settings() == {"images_per_class": 200}
    assert CifarLt(n_classes=100, images_per_class=5).pilot_settings() == {"images_per_class": 5}


def test_the_key_holds_the_content_and_not_the_place(tmp_path):
    here, there = (cifar_files(tmp_path / name) for name in "ab")
    keys = [CifarLt(root=str(folder.parent)).key for folder in (here, there)]
    assert keys[0] == keys[1]
    write(there / "batches.meta", {"label_names": [f"other_{i}" for i in range(10)]})
    assert CifarLt(root=str(there.parent)).key != keys[0]


@BOTH
def test_files_that_are_not_there_are_named_with_the_way_to_get_them(tmp_path, n_classes):
    data = CifarLt(root=str(tmp_path), n_classes=n_classes)
    assert (data.known_labels(), data.known_classes()) == (None, None)
    with pytest.raises(SourceError, match=rf"no such file.*torchvision\.datasets\.CIFAR{n_classes}\(root='{tmp_path}'"):
        data.content()
    (check,) = data.sources()
    assert not check.ok
    assert "download=True" in check.said
    folder = cifar_files(tmp_path, n_classes)
    assert next(iter(data.sources())).ok
    (folder / ("test" if n_classes == 100 else "test_batch")).unlink()
    with pytest.raises(SourceError, match="test"):
        _ = CifarLt(root=str(tmp_path), n_classes=n_classes).key


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return type(self.path).touch, (self.path,)


def refused(folder, tmp_path):
    with pytest.raises(DataError) as caught:
        read(folder, tmp_path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("file", ["data_batch_3", "test_batch", "batches.meta"])
@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_a_pickle_that_asks_for_anything_else_is_not_run(tmp_path, file, protocol):
    folder, mark = cifar_files(tmp_path / "files"), tmp_path / "ran"
    (folder / file).write_bytes(pickle.dumps({"data": Evil(mark)}, protocol))
    said = refused(folder, tmp_path)
    assert "asks to run" in said
    assert file in said
    assert not mark.exists()
    pickle.loads((folder / file).read_bytes())
    assert mark.exists(), "the trap works"


@pytest.mark.parametrize("name", [b"builtins\neval", b"numpy\nload", b"numpy.core.multiarray\nscalar", b"os\nsystem"])
def test_no_other_name_is_known(tmp_path, name):
    folder = cifar_files(tmp_path / "files")
    (folder / "data_batch_1").write_bytes(b"\x80\x02c" + name + b"\n(U\x01xtR.")
    assert "asks to run" in refused(folder, tmp_path)


GOOD = {"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 2, 3]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (GOOD | {"data": np.zeros((4, 3071), np.uint8)}, r"'data' is not uint8 \[n, 3072\]"),
        (GOOD | {"data": np.zeros((4, 3072), np.float32)}, "'data' is not uint8"),
        (GOOD | {"data": np.zeros((4, 3072), np.int8)}, "'data' is not uint8"),
        (GOOD | {"data": "pixels"}, "'data' is not uint8"),
        ({"labels": [0]}, "'data' is not uint8"),
        (GOOD | {"labels": [0, 1, 2]}, "'labels' is not a list of 4"),
        (GOOD | {"labels": [0, 1, 2, "x"]}, "'labels' is not a list of 4"),
        (GOOD | {"labels": [0, 1, 2, True]}, "'labels' is not a list of 4"),
        (GOOD | {"labels": [0, 1, 2, 10]}, "'labels' has 10; want numbers of 0 to 9"),
        (GOOD | {"labels": [0, 1, 2, -1]}, "'labels' has -1"),
        ([1, 2], "holds a list"),
    ],
)
def test_a_file_of_another_layout_is_refused(tmp_path, content, said):
    folder = cifar_files(tmp_path / "files")
    write(folder / "data_batch_2", content)
    assert re.search(said, refused(folder, tmp_path))


@pytest.mark.parametrize("names", [["a"] * 10, [f"n{i}" for i in range(9)], "names", [*"abcdefghi", "j\n"]])
def test_names_that_cannot_be_are_refused(tmp_path, names):
    folder = cifar_files(tmp_path / "files")
    write(folder / "batches.meta", {"label_names": names})
    assert "'label_names' is not a list of 10 different names" in refused(folder, tmp_path)


def test_a_damaged_file_is_refused(tmp_path):
    folder = cifar_files(tmp_path / "files")
    file = folder / "data_batch_1"
    whole = file.read_bytes()
    claims_more = whole.replace(b"J" + (40).to_bytes(4, "little"), b"J" + (4_000_000).to_bytes(4, "little"), 1)
    for broken in (whole[: len(whole) // 2], whole[:-1], b"", b"no pickle", b"\x80\x02}.", claims_more):
        file.write_bytes(broken)
        assert "again" in refused(folder, tmp_path)


def test_too_few_images_for_the_settings_are_refused(tmp_path):
    folder = cifar_files(tmp_path / "files")
    with pytest.raises(DataError, match="a class has 20 train images; want 50 or more"):
        read(folder, tmp_path, images_per_class=50)


@pytest.mark.parametrize(
    "settings",
    [{"n_tail": 10}, {"imbalance_factor": 0.5}, {"n_classes": 20}, {"val_share": 1}, {"images_per_class": 0}],
)
def test_settings_that_cannot_be_are_refused(settings):
    with pytest.raises(ValidationError):
        CifarLt(**settings)
