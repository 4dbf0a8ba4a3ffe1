"""Average precision of each class on the observed labels, and its means over the head, the tail and all classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bench.tables import Float32

Integers = npt.NDArray[np.integer]


def average_precision(scores: Float32, labels: Float32) -> list[float | None]:
    """Return the step-wise average precision of each class, or None for a class without a positive.

    AP = sum over thresholds of (R_k - R_{k-1}) P_k, without interpolation (as scikit-learn does).

    Args:
        scores: `float32 [n, C]`, higher means more likely; any monotone scale.
        labels: `float32 [n, C]`, 0 or 1; entries that are NaN (unknown) are left out.
    """
    found: list[float | None] = []
    for c in range(labels.shape[1]):
        known = ~np.isnan(labels[:, c])
        positive = labels[known, c] == 1
        once = np.ones((len(positive), 1), dtype=np.int64)
        found.append(float(weighted_average_precision(scores[known, c], positive, once)[0]) if positive.any() else None)
    return found


def weighted_average_precision(
    scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], weights: Integers
) -> npt.NDArray[np.float64]:
    """Return the average precision under each column of weights, `float64 [B]`; NaN if no positive has any weight.

    AP = sum over thresholds of (R_k - R_{k-1}) P_k, as in scikit-learn with `sample_weight`. Equal scores share one
    threshold. A row with weight w counts as w equal rows.

    Args:
        scores: `[n]`, higher means more likely; any monotone scale.
        positive: `bool [n]`.
        weights: whole numbers of at least 0, `[n, B]`.
    """
    # scikit-learn sorts the scores again for each of thousands of resamples. The order is the same for all of them, so
    # here they are sorted once, and one cumulative sum serves all columns of weights.
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], positive[order]
    weights = weights[order]
    if len(ranked) == 0 or not hit.any():
        return np.full(weights.shape[1], np.nan)
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    # Recall rises only at thresholds that have a positive, so all rows between two of these are summed in one step.
    with_hit = np.logical_or.reduceat(hit, starts)
    cuts = np.r_[starts[1:], len(ranked)][with_hit]
    up_to = np.cumsum(np.add.reduceat(weights[: cuts[-1]], np.r_[0, cuts[:-1]], axis=0, dtype=np.int64), axis=0)
    groups = np.searchsorted(cuts, np.flatnonzero(hit), side="right")
    gained = np.add.reduceat(weights[hit], np.flatnonzero(np.diff(groups, prepend=-1)), axis=0, dtype=np.int64)
    found = np.cumsum(gained, axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 while no row so far has weight, or if no positive has any
        precision = np.where(up_to > 0, found / up_to, 0.0)
        return (gained * precision).sum(axis=0) / found[-1]


def mean_over(values: Mapping[str, float | None], names: Iterable[str]) -> float | None:
    """Return the mean of the named values that are not None, or None if there is no such value."""
    there = [v for name in names if (v := values[name]) is not None]
    return float(np.mean(there)) if there else None


def means(
    prefix: str, values: Mapping[str, float | None], head: Sequence[str], tail: Sequence[str]
) -> dict[str, float | None]:
    """Return `<prefix>_head`, `<prefix>_tail` and `<prefix>_all`: means in which all classes have equal weight."""
    groups = {"head": head, "tail": tail, "all": list(values)}
    return {f"{prefix}_{group}": mean_over(values, names) for group, names in groups.items()}
