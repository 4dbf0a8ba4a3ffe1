"""The test set resampled by patient: how much the means of average precision owe to who happens to be in it.

A module of its own, so that a change here leaves the keys of trained classifiers alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from bench.tables import Float32, Int64

_BLOCK_BYTES = 1 << 23  # of weights at a time: bounds memory at any size of the test set
Integers = npt.NDArray[np.integer]


def weighted_average_precision(
    scores: npt.NDArray[np.floating], positive: npt.NDArray[np.bool_], weights: Integers
) -> npt.NDArray[np.float64]:
    """Return the average precision under each column of weights, `float64 [B]`; NaN where no positive has weight.

    AP = sum over thresholds of (R_k - R_{k-1}) P_k (scikit-learn's, with its `sample_weight`); equal scores share a
    threshold. A weight of w is the same as the row given w times.

    Args:
        scores: `[n]`, higher means more likely; any monotone scale.
        positive: `bool [n]`.
        weights: whole numbers of at least 0, `[n, B]`.
    """
    order = np.argsort(-scores, kind="stable")
    ranked, hit = scores[order], positive[order]
    weights = weights[order]
    if len(ranked) == 0 or not hit.any():
        return np.full(weights.shape[1], np.nan)
    starts = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]])
    # recall rises only at thresholds with a positive: everything between two of them is summed in one go
    with_hit = np.logical_or.reduceat(hit, starts)
    cuts = np.r_[starts[1:], len(ranked)][with_hit]
    up_to = np.cumsum(np.add.reduceat(weights[: cuts[-1]], np.r_[0, cuts[:-1]], axis=0, dtype=np.int64), axis=0)
    groups = np.searchsorted(cuts, np.flatnonzero(hit), side="right")
    gained = np.add.reduceat(weights[hit], np.flatnonzero(np.diff(groups, prepend=-1)), axis=0, dtype=np.int64)
    found = np.cumsum(gained, axis=0)
    with np.errstate(invalid="ignore"):  # 0 / 0 where nothing of any weight has come yet, or no positive ever does
        precision = np.where(up_to > 0, found / up_to, 0.0)
        return (gained * precision).sum(axis=0) / found[-1]


def patient_weights(patients: Int64, n_resamples: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Yield how often each image is in each resample of as many patients, with replacement: `uint16 [n, b]` in blocks.

    The resamples together are `n_resamples` and do not depend on the size of the blocks.
    """
    ids, image_of = np.unique(patients, return_inverse=True)
    block = max(1, _BLOCK_BYTES // (8 * max(1, len(patients))))
    for start in range(0, n_resamples, block):
        draws = (rng.integers(len(ids), size=len(ids)) for _ in range(min(block, n_resamples - start)))
        counts = np.stack([np.bincount(draw, minlength=len(ids)) for draw in draws], axis=1)
        yield counts.astype(np.uint16)[image_of]


def resampled_means(
    scores: Float32,
    labels: Float32,
    patients: Int64,
    groups: Sequence[Sequence[int]],
    n_resamples: int,
    rng: np.random.Generator,
) -> Float32:
    """Return the mean average precision of each group of classes in each resample of patients, `float32 [B, groups]`.

    A class without a positive in a resample has no AP there: the mean is over the group's other classes, NaN if there
    are none. Two classifiers resampled by equal generators see the same patients and so miss the same classes: their
    difference, resample by resample, is paired.

    Args:
        scores: `float32 [n, C]`, higher means more likely.
        labels: `float32 [n, C]`, 0 or 1; NaN = unknown, that entry is left out.
        patients: `int64 [n]`, drawn whole.
        groups: columns of each group.
        n_resamples: B.
        rng: of the resamples alone.
    """
    blocks = [np.zeros((0, len(groups)), np.float32)]
    for weights in patient_weights(patients, n_resamples, rng):
        ap = np.empty((weights.shape[1], labels.shape[1]))
        for c in range(labels.shape[1]):
            known = ~np.isnan(labels[:, c])
            ap[:, c] = weighted_average_precision(scores[known, c], labels[known, c] == 1, weights[known])
        blocks.append(np.stack([_mean_of_known(ap[:, list(columns)]) for columns in groups], axis=1))
    return np.concatenate(blocks).astype(np.float32)


def _mean_of_known(ap: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known = (~np.isnan(ap)).sum(axis=1)
    return np.where(known > 0, np.nansum(ap, axis=1) / np.maximum(known, 1), np.nan)
