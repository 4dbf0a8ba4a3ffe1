"""Average precision at equal numbers of positives in resamples, against every possible draw and against scipy."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import hypergeom
from sklearn.metrics import average_precision_score

from bench.metrics.equal_counts import resampled_at_equal_counts


def over_every_draw(scores: np.ndarray, positive: np.ndarray, negative: np.ndarray, counts: np.ndarray, k: int):
    """Return the mean of scikit-learn's average precision over every choice of k positives; counts repeat images."""
    positives, negatives = np.repeat(scores[positive], counts[positive]), np.repeat(scores[negative], counts[negative])
    truth = np.arange(k + len(negatives)) < k
    draws = combinations(positives, k)
    return np.mean([average_precision_score(truth, np.r_[drawn, negatives]) for drawn in draws])


@pytest.mark.parametrize("seed", range(3))
def test_resamples_at_equal_counts_are_means_over_every_draw(seed: int) -> None:
    rng = np.random.default_rng(seed)
    kind = rng.permutation(np.repeat([0, 1, 2], [3, 5, 8]))
    scores = (rng.normal(0, 1, len(kind)) - kind).round(0 if seed == 2 else 1)  # many ties, or few
    weights = rng.integers(0, 3, (len(kind), 4)).astype(np.uint16)
    weights[[np.argmax(kind == 0), np.argmax(kind == 1)]] = 1
    sets, negative = [kind == 0, kind == 1], kind == 2
    found = resampled_at_equal_counts(scores, sets, negative, weights)
    for b, counts in enumerate(weights.T):
        k = min(counts[positive].sum() for positive in sets)
        wanted = [over_every_draw(scores, positive, negative, counts, k) for positive in sets]
        assert found[:, b] == pytest.approx(wanted, abs=1e-9)


def test_a_sum_of_few_terms_is_that_of_all_of_them() -> None:
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat([0, 1, 2], [150, 700, 3000]))
    scores = rng.normal(0, 1, len(kind)) - 0.5 * kind
    (_, found) = resampled_at_equal_counts(scores, [kind == 0, kind == 1], kind == 2, np.ones((len(kind), 1), np.uint8))
    positives, negatives, wanted = np.sort(scores[kind == 1])[::-1], scores[kind == 2], 0.0
    for above, threshold in enumerate(positives, start=1):
        x, m = np.arange(151), (negatives >= threshold).sum()
        chance = hypergeom.pmf(x, 700, above, 150)
        wanted += (chance[1:] * x[1:] ** 2 / (x[1:] + m)).sum() / above / 150
    assert found == pytest.approx([wanted], rel=1e-6)
