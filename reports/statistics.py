"""Differences between two rows of a matrix, with what can and what cannot be concluded from them.

Over seeds: mean paired difference, BCa bootstrap interval (Efron 1987) and exact sign-flip test (Fisher 1935). Over
the test patients, for a single seed: the percentile interval of paired resamples (`bench.evaluation.scores`). Neither
holds the
other's uncertainty: seeds share one split, and resamples share one training.

A bootstrap interval is too short for few values. Normal differences without any effect lie outside the 95 % interval
in 28, 17, 10 and 7 % of cases for 3, 5, 10 and 20 seeds (4,000 simulations each), so that an interval clear of zero
alone settles nothing: `verdict` also asks the test, which keeps its level at any number of seeds.
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
_EXACT_UP_TO = 16  # 2 ** n sign patterns; beyond, that many drawn at random
_ROUNDING = 1e-14  # relative
_ALIKE = 1e-9  # relative; differences that vary less do so by rounding

Verdict = Literal["higher", "lower", "unsettled_higher", "unsettled_lower", "none", "undecided"]
Source = Literal["seeds", "test_patients"]


@dataclass(frozen=True)
class Estimate:
    """A mean difference and how sure it is.

    Attributes:
        mean: of the differences, in the score's unit.
        sd: over seeds (ddof 1), None below two.
        n: number of seeds.
        source: what the interval is over.
        low, high: 95 % interval, None where there is none.
        p: two-sided, of the sign-flip test over seeds; None below two seeds and for `test_patients`.
        why: why there is no interval, None if there is one.
    """

    mean: float
    sd: float | None
    n: int
    source: Source = "seeds"
    low: float | None = None
    high: float | None = None
    p: float | None = None
    why: str | None = None

    @property
    def clear(self) -> bool:
        """Whether the interval leaves zero out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def over_seeds(differences: Sequence[float], seed: int = 0) -> Estimate:
    """Return the estimate from one paired difference a seed.

    Args:
        differences: at least one, finite.
        seed: of the bootstrap.

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


def over_test_patients(difference: float, replicates: npt.NDArray[np.floating]) -> Estimate:
    """Return the estimate of a single seed from paired resamples of the test patients.

    Args:
        difference: on the test set as it is.
        replicates: the difference in each resample, `[B]`; NaN where a side has no score, left out.
    """
    known = np.asarray(replicates, dtype=float)
    known = known[np.isfinite(known)]
    if len(known) < 2:
        return Estimate(difference, None, 1, "test_patients", why="no resample of the test patients has a score")
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(difference, None, 1, "test_patients", float(low), float(high))


def bca_interval(values: npt.NDArray[np.float64], seed: int = 0) -> tuple[tuple[float, float] | None, str | None]:
    """Return the BCa bootstrap interval of the mean and None, or None and why there is none.

    Args:
        values: `[n]`, one a seed.
        seed: of the resamples.
    """
    if len(values) < MIN_FOR_INTERVAL:
        return None, f"{len(values)} {'seed' if len(values) == 1 else 'seeds'}: an interval takes {MIN_FOR_INTERVAL}"
    if np.ptp(values) <= _ALIKE * np.abs(values).max():
        return None, "the difference is the same at every seed"
    # what scipy.stats.bootstrap computes, whose import alone takes longer than everything else that a table does
    means = values[np.random.default_rng(seed).integers(0, len(values), (N_RESAMPLES, len(values)))].mean(axis=1)
    below = float(((means < values.mean()).mean() + (means <= values.mean()).mean()) / 2)
    if not 0 < below < 1:
        return None, "the bootstrap distribution is degenerate"
    normal = NormalDist()
    bias = normal.inv_cdf(below)
    pull = values - values.mean()  # of each value on the mean, in proportion to the jackknife's
    skew = float((pull**3).sum() / (6 * (pull**2).sum() ** 1.5))
    tails = [bias + normal.inv_cdf(share) for share in ((1 - LEVEL) / 2, (1 + LEVEL) / 2)]
    low, high = np.quantile(means, [normal.cdf(bias + z / (1 - skew * z)) for z in tails])
    return (float(low), float(high)), None


def sign_flip_p(values: npt.NDArray[np.float64], seed: int = 0) -> float:
    """Return the two-sided p of no difference: the share of sign patterns with a mean at least as far from zero.

    All `2 ** n` patterns up to 16 values, 65,536 drawn ones beyond.
    """
    n = len(values)
    if n <= _EXACT_UP_TO:
        signs = 1 - 2 * (np.arange(1 << n)[:, None] >> np.arange(n) & 1)
        means, observed = (signs * values).mean(axis=1), float(values.mean())
        slack = abs(_ROUNDING * observed)  # equal sums in another order
        return min(1.0, 2 * float(min((means <= observed + slack).mean(), (means >= observed - slack).mean())))
    from scipy import stats

    found = stats.permutation_test(
        (values,),
        np.mean,
        permutation_type="samples",
        n_resamples=1 << _EXACT_UP_TO,
        batch=1 << 12,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)


def least_p(n: int) -> float:
    """Return the smallest p that the sign-flip test of `n` values can give: all of one sign, `2 / 2 ** n`."""
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
    """Return what an estimate says.

    `higher` and `lower`: the interval is clear of zero and, over seeds, p < 0.05. `unsettled_*`: clear of zero, but
    p is not below 0.05, as with fewer than six seeds it cannot be. `none`: zero is in the interval, no evidence of a
    difference. `undecided`: no interval.
    """
    if estimate.low is None:
        return "undecided"
    if not estimate.clear:
        return "none"
    if estimate.source == "seeds" and (estimate.p is None or estimate.p >= ALPHA):
        return "unsettled_higher" if estimate.low > 0 else "unsettled_lower"
    return "higher" if estimate.low > 0 else "lower"
