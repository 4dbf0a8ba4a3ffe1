"""Scores of a classifier beside average precision: ranking, decisions at a threshold, and calibration, for each class.

Every function takes scores or probabilities `float32 [n, C]` and observed labels `float32 [n, C]`, 0 or 1. Entries that
are NaN (unknown) are left out, class by class. A class for which a score means nothing has None.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from bench.tables import Float32, Int64

N_BINS = 15  # of equal width, for the calibration error


def auroc(scores: Float32, labels: Float32) -> list[float | None]:
    """Return the area under the ROC curve of each class; None for a class without positives or without negatives.

    It is the probability that a positive has a higher score than a negative; equal scores count half (Mann & Whitney).
    """
    from scipy.stats import rankdata

    found: list[float | None] = []
    for c in range(labels.shape[1]):
        score, positive = _known(scores, labels, c)
        n, m = int(positive.sum()), int((~positive).sum())
        if not n or not m:
            found.append(None)
            continue
        found.append(float((rankdata(score)[positive].sum() - n * (n + 1) / 2) / (n * m)))
    return found


def best_thresholds(probabilities: Float32, labels: Float32) -> list[float | None]:
    """Return for each class the threshold with the highest F1, the lowest of equals; None without a positive.

    To be chosen on val and used on test: a class is predicted where its probability is at least the threshold.
    """
    found: list[float | None] = []
    for c in range(labels.shape[1]):
        score, positive = _known(probabilities, labels, c)
        if not positive.any():
            found.append(None)
            continue
        order = np.argsort(-score, kind="stable")
        last = np.flatnonzero(np.r_[score[order][1:] != score[order][:-1], True])  # equal scores share a threshold
        hits = np.cumsum(positive[order])[last]
        f1 = 2 * hits / (last + 1 + positive.sum())
        best = np.flatnonzero(f1 == f1.max())[-1]
        found.append(float(score[order][last[best]]))
    return found


def f1(probabilities: Float32, labels: Float32, thresholds: Sequence[float | None]) -> list[float | None]:
    """Return the F1 of each class at its threshold, `2 TP / (2 TP + FP + FN)`; None without threshold or positives."""
    found: list[float | None] = []
    for c, threshold in enumerate(thresholds):
        score, positive = _known(probabilities, labels, c)
        if threshold is None or not positive.any():
            found.append(None)
            continue
        predicted = score >= np.float32(threshold)
        found.append(float(2 * (predicted & positive).sum() / (predicted.sum() + positive.sum())))
    return found


def calibration_error(probabilities: Float32, labels: Float32, n_bins: int = N_BINS) -> list[float | None]:
    """Return the expected calibration error of each class, 0 to 1; None for a class of which nothing is known.

    This is the mean over images of |mean probability - share of positives| in the image's bin of probabilities, with
    `n_bins` bins of equal width (Naeini et al. 2015, for the probability of one class).
    """
    found: list[float | None] = []
    for c in range(labels.shape[1]):
        score, positive = _known(probabilities, labels, c)
        if not len(score):
            found.append(None)
            continue
        bins = np.minimum((score * n_bins).astype(np.int64), n_bins - 1)
        gaps = np.bincount(bins, score.astype(np.float64), n_bins) - np.bincount(bins, positive, n_bins)
        found.append(float(np.abs(gaps).sum() / len(score)))
    return found


def balanced_accuracy(scores: Float32, labels: Float32) -> float | None:
    """Return the mean over classes of the share of their images whose highest score is that class.

    None unless every image has exactly one class, see `only_class`. Classes without an image are left out.
    """
    of_class = only_class(labels)
    if of_class is None:
        return None
    hit = scores.argmax(axis=1) == of_class
    return float(np.mean([hit[of_class == c].mean() for c in np.unique(of_class)]))


def accuracy(scores: Float32, labels: Float32, groups: Sequence[Sequence[int]]) -> list[float | None] | None:
    """Return the top-1 accuracy in each group of classes, or None unless every image has exactly one class.

    It is the share of the images whose class is in the group that have their highest score, among those of all classes,
    at their own class; of equal scores the first column counts. A group without an image has None.
    """
    of_class = only_class(labels)
    if of_class is None:
        return None
    hit = scores.argmax(axis=1) == of_class
    parts = [hit[np.isin(of_class, columns)] for columns in groups]
    return [float(part.mean()) if len(part) else None for part in parts]


def only_class(labels: Float32) -> Int64 | None:
    """Return the column of each image's class, `int64 [n]`.

    None unless every image has exactly one class and no label is unknown, and if there is no image.
    """
    if not len(labels) or np.isnan(labels).any() or not (labels.sum(axis=1) == 1).all():
        return None
    return labels.argmax(axis=1).astype(np.int64)


def _known(scores: Float32, labels: Float32, c: int) -> tuple[Float32, npt.NDArray[np.bool_]]:
    known = ~np.isnan(labels[:, c])
    return scores[known, c], labels[known, c] == 1
