"""Average precision of several sets of positives against the same negatives, with equally many positives in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.metrics.average_precision import Integers, weighted_average_precision
from bench.tables import Int64

N_DRAWS = 200  # of positives from a set that has more than the smallest one
_REACH, _POINTS = 5, 2  # standard deviations on each side of a mean that a sum reaches, and terms in one of them


def precision_at_equal_counts(
    scores: npt.NDArray[np.floating],
    sets: Sequence[npt.NDArray[np.bool_]],
    negative: npt.NDArray[np.bool_],
    rng: np.random.Generator,
) -> list[float]:
    """Return the average precision of each set of positives, all at the prevalence of the smallest set.

    Average precision grows with the prevalence, and with few positives it is biased upwards. So a larger set is not
    used whole: the result is the mean over `N_DRAWS` draws of as many of its positives as the smallest set has, each
    against all negatives. That of the smallest set is its ordinary average precision. With k positives in the smallest
    set and m negatives, a classifier without skill reaches about k / (k + m) for every set.

    Args:
        scores: `[n]`, higher means more likely; any monotone scale.
        sets: the positives of each set, `bool [n]`, of which none is empty.
        negative: `bool [n]`, disjoint from all sets.
        rng: draws the positives and is used for nothing else; the draws do not depend on `scores`.
    """
    least = min(int(positive.sum()) for positive in sets)
    found = []
    for positive in sets:
        rows = np.flatnonzero(positive | negative)
        hits = np.flatnonzero(positive[rows])
        weights = np.repeat(negative[rows, None].astype(np.uint8), N_DRAWS if len(hits) > least else 1, axis=1)
        for column in weights.T:
            column[rng.choice(hits, least, replace=False)] = 1
        found.append(float(weighted_average_precision(scores[rows], positive[rows], weights).mean()))
    return found


def resampled_at_equal_counts(
    scores: npt.NDArray[np.floating],
    sets: Sequence[npt.NDArray[np.bool_]],
    negative: npt.NDArray[np.bool_],
    weights: Integers,
) -> npt.NDArray[np.float64]:
    """Return what `precision_at_equal_counts` estimates in each resample of the images, `float64 [sets, B]`.

    A resample has images several times, and its own smallest set. The mean over draws of positives is not drawn here
    but worked out: 200 draws in each of 1000 resamples would take long, and a single one would add its own noise to
    the interval. It costs at most 21 terms for each positive and resample, however many positives there are.

    Args:
        scores: `[n]`, higher means more likely; any monotone scale.
        sets: the positives of each set, `bool [n]`. Each has some weight in every resample.
        negative: `bool [n]`, disjoint from all sets.
        weights: how often each image is in each resample, `[n, B]`, see `bench.metrics.patient_bootstrap`.
    """
    least = np.min([weights[positive].sum(axis=0, dtype=np.int64) for positive in sets], axis=0)
    found = []
    for positive in sets:
        rows = positive | negative
        found.append(_mean_over_draws(scores[rows], positive[rows], weights[rows].astype(np.int64), least))
    return np.stack(found)


def _mean_over_draws(
    scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], weights: Int64, n_drawn: Int64
) -> npt.NDArray[np.float64]:
    """Return the mean average precision over all ways to draw `n_drawn` `[B]` positives, against all negatives, `[B]`.

    AP = sum over thresholds of s / k * x / (x + m): of the k positives that are drawn, s are at the threshold and x at
    it or above, where m negatives are. Let S and X be these numbers among all positives. Given x, the mean of s is
    x S / X, and x has a hypergeometric distribution. So AP has the mean 1 / k * sum of S / X * E[x^2 / (x + m)].
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hit, weights = scores[order], positive[order, None], weights[order]
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    at = np.add.reduceat(weights * hit, starts, axis=0)
    has_any = at.any(axis=1)  # recall rises nowhere else
    above = np.cumsum(at, axis=0)[has_any]
    negatives = np.cumsum(np.add.reduceat(weights * ~hit, starts, axis=0), axis=0)[has_any]
    shares = at[has_any] / np.maximum(above, 1)
    found: npt.NDArray[np.float64] = (shares * _mean_hits(above, negatives, above[-1], n_drawn)).sum(axis=0) / n_drawn
    return found


def _mean_hits(above: Int64, negatives: Int64, total: Int64, n_drawn: Int64) -> npt.NDArray[np.float64]:
    """Return E[x^2 / (x + m)], `[T, B]`, where x is hypergeometric and m is `negatives` `[T, B]`.

    Of `total` positives `[B]`, `n_drawn` `[B]` are drawn, and x of these are among `above` `[T, B]`. The terms near the
    mean of x are summed: all of them where x varies little, else a few in each standard deviation, which is as good for
    a sum over a bell-shaped distribution.
    """
    from scipy.special import gammaln

    logs = gammaln(np.arange(total.max() + 1) + 1.0)

    def ways(n: Int64, k: Int64) -> npt.NDArray[np.float64]:
        found: npt.NDArray[np.float64] = logs[n] - logs[k] - logs[n - k]
        return found

    share = above / total
    spread = np.sqrt(n_drawn * share * (1 - share) * (total - n_drawn) / np.maximum(total - 1, 1))
    step = np.maximum(1, np.ceil(spread / _POINTS)).astype(np.int64)
    middle = np.rint(n_drawn * share).astype(np.int64)
    least, most = np.maximum(0, n_drawn - (total - above)), np.minimum(n_drawn, above)
    summed, chances = np.zeros(above.shape), np.zeros(above.shape)
    for i in range(-_REACH * _POINTS, _REACH * _POINTS + 1):
        x = np.clip(middle + i * step, least, most)
        possible = x == middle + i * step
        chance = possible * np.exp(ways(above, x) + ways(total - above, n_drawn - x) - ways(total, n_drawn))
        summed += chance * x * x / np.maximum(x + negatives, 1)
        chances += chance
    return summed / chances
