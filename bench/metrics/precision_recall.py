"""Precision-recall curves of each class on the observed labels, read at recalls that are the same for all classes."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.tables import Float32

Float64 = npt.NDArray[np.float64]


def recalls(n: int) -> Float64:
    """Return `n` recalls at equal distances, the last of them 1. Recall 0 is left out: precision has no value there."""
    return np.arange(1, n + 1) / n


def precisions(scores: Float32, labels: Float32, at: Float64) -> list[Float64 | None]:
    """Return the precision of each class at some recalls, or None for a class without a positive.

    It is the precision at the highest threshold that reaches the recall, without interpolation, as in
    `bench.metrics.average_precision`. Equal scores share a threshold.

    Args:
        scores: `float32 [n, C]`, higher means more likely; any monotone scale.
        labels: `float32 [n, C]`, 0 or 1; entries that are NaN (unknown) are left out.
        at: recalls `float64 [k]` in (0, 1].
    """
    known = ~np.isnan(labels)
    return [
        _of_class(scores[known[:, c], c], labels[known[:, c], c] == 1, at) if (labels[:, c] == 1).any() else None
        for c in range(labels.shape[1])
    ]


def _of_class(scores: Float32, is_positive: npt.NDArray[np.bool_], at: Float64) -> Float64:
    order = np.argsort(-scores, kind="stable")
    thresholds = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)  # the last place of each score
    found = np.cumsum(is_positive[order])[thresholds]
    # Whole positives are compared, since 0.07 · 100 is a little more than 7.
    needed = np.ceil(at * found[-1] - 1e-9)
    reached = np.searchsorted(found, needed)
    precision: Float64 = found[reached] / (thresholds[reached] + 1)
    return precision
