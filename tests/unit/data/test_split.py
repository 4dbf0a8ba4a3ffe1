"""The split: whole patients, every class shared, the train split closed to the rest."""

import dataclasses

import numpy as np
import pytest

from bench.data.split import PARTS, Split, SplitSettings, Train, check, checked_parts, part_rows, stratify, train_set
from bench.errors import DataError
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.tables import ImageTable
from bench.testing.toy import ToyDataset


def long_tailed(n=1000, seed=0, patients=400):
    draw = np.random.default_rng(seed)
    shares = np.array([0.4, 0.25, 0.1, 0.03, 0.012])
    return (draw.random((n, 5)) < shares).astype(np.float32), draw.integers(0, patients, n)


@pytest.mark.parametrize("seed", range(5))
def test_patients_are_whole_and_parts_have_their_shares(seed):
    labels, patients = long_tailed(seed=seed)
    part = stratify(labels, patients, SplitSettings(seed=seed))
    assert set(part) == {0, 1, 2}
    assert all(len(set(part[patients == p])) == 1 for p in np.unique(patients))
    np.testing.assert_allclose(np.bincount(part) / len(part), [0.5, 0.2, 0.3], atol=0.03)


def test_each_class_is_shared_as_the_parts_are():
    labels, patients = long_tailed()
    part = stratify(labels, patients, SplitSettings())
    for column in labels.T:
        shares = np.array([column[part == i].sum() for i in range(3)]) / column.sum()
        np.testing.assert_allclose(shares, [0.5, 0.2, 0.3], atol=max(0.05, 2 / column.sum()))


def test_rare_classes_fare_better_than_by_chance():
    labels, patients = long_tailed()

    def miss(part):
        counts = np.array([labels[part == i].sum(0) for i in range(3)])
        return np.abs(counts / labels.sum(0) - np.array([[0.5], [0.2], [0.3]]))[:, -2:].max()

    drawn = np.random.default_rng(0).choice(3, size=patients.max() + 1, p=[0.5, 0.2, 0.3])[patients]
    assert miss(stratify(labels, patients, SplitSettings())) < miss(drawn)


def test_the_seed_decides():
    labels, patients = long_tailed()
    one, same, other = (stratify(labels, patients, SplitSettings(seed=s)) for s in (0, 0, 1))
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_unknown_labels_and_images_without_findings_are_dealt_too():
    labels, patients = long_tailed()
    labels[:300] = np.nan
    labels[300:600] = 0
    part = stratify(labels, patients, SplitSettings())
    assert set(part) == {0, 1, 2}


def table(part_patients, labels):
    n = len(labels)
    return ImageTable(
        np.zeros((n, 4, 4), np.uint8),
        np.array(labels, np.float32)[:, None],
        np.array(part_patients),
        ("rare",),
        (),
        ("rare",),
    )


def test_a_patient_in_two_parts_is_refused():
    with pytest.raises(DataError, match="patient 7 has images in more than one part"):
        check(np.array([0, 1, 2]), table([7, 7, 8], [1, 1, 1]), 1)


def test_a_class_without_enough_positives_is_refused_by_name():
    with pytest.raises(DataError, match=r"class 'rare' has 0 positives in test, split.min_positives asks for 1"):
        check(np.array([0, 1, 2]), table([0, 1, 2], [1, 1, 0]), 1)


def test_a_shortage_says_how_many_there_are_and_of_how_many_patients():
    rare = table([0, 0, 1, 2], [1, 1, 0, 0])
    with pytest.raises(DataError, match=r"has 0 positives in val, .* asks for 2 \(2 in all, of 1 patient\)"):
        check(np.array([0, 0, 1, 2]), rare, 2)


def test_a_class_that_is_never_absent_is_refused():
    with pytest.raises(DataError, match=r"class 'rare' has no negative in val; .*'blank: negative'"):
        check(np.array([0, 0, 1, 1, 2, 2]), table(range(6), [1, 0, 1, np.nan, 1, 0]), 1)


def test_an_empty_part_is_refused_by_what_it_is_for():
    with pytest.raises(DataError, match="val is empty; 2 patients cannot fill train, val and test"):
        check(np.array([0, 0, 2, 2]), table([0, 0, 1, 1], [1, 0, 1, 0]), 1)
    official = dataclasses.replace(table(range(4), [1, 0, 1, 0]), splits=np.array([0, 0, 2, 2]))
    with pytest.raises(DataError, match="val is empty; the official split must have images"):
        checked_parts(official, SplitSettings(min_positives=1))


def work_of(store, stage):
    return Work(store, stage, store.root / "out", store.root / "ckpt", Execution())


def test_parts_are_disjoint_complete_and_train_shows_its_own_rows_only(tmp_path):
    store, dataset = Store(tmp_path), ToyDataset()
    split = Split(dataset=dataset, settings=SplitSettings(min_positives=1))
    rows, whole = store.get(split), store.get(dataset)
    assert sorted(np.concatenate(list(rows.values()))) == list(range(60))
    train = train_set(work_of(store, split), Train(split=split))
    assert np.array_equal(train.images[:], whole.images[rows["train"]])
    np.testing.assert_array_equal(train.labels, whole.labels[rows["train"]])
    assert train.counts.tolist() == np.nansum(whole.labels[rows["train"]], 0).tolist()
    for part in PARTS:
        images, labels, found = part_rows(work_of(store, split), split, part)
        assert np.array_equal(images[:], whole.images[rows[part]])
        np.testing.assert_array_equal(labels, whole.labels[found])


def test_an_official_split_is_kept(tmp_path):
    store, dataset = Store(tmp_path), ToyDataset()
    rows = store.get(Split(dataset=dataset, settings=SplitSettings(min_positives=1, val=0.5, test=0.4)))
    assert [len(rows[p]) for p in PARTS] == [36, 12, 12]
