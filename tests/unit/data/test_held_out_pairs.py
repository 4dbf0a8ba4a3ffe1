"""Held-out pairs: never together in train or val, whole patients in test, and refused where nothing can be measured."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from bench.cli.show_data import held_out_lines
from bench.data.dataset import KnownLabels
from bench.data.describe import held_out_pairs
from bench.data.split import SplitSettings, assign_parts, checked_parts, stratify
from bench.errors import DataError
from tests.unit.data.test_split import long_tailed
from tests.unit.matrix.test_matrix import changed, load

NAMES = ("a", "b", "c", "d", "e")
PAIRS = (("a", "c"), ("d", "b"))


def known(seed: int = 0, unknown: float = 0.0, splits: np.ndarray | None = None) -> KnownLabels:
    labels, patients = long_tailed(n=3000, seed=seed, patients=1200)
    labels[np.random.default_rng(seed + 100).random(labels.shape) < unknown] = np.nan
    return KnownLabels(NAMES, labels, patients, splits, NAMES[:2], NAMES[2:])


def together(table: KnownLabels, a: str, b: str) -> list[int]:
    """Return the images that have both classes, by a loop."""
    columns = NAMES.index(a), NAMES.index(b)
    return [i for i, row in enumerate(table.labels) if row[columns[0]] == 1 and row[columns[1]] == 1]


@pytest.mark.parametrize("unknown", [0.0, 0.2])
@pytest.mark.parametrize("seed", range(5))
def test_pairs_are_in_test_alone_with_all_images_of_their_patients(seed: int, unknown: float) -> None:
    table = known(seed, unknown)
    part = checked_parts(table, SplitSettings(held_out_pairs=PAIRS))
    images = sorted({i for pair in PAIRS for i in together(table, *pair)})
    assert images
    assert set(part[images]) == {2}
    assert set(part[np.isin(table.patients, table.patients[images])]) == {2}
    assert all(len(set(part[table.patients == p])) == 1 for p in np.unique(table.patients))


def test_all_other_patients_are_split_as_if_those_did_not_exist() -> None:
    table = known()
    settings = SplitSettings(held_out_pairs=PAIRS)
    images = [i for pair in PAIRS for i in together(table, *pair)]
    rest = ~np.isin(table.patients, table.patients[images])
    alone = stratify(table.labels[rest], table.patients[rest], SplitSettings())
    assert np.array_equal(assign_parts(table, settings)[rest], alone)
    assert np.array_equal(assign_parts(table, SplitSettings()), stratify(table.labels, table.patients, settings))


def test_the_counts_are_those_of_a_loop_and_are_told() -> None:
    table = known(unknown=0.1)
    found = held_out_pairs(table, SplitSettings(held_out_pairs=PAIRS))
    both = [together(table, *pair) for pair in PAIRS]
    images = sorted({i for mine in both for i in mine})
    a, c = table.labels[:, 0], table.labels[:, 2]
    maybe = int(((a == 1) & np.isnan(c)).sum() + (np.isnan(a) & (c == 1)).sum())
    assert [p["images"] for p in found["pairs"]] == [len(mine) for mine in both]
    assert found["pairs"][0]["patients"] == len(set(table.patients[both[0]]))
    assert found["pairs"][0]["maybe"] == maybe > 0
    moved = int(np.isin(table.patients, table.patients[images]).sum())
    assert (found["images"], found["images_of_patients"]) == (len(images), moved)
    first, *_, last = held_out_lines(found)
    assert first.startswith(f"held out: a + c, {len(both[0])} images of {len(set(table.patients[both[0]]))} patients; ")
    assert f"{maybe} more have one of them, and the other is unknown" in first
    assert last.startswith(f"held out: {moved} images (all images of {found['patients']} patients) are in test because")
    assert held_out_pairs(table, SplitSettings()) is None
    assert held_out_lines(None) == []


def refused(table: KnownLabels, *pairs: tuple[str, str], **settings: int) -> str:
    with pytest.raises(DataError) as caught:
        checked_parts(table, SplitSettings(held_out_pairs=pairs, **settings))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_cannot_be_held_out_is_refused_in_one_line() -> None:
    table = known()
    assert "the data set brings its own split" in refused(known(splits=np.arange(3000) % 3), ("a", "b"))
    assert refused(table, ("a", "b"), ("b", "e2")).startswith(
        "split.held_out_pairs: no class 'e2'; did you mean 'e'? (have:"
    )
    table.labels[:, 4] *= table.labels[:, 3] != 1
    assert "'d' and 'e' are together in no image" in refused(table, ("d", "e"))


def test_too_few_images_are_refused_with_their_number() -> None:
    table = known()
    n, patients = len(together(table, "c", "d")), table.patients[together(table, "c", "d")]
    said = refused(table, ("c", "d"), min_positives=n + 1)
    assert (
        f"'c' and 'd' are together in {n} images (of {len(set(patients))} patients), split.min_positives asks" in said
    )
    table.labels[:, 3] *= table.labels[:, 0] == 1  # d is never there without a
    said = refused(table, ("a", "d"))
    assert re.search(r"'d' is in 0 images \(of 0 patients\) of test without a held-out pair, .* asks for 3 ", said)


def test_a_class_that_the_pairs_leave_too_rarely_in_train_is_refused_with_what_helps() -> None:
    table = known()
    table.labels[table.labels[:, 4] == 1, 0] = table.labels[table.labels[:, 4] == 1, 2] = 1  # no e without the pair
    said = refused(table, ("a", "c"))
    assert "class 'e' has 0 positives in train" in said
    assert "or hold out fewer pairs (split.held_out_pairs)" in said


@pytest.mark.parametrize(
    ("pairs", "said"),
    [
        ([("a", "a")], "want two classes in a pair, got 'a' twice"),
        ([("a", "b"), ("b", "a")], "'b' and 'a' are there twice; name each pair once"),
        ([("a", "b", "c")], "at most 2 items"),
    ],
)
def test_pairs_are_two_classes_each_once(pairs: list[tuple[str, ...]], said: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(said)):
        SplitSettings(held_out_pairs=pairs)


@pytest.mark.parametrize(
    ("dataset", "pair", "said"),
    [
        ({}, ["Fracture", "Pneumotorax"], "no class 'Pneumotorax'; did you mean 'Pneumothorax'?"),
        ({"held_out": 40}, ["Fracture", "Pneumothorax"], "the data set brings its own split"),
    ],
)
def test_a_matrix_is_refused_before_its_phantom_is_drawn(tmp_path: Path, dataset: dict, pair: list, said: str) -> None:
    text = changed(datasets=[{"kind": "phantom", "n_images": 80} | dataset], split={"held_out_pairs": [pair]})
    with pytest.raises(DataError, match=re.escape(said)) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith("m.yaml: data set 'phantom': split.held_out_pairs: ")
