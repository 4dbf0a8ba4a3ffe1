"""MLSMOTE: SMOTE's images, with labels that a loop of its own counts out."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.distance import cdist

from bench.augment.augmented import checked
from bench.contract import Context
from bench.tables import ImageRows, TrainSet
from methods.mlsmote import Mlsmote, vote
from methods.smote import Smote
from tests.unit.methods.smote_fixtures import neighbours_by_cdist

NAN = np.nan


def train(n: int = 60, unknown: bool = True) -> TrainSet:
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 4)) < [0.6, 0.4, 0.3, 0.3]).astype(np.float32)
    if unknown:
        labels[rng.random((n, 4)) < 0.15] = NAN
    images = rng.integers(0, 256, (n, 6, 6), dtype=np.uint8)
    return TrainSet(ImageRows(images), labels, ("a", "b", "c", "d"), ("a", "b"), ("c", "d"))


def made(method: Smote, split: TrainSet, n_each: int = 40) -> dict[str, np.ndarray]:
    inputs = {"neighbours": neighbours_by_cdist(split, method.k_neighbors)}
    ctx = Context(split, {"c": n_each, "d": n_each}, np.repeat([2, 3], n_each), inputs, seed=4)
    batches = list(checked(method, ctx))
    return {name: np.concatenate([getattr(b, name) for b in batches]) for name in ("images", "labels", "parents")}


def counted(split: TrainSet, target: int, base: int, k: int, rule: str) -> list[float]:
    """Return the labels by the paper's rules: count the label in the base and in its k nearest images of the class."""
    rows = np.flatnonzero(split.labels[:, target] == 1)
    flat = split.images[:].reshape(len(split), -1).astype(float)
    apart = cdist(flat[[base]], flat[rows])[0]
    voters = list(rows[np.argsort(apart, kind="stable")][: k + 1])
    found = []
    for label in range(4):
        outcomes = set()  # with all unknown labels absent, and with all of them present
        for guess in (0.0, 1.0):
            votes = sum(guess if np.isnan(x) else x for x in (split.labels[row, label] for row in voters))
            outcomes.add({"ranking": 2 * votes >= len(voters), "union": votes > 0,
                          "intersection": votes == len(voters)}[rule])  # fmt: skip
        found.append(NAN if len(outcomes) == 2 else float(outcomes.pop()))
    return found


@pytest.mark.parametrize("rule", ["ranking", "union", "intersection"])
@pytest.mark.parametrize("k", [3, 4])
def test_labels_are_those_that_a_loop_counts(rule: str, k: int) -> None:
    split = train()
    found = made(Mlsmote(k_neighbors=k, label_rule=rule), split)
    expected = [
        counted(split, target, int(base), k, rule)
        for target, base in zip(np.repeat([2, 3], 40), found["parents"][:, 0], strict=True)
    ]
    np.testing.assert_array_equal(found["labels"], np.array(expected, np.float32))
    assert {0.0, 1.0} <= set(np.unique(found["labels"]))
    assert rule == "intersection" or np.isnan(found["labels"]).any()  # one known "absent" decides an intersection


def test_images_and_parents_are_smotes_and_labels_are_not() -> None:
    split = train()
    ours, plain = made(Mlsmote(), split), made(Smote(), split)
    np.testing.assert_array_equal(ours["images"], plain["images"])
    np.testing.assert_array_equal(ours["parents"], plain["parents"])
    assert not np.array_equal(ours["labels"], plain["labels"], equal_nan=True)


def test_half_of_the_votes_are_enough_and_unknown_ones_decide_nothing() -> None:
    labels = np.array([[1, 1, 1, 1, 0], [1, 0, NAN, 1, NAN], [0, 0, 0, NAN, 0], [0, 0, 0, NAN, 0]], np.float32)
    np.testing.assert_array_equal(vote(labels, "ranking"), np.array([1, 0, NAN, 1, 0], np.float32))
    np.testing.assert_array_equal(vote(labels, "union"), np.array([1, 1, 1, 1, NAN], np.float32))
    np.testing.assert_array_equal(vote(labels, "intersection"), np.array([0, 0, 0, NAN, 0], np.float32))


@pytest.mark.parametrize("rule", ["ranking", "union", "intersection"])
def test_every_rule_keeps_the_target_class(rule: str) -> None:
    labels = made(Mlsmote(label_rule=rule), train())["labels"]
    assert (labels[np.arange(80), np.repeat([2, 3], 40)] == 1).all()


def test_a_class_of_one_image_has_the_labels_of_that_image() -> None:
    lonely = train()
    lonely.labels[:, 3] = 0
    lonely.labels[7] = [NAN, 1, 0, 1]
    found = made(Mlsmote(), lonely)
    assert (found["parents"][40:] == [7, -1]).all()
    np.testing.assert_array_equal(found["labels"][40:], np.tile(lonely.labels[7], (40, 1)))


def test_an_unknown_rule_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValidationError, match="'ranking', 'union' or 'intersection'"):
        Mlsmote(label_rule="majority")
