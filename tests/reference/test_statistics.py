"""Effects and the resampled test set against scipy, scikit-learn and loops written from the definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score

from bench.metrics import patient_bootstrap as bootstrap
from bench.metrics.average_precision import average_precision, weighted_average_precision
from reports.statistics import (
    N_RESAMPLES,
    Estimate,
    bca_interval,
    holm,
    least_p,
    over_seeds,
    over_test_patients,
    sign_flip_p,
    verdict,
)


@pytest.mark.parametrize("decimals", [1, 8])
def test_weighted_average_precision_equals_sklearns(decimals):
    rng = np.random.default_rng(0)
    scores = rng.standard_normal(80).round(decimals)  # one decimal: many ties
    positive = rng.random(80) < 0.2
    weights = rng.poisson(1.0, (80, 40))
    found = weighted_average_precision(scores, positive, weights)
    want = [average_precision_score(positive, scores, sample_weight=weights[:, b]) for b in range(40)]
    assert found == pytest.approx(want, abs=1e-12)


def test_weighted_average_precision_equals_that_of_repeated_rows():
    rng = np.random.default_rng(1)
    scores, positive = rng.standard_normal(50).astype(np.float32).round(1), rng.random(50) < 0.3
    weights = rng.integers(0, 4, (50, 10))
    found = weighted_average_precision(scores, positive, weights)
    for b in range(10):
        rows = np.repeat(np.arange(50), weights[:, b])
        want = average_precision(scores[rows, None], positive[rows, None].astype(np.float32))[0]
        assert found[b] == pytest.approx(want, abs=1e-6)


def test_weighted_average_precision_without_positives_is_nan():
    scores, positive = np.array([0.1, 0.9, 0.5]), np.array([True, False, False])
    found = weighted_average_precision(scores, positive, np.array([[0, 1], [1, 0], [1, 0]]))
    assert np.isnan(found[0])
    assert found[1] == 1.0  # what ranks before it has no weight
    assert np.isnan(weighted_average_precision(scores, ~positive & positive, np.ones((3, 2), int))).all()
    assert np.isnan(weighted_average_precision(scores[:0], positive[:0], np.ones((0, 2), int))).all()


def make_test_set(n: int = 60):
    rng = np.random.default_rng(2)
    scores = rng.standard_normal((n, 4)).astype(np.float32)
    labels = (rng.random((n, 4)) < [0.5, 0.3, 0.1, 0.05]).astype(np.float32)
    labels[rng.random((n, 4)) < 0.1] = np.nan
    return scores, labels, rng.integers(100, 100 + n // 3, n)


def test_resampled_means_equal_a_loop_that_repeats_each_drawn_patients_images():
    scores, labels, patients = make_test_set()
    labels[[4, 40], 3] = 1  # two patients alone have the last class, so that many draws lose it
    groups = ([0, 1], [2, 3], [0, 1, 2, 3])
    found = bootstrap.group_means(
        bootstrap.resampled_precision(scores, labels, patients, 25, np.random.default_rng(3)), groups
    )
    rng, ids, lost = np.random.default_rng(3), np.unique(patients), 0
    for b in range(25):
        for _ in range(100):
            drawn = ids[rng.integers(len(ids), size=len(ids))]
            rows = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
            ap = average_precision(scores[rows], labels[rows])
            if None not in ap:
                break
            lost += 1
        for g, columns in enumerate(groups):
            assert found[b, g] == pytest.approx(np.mean([ap[c] for c in columns]), abs=1e-6)
    assert lost > 0  # else the loop says nothing about classes without a positive


def test_the_resamples_are_those_of_all_draws_that_keep_every_class():
    """Held against all 4^4 draws of four patients, of whom one alone has the second class."""
    rng = np.random.default_rng(5)
    patients = np.array([0, 0, 1, 1, 2, 3, 3])
    labels = np.array([[1, 0], [0, 0], [0, 1], [0, 0], [1, 0], [0, 0], [0, 0]], np.float32)
    scores = rng.standard_normal((7, 2)).astype(np.float32)
    values = []
    for drawn in itertools.product(range(4), repeat=4):
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in drawn])
        if (labels[rows] == 1).any(axis=0).all():
            values.append(np.mean([average_precision_score(labels[rows, c], scores[rows, c]) for c in range(2)]))
    assert len(values) < 4**4
    found = bootstrap.group_means(
        bootstrap.resampled_precision(scores, labels, patients, 4000, np.random.default_rng(0)), [[0, 1]]
    )[:, 0]
    assert len(found) == 4000
    assert found.mean() == pytest.approx(np.mean(values), abs=4 * np.std(values) / np.sqrt(4000))
    assert found.std() == pytest.approx(np.std(values), rel=0.05)


def test_a_class_without_any_positive_is_left_out_of_every_mean():
    scores, labels, patients = make_test_set()
    labels[:, 3] = 0
    found = bootstrap.group_means(
        bootstrap.resampled_precision(scores, labels, patients, 20, np.random.default_rng(0)), [[2, 3], [2], [3]]
    )
    assert np.array_equal(found[:, 0], found[:, 1])
    assert np.isnan(found[:, 2]).all()


def test_resamples_are_fewer_where_hardly_any_draw_keeps_every_class(monkeypatch):
    monkeypatch.setattr(bootstrap, "_MOST_DRAWS", 2)
    alone = np.eye(6, dtype=bool)  # only a permutation of the six patients keeps all six classes: 6! of 6^6 draws
    found = list(bootstrap.patient_weights(np.arange(6), alone, 200, np.random.default_rng(0)))
    rng = np.random.default_rng(0)
    whole = sum(len(set(rng.integers(6, size=6))) == 6 for _ in range(400))
    assert sum(block.shape[1] for block in found) == whole < 200
    assert all((block == 1).all() for block in found)


def weights_of(n_resamples):
    """Return the weights of 30 images of 15 patients, the last of whom alone has the class that is kept."""
    kept = np.arange(30)[:, None] >= 28
    return list(bootstrap.patient_weights(np.arange(30) // 2, kept, n_resamples, np.random.default_rng(0)))


def test_resamples_do_not_depend_on_the_block_size(monkeypatch):
    whole = np.concatenate(weights_of(7), axis=1)
    monkeypatch.setattr(bootstrap, "_BLOCK_BYTES", 8 * 30 * 3)
    blocks = weights_of(7)
    assert [b.shape[1] for b in blocks] == [3, 3, 1]
    assert np.array_equal(np.concatenate(blocks, axis=1), whole)
    assert (whole.sum(axis=0) == 30).all()
    assert np.array_equal(whole[::2], whole[1::2])  # a patient's two images come and go together
    assert (whole[-1] > 0).all()


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_sign_flip_p_equals_an_enumeration_of_all_signs(n):
    values = np.random.default_rng(n).normal(0.5, 1, n)
    means = np.array([np.mean(np.array(signs) * values) for signs in itertools.product((1, -1), repeat=n)])
    assert sign_flip_p(values) == pytest.approx(np.mean(np.abs(means) >= abs(values.mean()) - 1e-12))


@pytest.mark.parametrize("n", [2, 3, 5, 6])
def test_least_p_is_reached_when_all_seeds_agree(n):
    assert sign_flip_p(np.linspace(0.1, 0.2, n)) == pytest.approx(least_p(n))
    assert sign_flip_p(np.r_[np.linspace(0.1, 0.2, n - 1), -0.15]) > least_p(n)


def test_sign_flip_of_many_values_nears_the_t_test():
    values = np.random.default_rng(4).normal(0.3, 1, 40)
    assert sign_flip_p(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue, abs=0.01)


@pytest.mark.parametrize(("n", "mean"), [(17, 0.4), (40, 0.3), (200, 0.05)])
def test_sign_flip_p_of_drawn_patterns_is_scipys_but_for_the_draw(n, mean):
    values = np.random.default_rng(n).normal(mean, 1, n)
    want = stats.permutation_test(
        (values,), np.mean, permutation_type="samples", n_resamples=1 << 16, batch=4096, rng=np.random.default_rng(1)
    ).pvalue
    apart = np.sqrt(2 * want * (1 - want) / (1 << 16)) * 2  # two-sided: twice the smaller tail
    assert sign_flip_p(values) == pytest.approx(want, abs=5 * apart)
    assert sign_flip_p(values) == sign_flip_p(values)
    assert sign_flip_p(values, seed=1) != sign_flip_p(values, seed=2)


def test_drawn_patterns_that_all_lie_nearer_to_zero_give_the_least_p_of_the_draw():
    assert sign_flip_p(np.linspace(0.1, 0.2, 60)) == pytest.approx(2 / (1 + (1 << 16)))


@pytest.mark.parametrize(("n", "above"), [(17, 11), (40, 25), (300, 170)])
def test_sign_flip_of_many_equal_sizes_is_the_binomial_test_with_its_ties(n, above):
    values = np.where(np.arange(n) < above, 0.037, -0.037)  # rounding must not break the ties with the observed mean
    want = min(1.0, 2 * stats.binom.sf(above - 1, n, 0.5))
    assert sign_flip_p(values) == pytest.approx(want, abs=5 * 2 * math.sqrt(want / 2) / 256)


def efron_bca(values, n_resamples, rng):
    """Efron & Tibshirani (1993), eq. 14.9 to 14.15, written from the book."""
    n, mean = len(values), values.mean()
    resampled = rng.choice(values, (n_resamples, n)).mean(axis=1)
    z0 = stats.norm.ppf(np.mean(resampled < mean))
    left_out = np.array([np.delete(values, i).mean() for i in range(n)])
    off = left_out.mean() - left_out
    a = (off**3).sum() / (6 * (off**2).sum() ** 1.5)
    z = z0 + stats.norm.ppf([0.025, 0.975])
    return np.quantile(resampled, stats.norm.cdf(z0 + z / (1 - a * z)))


def test_interval_over_seeds_is_efrons():
    values = np.random.default_rng(5).gamma(1.0, 1.0, 12)  # skewed: the plain percentile interval differs
    found = over_seeds(values)
    assert (found.low, found.high) == pytest.approx(efron_bca(values, 200_000, np.random.default_rng(0)), abs=0.03)
    assert found.mean == pytest.approx(values.mean())
    assert found.sd == pytest.approx(values.std(ddof=1))
    assert found == over_seeds(values)


@pytest.mark.parametrize("n", [3, 5, 10, 20])
def test_interval_over_seeds_is_scipys(n):
    # Sums of multiples of 1/1024 are exact, so that no two equal means differ by rounding, in scipy or here.
    values = np.round((np.random.default_rng(n).gamma(1.0, 1.0, n) - 1) * 1024) / 1024
    want = stats.bootstrap((values,), np.mean, n_resamples=N_RESAMPLES, method="BCa", rng=np.random.default_rng(7))
    found, _ = bca_interval(values, seed=7)
    assert found == pytest.approx(tuple(want.confidence_interval), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("n", [3, 4, 6])
def test_interval_over_seeds_does_not_depend_on_rounding(n):
    """With few values many resamples have the mean of all, and rounding must not decide on which side they count."""
    values = np.round(np.random.default_rng(n).normal(0, 1, n) * 1024) / 1024
    exact, _ = bca_interval(values)
    for factor in (0.01, 1 / 3, 0.7):
        found, _ = bca_interval(values * factor)
        assert found == pytest.approx(tuple(end * factor for end in exact), rel=1e-9)


def test_sign_flip_p_of_a_mean_near_zero_counts_equal_means():
    values = np.array([-0.2, 0.5, -0.1, -0.2, -0.1, 0.1])  # their sum is 0, but for rounding
    assert sign_flip_p(values) == 1


@pytest.mark.parametrize("n", [2, 5, 10, 16])
def test_sign_flip_p_is_scipys(n):
    values = np.random.default_rng(n).normal(0.3, 1, n).round(1)  # one decimal: ties
    want = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=np.inf, batch=4096)
    assert sign_flip_p(values) == pytest.approx(want.pvalue, abs=1e-12)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ([0.1], "1 seed: an interval takes 3"),
        ([0.1, 0.2], "2 seeds: an interval takes 3"),
        ([0.1, 0.1, 0.1], "the difference is the same at every seed"),
        ([0.0, 0.0, 0.0, 0.0], "the difference is the same at every seed"),
    ],
)
def test_no_interval_where_there_is_nothing_to_resample(values, why):
    found = over_seeds(values)
    assert (found.low, found.high, found.why, verdict(found)) == (None, None, why, "undecided")


@pytest.mark.parametrize("values", [[], [float("nan"), 1.0]])
def test_differences_that_are_none_are_refused(values):
    with pytest.raises(ValueError, match="one finite difference a seed"):
        over_seeds(values)


def test_no_difference_has_p_one():
    assert over_seeds([0.0, 0.0, 0.0]).p == 1.0
    assert over_seeds([0.1]).p is None


def test_interval_over_test_patients_is_of_the_replicates_that_have_a_score():
    replicates = np.r_[np.random.default_rng(6).normal(0.1, 0.02, 500), np.full(100, np.nan)]
    found = over_test_patients(0.11, replicates)
    assert (found.low, found.high) == pytest.approx(np.nanpercentile(replicates, [2.5, 97.5]))
    assert (found.mean, found.n, found.p) == (0.11, 1, None)
    assert verdict(over_test_patients(0.1, np.full(5, np.nan))) == "undecided"


def test_holm_keeps_order_and_equals_the_definition():
    p = [0.01, 0.04, 0.03, 0.005]
    # Holm (1979): (m - k + 1) p_(k), then the running maximum, at most 1
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("low", "high", "p", "source", "want"),
    [
        (0.01, 0.03, 0.03, "seeds", "higher"),
        (-0.03, -0.01, 0.03, "seeds", "lower"),
        (0.01, 0.03, 0.0625, "seeds", "unsettled_higher"),
        (-0.03, -0.01, 0.25, "seeds", "unsettled_lower"),
        (-0.01, 0.03, 0.2, "seeds", "none"),
        (0.01, 0.03, None, "test_patients", "higher"),
        (None, None, 0.5, "seeds", "undecided"),
    ],
)
def test_verdict(low, high, p, source, want):
    assert verdict(Estimate(0.0 if low is None else (low + high) / 2, 0.1, 5, source, low, high, p)) == want


def test_three_seeds_without_an_effect_are_seldom_called_one():
    rng = np.random.default_rng(7)
    found = [verdict(over_seeds(rng.standard_normal(3))) for _ in range(60)]
    assert not {"higher", "lower"} & set(found)
    assert sum(v.startswith("unsettled") for v in found) > 5  # the interval alone would have said so
