"""Average precision of several sets of positives against the same negatives, with equally many positives in each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.metrics.patient_bootstrap import weighted_average_precision

N_DRAWS = 200  # of positives from a set that has more than the smallest one


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
