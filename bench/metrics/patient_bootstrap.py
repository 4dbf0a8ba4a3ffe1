"""Resample the test set by patient, to see how much the mean average precision depends on who happens to be in it.

This is a module of its own so that a change here does not change the keys of trained classifiers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from bench.tables import Float32, Int64

_BLOCK_BYTES = 1 << 23  # bytes of weights that are in memory at a time, whatever the size of the test set
Integers = npt.NDArray[np.integer]


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


def patient_weights(patients: Int64, n_resamples: int, rng: np.random.Generator) -> Iterator[Integers]:
    """Yield how often each image is in each resample, in blocks `uint16 [n, b]`.

    A resample draws as many patients as there are, with replacement. The blocks together hold `n_resamples` resamples,
    which do not depend on the size of the blocks.
    """
    # Images of one patient resemble each other. Resampling single images would treat them as independent and make the
    # intervals too narrow.
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

    A class without a positive in a resample has no AP there. The mean is then over the other classes of the group, and
    NaN if there are no others. Two classifiers that are resampled with equal generators get the same patients and lack
    the same classes, so their differences, resample by resample, are paired.

    Args:
        scores: `float32 [n, C]`, higher means more likely.
        labels: `float32 [n, C]`, 0 or 1; entries that are NaN (unknown) are left out.
        patients: `int64 [n]`, the patient of each image; all images of a patient are drawn together.
        groups: the columns of each group.
        n_resamples: the number of resamples, B.
        rng: draws the resamples and is used for nothing else.
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
