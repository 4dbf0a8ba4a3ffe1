"""Label policies against rules written out by hand, one sample and one class at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.augment.label_policies import LabelEvidence, assign
from bench.tables import AugmentedSet

POLICIES = ("union", "target_only", "released", "area")


def samples(n: int = 40, n_classes: int = 5, with_extras: bool = True) -> tuple[AugmentedSet, np.ndarray]:
    """Return a set whose parents are there or missing, known or unknown, and the train labels."""
    rng = np.random.default_rng(0)
    train = rng.choice([0, 1, np.nan], size=(30, n_classes), p=[0.6, 0.3, 0.1]).astype(np.float32)
    parents = rng.integers(-1, len(train), size=(n, 2))
    parents[0] = -1
    share = rng.dirichlet([1, 1], size=n).astype(np.float32)
    share[1] = 0, 1
    extras = {"parent_share": share, "claimed_class": rng.integers(-1, n_classes, size=n)} if with_extras else {}
    own = rng.random((n, n_classes)).astype(np.float32)
    images, target = np.zeros((n, 4, 4), np.uint8), rng.integers(0, n_classes, size=n)
    return AugmentedSet(images, own, parents, target, extras), train


def by_hand(policy: str, made: AugmentedSet, train: np.ndarray, i: int, c: int) -> float:
    there = [p for p in range(2) if made.parents[i, p] >= 0]
    labels = [train[made.parents[i, p], c] for p in there]
    if policy == "target_only":
        return 1.0 if c == made.target_class[i] else math.nan
    if policy == "released":
        return float(c == made.extras.get("claimed_class", made.target_class)[i])
    if not there:
        return float(made.labels[i, c])
    if policy == "union":
        return 1.0 if 1 in labels else math.nan if any(math.isnan(x) for x in labels) else 0.0
    shares = [made.extras["parent_share"][i, p] if made.extras else 1 / len(there) for p in there]
    return float(sum(s * x for s, x in zip(shares, labels, strict=True) if s > 0))


@pytest.mark.parametrize("with_extras", [True, False])
@pytest.mark.parametrize("policy", POLICIES)
def test_a_policy_is_its_rule_written_out(policy: str, with_extras: bool) -> None:
    made, train = samples(with_extras=with_extras)
    got = assign(policy, LabelEvidence.of(made, train))
    wanted = [[by_hand(policy, made, train, i, c) for c in range(train.shape[1])] for i in range(len(made))]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, wanted, atol=1e-6)


def test_own_and_teacher_are_what_was_given() -> None:
    made, train = samples()
    evidence, taught = LabelEvidence.of(made, train), np.full(made.labels.shape, 0.25, np.float32)
    np.testing.assert_array_equal(assign("own", evidence), made.labels)
    np.testing.assert_array_equal(assign("teacher", evidence, taught), taught)
    with pytest.raises(ValueError, match="teacher"):
        assign("teacher", evidence)


def test_an_empty_set_stays_empty() -> None:
    made, train = samples(0 + 2)
    none = AugmentedSet(*(np.asarray(a)[:0] for a in (made.images, made.labels, made.parents, made.target_class)), {})
    for policy in POLICIES:
        assert assign(policy, LabelEvidence.of(none, train)).shape == (0, train.shape[1])
