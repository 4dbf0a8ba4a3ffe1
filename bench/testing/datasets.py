"""The rules that every data set must keep, as checks that raise `DataError`.

    @pytest.mark.parametrize("check", DATASET_CHECKS)
    def test_contract(check, tmp_path):
        check(MyDataset(n_images=40), tmp_path)

Use a small instance. `root` is the folder of a store; checks with the same `root` share what they compute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from bench.data.dataset import Dataset
from bench.errors import DataError
from bench.pixels import are_images
from bench.plugins.discovery import name_fault
from bench.store.store import Store
from bench.tables import ImageTable
from bench.testing.other_process import in_another_process

DatasetCheck = Callable[[Dataset, Path], None]


def check_settings(dataset: Dataset, root: Path) -> None:
    """Check that the kind is a plain name, settings survive JSON with the same key, and `sharing` is set."""
    fault = name_fault("kind", dataset.kind)
    _want(dataset, "a matrix file can hold the kind", fault, fault is None)
    again = type(dataset).model_validate_json(dataset.model_dump_json())
    _want(dataset, "settings survive JSON", again, again == dataset and again.key == dataset.key)
    _want(dataset, "sharing is open or credentialed", dataset.sharing, dataset.sharing in ("open", "credentialed"))


def check_images(dataset: Dataset, root: Path) -> None:
    """Check that images are square `uint8` in a memory map, grey or with colour, and that none has one level only."""
    images = _table(dataset, root).images
    _want(dataset, "images are memory-mapped", type(images).__name__, isinstance(images, np.memmap))
    _want(dataset, "images uint8 [n, H, H] or [n, H, H, 3]", (images.dtype, images.shape), are_images(images))
    flat = [i for i in range(len(images)) if images[i].min() == images[i].max()]
    _want(dataset, "no image is flat (blackened?)", f"rows {flat[:5]}", not flat)


def check_labels(dataset: Dataset, root: Path) -> None:
    """Check that labels are 0, 1 or NaN, have a column for every class, and have a positive in every class."""
    table = _table(dataset, root)
    shape = (len(table.images), len(table.class_names))
    for name, labels in (("labels", table.labels), ("true_labels", table.true_labels)):
        if labels is not None:
            kept = labels.shape == shape and labels.dtype == np.float32
            _want(dataset, f"{name} float32 [n, C]", (labels.dtype, labels.shape), kept)
            odd = labels[~(np.isnan(labels) | (labels == 0) | (labels == 1))]
            _want(dataset, f"{name} are 0, 1 or NaN", odd[:5], not odd.size)
    counts = dict(zip(table.class_names, np.nansum(table.labels, axis=0).tolist(), strict=True))
    _want(dataset, "every class has a positive", counts, all(counts.values()))


def check_classes(dataset: Dataset, root: Path) -> None:
    """Check that class names are unique, and that head and tail are disjoint, non-empty sets of classes.

    `known_classes()`, which must work before the data is read, must return the names that the table has.
    """
    table = _table(dataset, root)
    names, head, tail = set(table.class_names), set(table.head), set(table.tail)
    _want(dataset, "class names are unique", table.class_names, len(names) == len(table.class_names))
    _want(dataset, "head and tail are disjoint classes", (head, tail), head and tail and not head & tail)
    _want(dataset, "head and tail are classes", (head | tail) - names, head | tail <= names)
    known = dataset.known_classes()
    _want(dataset, "known_classes() are the table's", known, known is None or known == table.class_names)


def check_patients_and_splits(dataset: Dataset, root: Path) -> None:
    """Check that every image has a patient, and that an official split has three parts and keeps patients whole."""
    table = _table(dataset, root)
    kept = table.patients.dtype == np.int64 and table.patients.shape == (len(table.images),)
    _want(dataset, "patients int64 [n]", (table.patients.dtype, table.patients.shape), kept)
    if table.splits is not None:
        parts = np.unique(table.splits).tolist()
        _want(dataset, "splits are 0 train, 1 val, 2 test", parts, parts == [0, 1, 2])
        pairs = np.unique(np.stack([table.patients, table.splits]), axis=1)
        cut = pairs.shape[1] - len(np.unique(table.patients))
        _want(dataset, "splits cut through no patient", f"{cut} patients cut", cut == 0)


def check_same_in_another_process(dataset: Dataset, root: Path) -> None:
    """Check that the same settings give the same bytes in another process, where strings hash differently."""
    here, there = digest(_table(dataset, root)), in_another_process(read_elsewhere, dataset)
    _want(dataset, "same settings, same bytes in another process", (here, there), here == there)


DATASET_CHECKS: list[DatasetCheck] = [
    check_settings,
    check_images,
    check_labels,
    check_classes,
    check_patients_and_splits,
    check_same_in_another_process,
]


def digest(table: ImageTable) -> str:
    """Return a digest of everything in a table."""
    total = hashlib.sha256(repr((table.class_names, table.head, table.tail)).encode())
    for array in (table.images, table.labels, table.patients, table.true_labels, table.splits):
        total.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
    return total.hexdigest()


def read_elsewhere(root: Path, dataset: Dataset) -> str:
    """Return the digest of the table, computed in this process in a store at `root`."""
    return digest(_table(dataset, root))


def _table(dataset: Dataset, root: Path) -> ImageTable:
    return Store(root).get(dataset)


def _want(dataset: Dataset, rule: str, seen: object, kept: object) -> None:
    if not kept:
        raise DataError(f"data set '{dataset.kind}' broke the contract ({rule}): got {seen}")
