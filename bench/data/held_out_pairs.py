"""Pairs of findings that are held out: no image of train or val has both, and every image that has both is in test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bench.data.dataset import KnownLabels
from bench.errors import DataError, listed, nearest
from bench.tables import Float32, ImageTable, Int64

Bools = npt.NDArray[np.bool_]
Pair = tuple[str, str]
_SETTING = "split.held_out_pairs"


def refuse_official() -> None:
    """Refuse held-out pairs for a data set that says itself which images are train, val and test.

    Raises:
        DataError: always.
    """
    raise DataError(
        f"{_SETTING}: the data set brings its own split, which stays as it is; take {_SETTING} out, or read the data "
        "set without its split (split_column of a folder, held_out of the phantom)"
    )


def pair_columns(pairs: Sequence[Pair], class_names: Sequence[str]) -> list[tuple[int, int]]:
    """Return the columns of the two classes of each pair.

    Raises:
        DataError: for a name that is not a class.
    """
    for name in (name for pair in pairs for name in pair):
        if name not in class_names:
            raise DataError(f"{_SETTING}: no class '{name}'{nearest(name, class_names)} (have: {listed(class_names)})")
    return [(class_names.index(a), class_names.index(b)) for a, b in pairs]


def has_pair(labels: Float32, columns: Sequence[tuple[int, int]]) -> Bools:
    """Return which images have both classes of each pair, `bool [n, pairs]`, by their observed labels.

    An image with one of them, of which the other is unknown (NaN), does not count; see `maybe`.
    """
    found = [(labels[:, a] == 1) & (labels[:, b] == 1) for a, b in columns]
    return np.stack(found, axis=1) if found else np.zeros((len(labels), 0), dtype=bool)


def has_any_pair(labels: Float32, columns: Sequence[tuple[int, int]]) -> Bools:
    """Return which images have both classes of any of the pairs, `bool [n]`; see `has_pair`."""
    found: Bools = np.logical_or.reduce(has_pair(labels, columns), axis=1)
    return found


def of_same_patients(rows: Bools, patients: Int64) -> Bools:
    """Return all images of the patients that have at least one image in `rows`, `bool [n]`."""
    return np.isin(patients, np.unique(patients[rows]))


@dataclass(frozen=True)
class HeldOutPair:
    """What the labels say of one pair.

    Attributes:
        classes: the two classes.
        n_images, n_patients: how many images have both, and of how many patients.
        maybe: images of which one class is positive and the other unknown. They are not held out.
    """

    classes: Pair
    n_images: int
    n_patients: int
    maybe: int


def found_pairs(table: ImageTable | KnownLabels, pairs: Sequence[Pair]) -> list[HeldOutPair]:
    """Return what the labels say of each pair.

    Raises:
        DataError: for a name that is not a class.
    """
    columns = pair_columns(pairs, table.class_names)
    found = []
    for pair, (a, b), mine in zip(pairs, columns, has_pair(table.labels, columns).T, strict=True):
        both = table.labels[:, [a, b]]
        maybe = int(((both == 1).any(axis=1) & np.isnan(both).any(axis=1)).sum())
        found.append(HeldOutPair(pair, int(mine.sum()), len(np.unique(table.patients[mine])), maybe))
    return found


def check_pairs(table: ImageTable | KnownLabels, test: Bools, pairs: Sequence[Pair], least: tuple[int, int]) -> None:
    """Refuse pairs of which too few images are left to measure anything.

    Args:
        table: the labels and patients.
        test: `bool [n]`, the images of test.
        pairs: the pairs.
        least: the fewest images with a pair, and the fewest patients of these. As many test images must have each class
            of a pair and none of the pairs.

    Raises:
        DataError: naming the pair, the numbers and what to do.
    """
    asked = f"split.min_positives asks for {least[0]} and split.min_patients for {least[1]}"
    any_pair = has_any_pair(table.labels, pair_columns(pairs, table.class_names))
    for pair in found_pairs(table, pairs):
        said = f"{_SETTING}: '{pair.classes[0]}' and '{pair.classes[1]}'"
        if pair.n_images == 0:
            raise DataError(f"{said} are together in no image; `bench describe` lists pairs that occur")
        if pair.n_images < least[0] or pair.n_patients < least[1]:
            counted = _counted(table, pair.n_images, pair.n_patients)
            raise DataError(f"{said} are together in {counted}, {asked}; choose a pair that occurs more often")
        for name in pair.classes:
            seen = test & ~any_pair & (table.labels[:, table.class_names.index(name)] == 1)
            n, n_patients = int(seen.sum()), len(np.unique(table.patients[seen]))
            if n < least[0] or n_patients < least[1]:
                raise DataError(
                    f"{said}: '{name}' is in {_counted(table, n, n_patients)} of test without a held-out pair, "
                    f"{asked}; hold out fewer pairs, or use more images or a larger split.test"
                )


def _counted(table: ImageTable | KnownLabels, n: int, n_patients: int) -> str:
    of = f" (of {n_patients} patient{'s'[: n_patients != 1]})" if table.patients_known else ""
    return f"{n} image{'s'[: n != 1]}{of}"
