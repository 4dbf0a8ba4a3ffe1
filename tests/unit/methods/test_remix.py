"""Remix: the blend of the parents by their shares, shares from a bounded Beta, labels by the paper's rule."""

from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError
from scipy import stats

from bench.augment.augmented import checked
from bench.augment.label_policies import LabelEvidence, assign
from bench.contract import Context
from bench.tables import AugmentedSet, ImageRows, TrainSet
from methods.duplicate import Duplicate
from methods.remix import Remix, remixed_labels

NAN = np.nan


def train(n: int = 80) -> TrainSet:
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 4)) < [0.6, 0.25, 0.15, 0.1]).astype(np.float32)
    images = rng.integers(0, 256, (n, 6, 6), dtype=np.uint8)
    return TrainSet(ImageRows(images), labels, ("a", "b", "c", "d"), ("a", "b"), ("c", "d"))


def context(split: TrainSet, n_each: int = 40) -> Context:
    return Context(split, {"c": n_each, "d": n_each}, np.repeat([2, 3], n_each), seed=4)


def made(method: Remix | Duplicate, ctx: Context) -> AugmentedSet:
    batches = list(checked(method, ctx))
    images, labels, parents = (
        np.concatenate([getattr(b, name) for b in batches]) for name in ("images", "labels", "parents")
    )
    extras = {name: np.concatenate([b.extras[name] for b in batches]) for name in batches[0].extras}
    return AugmentedSet(images, labels, parents, ctx.samples, extras)


def test_an_image_is_the_mean_of_its_parents_by_their_shares() -> None:
    ctx = context(train())
    found = made(Remix(), ctx)
    tail, partner = (ctx.train.images[rows].astype(float) for rows in found.parents.T)
    share = found.extras["parent_share"][:, 0].astype(float)[:, None, None]
    assert np.abs(found.images - (share * tail + (1 - share) * partner)).max() <= 0.51


def test_tail_images_are_those_that_duplicate_copies_and_partners_have_no_tail_class() -> None:
    ctx = context(train())
    tail, partner = made(Remix(), ctx).parents.T
    np.testing.assert_array_equal(tail, made(Duplicate(), ctx).parents[:, 0])
    assert not (ctx.train.labels[partner][:, 2:] == 1).any()
    assert len(np.unique(partner)) > 20


@pytest.mark.parametrize(("alpha", "least"), [(1.0, 0.5), (0.3, 0.5), (4.0, 0.6), (20.0, 0.9)])
def test_shares_are_from_beta_given_that_the_tail_image_dominates(alpha: float, least: float) -> None:
    share = made(Remix(alpha=alpha, min_share=least), context(train(), 1000)).extras["parent_share"][:, 0]
    assert share.min() >= least - 1e-6
    whole = stats.beta(alpha, alpha)
    above = whole.sf(least)
    assert stats.kstest(share, lambda x: 1 - whole.sf(x) / above).pvalue > 0.01


def of_one_label(n: list[int]) -> TrainSet:
    """Return a train set with one class an image, as in the paper: n[c] images of class c; c and d are the tail."""
    labels = np.eye(4, dtype=np.float32)[np.repeat(np.arange(4), n)]
    return TrainSet(ImageRows(np.zeros((len(labels), 6, 6), np.uint8)), labels, tuple("abcd"), ("a", "b"), ("c", "d"))


def test_with_one_label_an_image_the_rarer_class_is_labelled_as_in_the_paper() -> None:
    """Equation 4 of the paper, case by case. Ours differs where it says so: the commoner class keeps its share."""
    split = of_one_label([60, 20, 10, 3])
    share = np.linspace(0.05, 0.95, 19).astype(np.float32)
    for kappa, tau in ((3, 0.5), (3, 0.2), (8, 0.5)):
        for rare, common in ((2, 0), (2, 1), (3, 0), (3, 1)):
            first = [int(np.flatnonzero(split.labels[:, c])[0]) for c in (rare, common)]
            found = remixed_labels(split, np.tile(first, (19, 1)), np.stack([share, 1 - share], 1), kappa, tau)
            for s, labels in zip(share, found, strict=True):
                n_i, n_j, lam = split.counts[rare], split.counts[common], s
                lam_y = 1.0 if n_i / n_j <= 1 / kappa and 1 - lam < tau else lam
                assert labels[rare] == pytest.approx(lam_y)
                assert labels[common] == pytest.approx(1 - s)
                assert labels.sum() == pytest.approx(lam_y + 1 - s)


def test_each_class_is_judged_on_its_own() -> None:
    labels = np.array([[1, 1, 1, 0], [1, 0, 0, 0], [0, 1, 0, 0], [NAN, 0, 0, 0], *[[1, 0, 0, 0]] * 20], np.float32)
    split = TrainSet(ImageRows(np.zeros((24, 6, 6), np.uint8)), labels, tuple("abcd"), ("a", "b"), ("c", "d"))
    share = np.array([[0.6, 0.4]], np.float32)

    def of(partner: int) -> list[float]:
        return remixed_labels(split, np.array([[0, partner]]), share, 3.0, 0.5)[0].tolist()

    assert of(1) == pytest.approx([1, 1, 1, 0])  # a is shared; b and c are rare beside a
    assert of(2) == pytest.approx([0.6, 1, 0.6, 0])  # b of the partner is rare itself: c is mixed
    assert of(3) == pytest.approx([NAN, 0.6, 0.6, 0], nan_ok=True)  # one image without a finding: rare as well


def test_policies_find_their_evidence() -> None:
    ctx = context(train())
    found = made(Remix(), ctx)
    evidence = LabelEvidence.of(found, ctx.train.labels)
    share = found.extras["parent_share"]
    tail, partner = (ctx.train.labels[rows] for rows in found.parents.T)
    np.testing.assert_allclose(assign("area", evidence), share[:, :1] * tail + share[:, 1:] * partner, atol=1e-6)
    np.testing.assert_array_equal(assign("union", evidence), np.maximum(tail, partner))
    assert ((found.labels > 0) & (found.labels < 1)).any()
    assert (found.labels >= assign("area", evidence) - 1e-6).all()


def test_without_a_partner_the_data_is_skipped() -> None:
    split = train()
    split.labels[:, 2] = 1
    assert Remix().skip(train()) is None
    assert "no partner" in str(Remix().skip(split))


@pytest.mark.parametrize("bad", [{"alpha": 0}, {"min_share": 0.4}, {"min_share": 1}, {"kappa": 0.5}, {"tau": 1.5}])
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        Remix(**bad)
