"""Estimates of the difference between two rows of a matrix, and what can be concluded from them.

With several seeds, an estimate has the mean paired difference, a BCa bootstrap interval (Efron 1987) and an exact
sign-flip test (Fisher 1935). With a single seed, it has the percentile interval of paired resamples of the test
patients (`bench.evaluation.scores`). Neither covers the uncertainty of the other: all seeds share one split, and all
resamples share one training.

With few values a bootstrap interval is too short. If there is no effect and differences are normal, the 95 % interval
leaves out zero in 28, 15, 10 and 7 % of cases for 3, 5, 10 and 20 seeds (4,000 simulations each). Such an interval
alone therefore settles nothing: `verdict` also asks the test, which keeps its level at any number of seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
import numpy.typing as npt

LEVEL = 0.95
ALPHA = 0.05
N_RESAMPLES = 9999
MIN_FOR_INTERVAL = 3
_EXACT_UP_TO = 16  # values with all 2 ** n sign patterns; with more values, patterns are drawn at random
_DRAWN, _AT_ONCE = 1 << 16, 1 << 12
_INDICES_AT_ONCE = 1 << 18
_ROUNDING = 1e-14  # relative to the largest value
_ALIKE = 1e-9  # relative; differences that vary by less than this vary by rounding alone

Verdict = Literal["higher", "lower", "unsettled_higher", "unsettled_lower", "none", "undecided", "same"]
Source = Literal["seeds", "test_patients", "test_images"]


@dataclass(frozen=True)
class Estimate:
    """A mean difference and how sure it is.

    Attributes:
        mean: the mean difference, in the unit of the score.
        sd: standard deviation over seeds (ddof 1); None with fewer than two seeds.
        n: number of seeds.
        source: whether the interval is over seeds or over test patients; over test images, if patients are not known.
        low, high: the 95 % interval; None if there is none.
        p: two-sided p of the sign-flip test over seeds; None with fewer than two seeds and over the test set.
        why: why there is no interval; None if there is one.
        same: whether both sides are one number, computed once. Then there is nothing to test.
    """

    mean: float
    sd: float | None
    n: int
    source: Source = "seeds"
    low: float | None = None
    high: float | None = None
    p: float | None = None
    why: str | None = None
    same: bool = False

    @property
    def units(self) -> str:
        """What the interval is over, in words."""
        return self.source.replace("_", " ")

    @property
    def over_test(self) -> bool:
        """Whether the interval is over resamples of the test set."""
        return self.source != "seeds"

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def over_seeds(differences: Sequence[float], seed: int = 0) -> Estimate:
    """Return the estimate from one paired difference for each seed.

    Args:
        differences: at least one; all finite.
        seed: seed of the bootstrap.

    Raises:
        ValueError: without a difference, or for one that is not finite.
    """
    values = np.asarray(differences, dtype=float)
    if values.ndim != 1 or len(values) == 0 or not np.isfinite(values).all():
        raise ValueError(f"want one finite difference a seed, got {list(differences)}")
    n = len(values)
    interval, why = bca_interval(values, seed)
    low, high = interval or (None, None)
    sd = float(values.std(ddof=1)) if n > 1 else None
    p = sign_flip_p(values, seed) if n > 1 else None
    return Estimate(float(values.mean()), sd, n, "seeds", low, high, p, why)


def over_test_patients(
    difference: float, replicates: npt.NDArray[np.floating], patients_known: bool = True
) -> Estimate:
    """Return the estimate from a single seed and paired resamples of the test patients.

    Args:
        difference: the difference on the test set itself.
        replicates: the difference in each resample, `[B]`. NaN, where a side has no score, is left out.
        patients_known: whether patients were drawn; otherwise images.
    """
    source: Source = "test_patients" if patients_known else "test_images"
    known = np.asarray(replicates, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        why = f"no resample of the {source.replace('_', ' ')} has a score"
        return Estimate(difference, None, 1, source, why=why)
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(difference, None, 1, source, float(low), float(high))


def bca_interval(values: npt.NDArray[np.float64], seed: int = 0) -> tuple[tuple[float, float] | None, str | None]:
    """Return the BCa bootstrap interval of the mean and None, or None and why there is none.

    Args:
        values: `[n]`, one for each seed.
        seed: seed of the resamples.
    """
    if len(values) < MIN_FOR_INTERVAL:
        return None, f"{len(values)} {'seed' if len(values) == 1 else 'seeds'}: an interval takes {MIN_FOR_INTERVAL}"
    if np.ptp(values) <= _ALIKE * np.abs(values).max():
        return None, "the difference is the same at every seed"
    # As scipy.stats.bootstrap does it. Importing scipy would take longer than all else that a table does.
    means = _resampled_means(values, np.random.default_rng(seed))
    # With three values, every fifth resample is a permutation of them. Its mean may differ from theirs by rounding, and
    # scipy then counts it on one side at random.
    mean, slack = values.mean(), _slack(values)
    below = float(((means < mean - slack).mean() + (means <= mean + slack).mean()) / 2)
    if not 0 < below < 1:
        return None, "the bootstrap distribution is degenerate"
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    pull = values - values.mean()  # proportional to the jackknife's influence of each value on the mean
    skew = float((pull**3).sum() / (6 * (pull**2).sum() ** 1.5))
    tails = [bias + normal.inv_cdf(share) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    low, high = np.quantile(means, [normal.cdf(bias + z / (1 - skew * z)) for z in tails])
    return (float(low), float(high)), None


def _resampled_means(values: npt.NDArray[np.float64], rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return the means of `N_RESAMPLES` resamples, `[N_RESAMPLES]`."""
    n = len(values)
    # A few at a time: for a thousand seeds, all indices would take 80 MB, and the time to fetch them from there. The
    # generator draws the same numbers.
    at_once = max(1, _INDICES_AT_ONCE // n)
    sizes = [min(at_once, N_RESAMPLES - done) for done in range(0, N_RESAMPLES, at_once)]
    return np.concatenate([values[rng.integers(0, n, (size, n))].mean(axis=1) for size in sizes])


def sign_flip_p(values: npt.NDArray[np.float64], seed: int = 0) -> float:
    """Return the two-sided p of no difference: the share of sign patterns with a mean at least as far from zero.

    Up to 16 values all `2 ** n` patterns are counted. With more, 65,536 patterns are drawn, and the observed one counts
    as one more (Phipson & Smyth 2010). The standard error of p is then at most 0.004, and 0.0013 or less for p < 0.05.
    """
    n, observed = len(values), float(values.mean())
    slack = _slack(values)
    if n <= _EXACT_UP_TO:
        signs = 1 - 2 * (np.arange(1 << n)[:, None] >> np.arange(n) & 1)
        means = (signs * values).mean(axis=1)
        return min(1.0, 2 * float(min((means <= observed + slack).mean(), (means >= observed - slack).mean())))
    # The same as scipy.stats.permutation_test, in a twentieth of its time.
    rng = np.random.default_rng(seed)
    slack = max(slack, n * float(np.finfo(float).eps * np.abs(values).mean()))
    below = above = 1
    for _ in range(_DRAWN // _AT_ONCE):
        flipped = rng.integers(0, 2, (_AT_ONCE, n), dtype=np.int8).astype(float)
        means = observed - 2 / n * (flipped @ values)
        below += int((means <= observed + slack).sum())
        above += int((means >= observed - slack).sum())
    return min(1.0, 2 * min(below, above) / (_DRAWN + 1))


def _slack(values: npt.NDArray[np.float64]) -> float:
    """Return by how much two means of the same values, added in another order, may differ."""
    return float(_ROUNDING * np.abs(values).max())


def least_p(n: int) -> float:
    """Return the smallest p that the sign-flip test of `n` values can give, `2 / 2 ** n`: all values have one sign."""
    return min(1.0, 2.0 / 2.0**n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for their number (Holm 1979), in the order given.

    Rejecting those below 0.05 keeps the chance of any false rejection among them below 0.05.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = highest
    return adjusted


def verdict(estimate: Estimate) -> Verdict:
    """Return the verdict on an estimate.

    `higher` and `lower`: the interval leaves out zero and, over seeds, p < 0.05. `unsettled_*`: the interval leaves out
    zero, but p is not below 0.05; with fewer than six seeds it never is. `none`: the interval contains zero, so there
    is no evidence of a difference. `undecided`: there is no interval. `same`: both sides are one number.
    """
    if estimate.same:
        return "same"
    if estimate.low is None:
        return "undecided"
    if not estimate.clear:
        return "none"
    if estimate.source == "seeds" and (estimate.p is None or estimate.p >= ALPHA):
        return "unsettled_higher" if estimate.low > 0 else "unsettled_lower"
    return "higher" if estimate.low > 0 else "lower"
