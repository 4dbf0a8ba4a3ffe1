"""Resample the test set by patient, to see how much a score depends on who happens to be in it.

This is a module of its own so that a change here does not change the keys of trained classifiers.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from bench.metrics.average_precision import Integers, weighted_average_precision
from bench.metrics.classification import only_class
from bench.tables import Float32, Int64

_BLOCK_BYTES = 1 << 23  # bytes of weights that are in memory at a time, whatever the size of the test set
INTERVAL = (0.025, 0.975)  # quantiles of the 95 % percentile intervals
_MOST_DRAWS = 100  # draws for each resample that is asked for, on average; then there are fewer resamples


def patient_weights(
    patients: Int64, kept: npt.NDArray[np.bool_], n_resamples: int, rng: np.random.Generator
) -> Iterator[Integers]:
    """Yield how often each image is in each resample, in blocks `uint16 [n, b]`.

    A resample draws as many patients as there are, with replacement. If it has no image of some column of `kept`, it is
    drawn again. The blocks together hold `n_resamples` resamples, which do not depend on the size of the blocks; there
    are fewer if `n_resamples` times 100 draws give no more.

    Args:
        patients: `int64 [n]`, the patient of each image.
        kept: `bool [n, C]`; every resample has an image that is True in each column. A column without any is ignored.
        n_resamples: the number of resamples.
        rng: draws the resamples and is used for nothing else.
    """
    # Images of one patient resemble each other. Resampling single images would treat them as independent and make the
    # intervals too narrow.
    ids, image_of = np.unique(patients, return_inverse=True)
    has = np.zeros((len(ids), kept.shape[1]), dtype=bool)
    np.logical_or.at(has, image_of, kept)
    has = has[:, has.any(axis=0)]
    block = max(1, _BLOCK_BYTES // (8 * max(1, len(patients))))
    drawn = (rng.integers(len(ids), size=len(ids)) for _ in range(_MOST_DRAWS * n_resamples))
    whole = itertools.islice((draw for draw in drawn if has[draw].any(axis=0).all()), n_resamples)
    while counts := [np.bincount(draw, minlength=len(ids)) for draw in itertools.islice(whole, block)]:
        yield np.stack(counts, axis=1).astype(np.uint16)[image_of]


def resampled_precision(
    scores: Float32, labels: Float32, patients: Int64, n_resamples: int, rng: np.random.Generator
) -> npt.NDArray[np.float64]:
    """Return the average precision of each class in each resample of patients, `float64 [B, C]`.

    Every resample has a positive of every class that has one in the test set; a resample that lost all patients with
    some class is drawn again as a whole. So a mean is over the same classes in all resamples. A class that has no
    positive at all is NaN. Two classifiers that are resampled with equal generators get the same
    patients, so their differences, resample by resample, are paired.

    Args:
        scores: `float32 [n, C]`, higher means more likely.
        labels: `float32 [n, C]`, 0 or 1; entries that are NaN (unknown) are left out.
        patients: `int64 [n]`, the patient of each image; all images of a patient are drawn together.
        n_resamples: the number of resamples, B. There are fewer if resamples that keep every class are too rare, see
            `patient_weights`.
        rng: draws the resamples and is used for nothing else.
    """
    # To average over the classes that are left would make each resample measure something else: the mean jumps by the
    # difference between the AP of the lost class and that of the others, and the interval shows these jumps. Resampling
    # positives and negatives apart (the stratified bootstrap, Robin et al. 2011; Boyd, Eng & Page 2013) avoids that for
    # one class. With many classes in one patient no strata exist, and drawing again keeps what the strata are for. A
    # class of k patients is lost in about exp(-k) of the draws, so this changes little but for classes of one or two.
    blocks = [np.zeros((0, labels.shape[1]))]
    for weights in patient_weights(patients, labels == 1, n_resamples, rng):
        ap = np.empty((weights.shape[1], labels.shape[1]))
        for c in range(labels.shape[1]):
            known = ~np.isnan(labels[:, c])
            ap[:, c] = weighted_average_precision(scores[known, c], labels[known, c] == 1, weights[known])
        blocks.append(ap)
    return np.concatenate(blocks)


def group_means(ap: npt.NDArray[np.float64], groups: Sequence[Sequence[int]]) -> Float32:
    """Return the mean over each group of columns in each resample, `float32 [B, groups]`; NaN where all are NaN."""
    return np.stack([_mean_of_known(ap[:, list(columns)]) for columns in groups], axis=1).astype(np.float32)


def resampled_accuracy(
    scores: Float32,
    labels: Float32,
    groups: Sequence[Sequence[int]],
    patients: Int64,
    n_resamples: int,
    rng: np.random.Generator,
) -> Float32 | None:
    """Return the top-1 accuracy in each group of classes in each resample of patients, `float32 [B, groups]`.

    None unless every image has exactly one class; see `bench.metrics.classification.accuracy`. NaN for a group without
    an image. With an equal generator the resamples are those of `resampled_precision`.

    Args:
        scores: `float32 [n, C]`, higher means more likely.
        labels: `float32 [n, C]`, 0 or 1.
        groups: the columns of each group.
        patients: `int64 [n]`, the patient of each image.
        n_resamples: the number of resamples, B; see `resampled_precision`.
        rng: draws the resamples and is used for nothing else.
    """
    of_class = only_class(labels)
    if of_class is None:
        return None
    members = np.stack([np.isin(of_class, columns) for columns in groups], axis=1)
    hits = members & (scores.argmax(axis=1) == of_class)[:, None]
    blocks = [np.zeros((0, len(groups)))]
    for weights in patient_weights(patients, labels == 1, n_resamples, rng):
        drawn = weights.T.astype(np.float64)
        with np.errstate(invalid="ignore"):  # 0 / 0 for a group without an image
            blocks.append((drawn @ hits) / (drawn @ members))
    return np.concatenate(blocks).astype(np.float32)


def intervals(replicates: Mapping[str, Float32]) -> dict[str, float | None]:
    """Return `<name>_low` and `<name>_high` of each score: 95 % percentile intervals over its resamples, `[B]`.

    Resamples that are NaN are left out. Both are None for fewer than two resamples.
    """
    bounds: dict[str, float | None] = {}
    for name, values in replicates.items():
        known = values[~np.isnan(values)]
        low, high = np.quantile(known, INTERVAL).tolist() if len(known) > 1 else (None, None)
        bounds |= {f"{name}_low": low, f"{name}_high": high}
    return bounds


def _mean_of_known(ap: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    known = (~np.isnan(ap)).sum(axis=1)
    return np.where(known > 0, np.nansum(ap, axis=1) / np.maximum(known, 1), np.nan)
