"""Scores beside average precision, against scikit-learn and torchmetrics, with ties, unknown labels and empty classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from bench.metrics.classification import accuracy, auroc, balanced_accuracy, best_thresholds, calibration_error, f1
from bench.metrics.patient_bootstrap import intervals, patient_weights, resampled_accuracy


def drawn(seed: int, n: int = 300) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities with ties and labels with gaps; class 3 has no positive, class 4 no negative."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 5)) < [0.3, 0.05, 0.6, 0.0, 1.0]).astype(np.float32)
    p = np.clip(0.3 * labels + rng.random((n, 5)) * 0.7, 0, 1).round(2).astype(np.float32)
    labels[rng.random((n, 5)) < 0.1] = np.nan
    return p, labels


def known(p: np.ndarray, labels: np.ndarray, c: int) -> tuple[np.ndarray, np.ndarray]:
    there = ~np.isnan(labels[:, c])
    return p[there, c], labels[there, c]


@pytest.mark.parametrize("seed", range(5))
def test_auroc_is_scikit_learns(seed: int) -> None:
    p, labels = drawn(seed)
    found = auroc(p, labels)
    assert found[3:] == [None, None]
    for c in range(3):
        score, truth = known(p, labels, c)
        assert found[c] == pytest.approx(roc_auc_score(truth, score), abs=1e-12)
    assert auroc(-p, labels)[0] == pytest.approx(1 - found[0])


@pytest.mark.parametrize("seed", range(5))
def test_no_threshold_has_a_higher_f1_on_val_than_the_chosen_one(seed: int) -> None:
    p, labels = drawn(seed)
    found = best_thresholds(p, labels)
    assert found[3] is None
    for c in (0, 1, 2, 4):
        score, truth = known(p, labels, c)
        every = {t: f1_score(truth, score >= t) for t in np.unique(score)}
        best = max(every.values())
        assert every[np.float32(found[c])] == pytest.approx(best)
        assert found[c] == pytest.approx(min(t for t, value in every.items() if value > best - 1e-12))


@pytest.mark.parametrize("seed", range(5))
def test_f1_on_test_is_scikit_learns_at_the_thresholds_of_val(seed: int) -> None:
    thresholds = best_thresholds(*drawn(seed + 50))
    p, labels = drawn(seed)
    found = f1(p, labels, thresholds)
    assert found[3] is None
    for c in (0, 1, 2, 4):
        score, truth = known(p, labels, c)
        assert found[c] == pytest.approx(f1_score(truth, score >= np.float32(thresholds[c]), zero_division=0))


@pytest.mark.parametrize("seed", range(5))
def test_the_calibration_error_is_torchmetrics(seed: int) -> None:
    p, labels = drawn(seed)
    p = np.random.default_rng(seed).random(p.shape).astype(np.float32)  # none on the edge of two bins
    for c, found in enumerate(calibration_error(p, labels)):
        score, truth = (torch.from_numpy(x) for x in known(p, labels, c))
        assert found == pytest.approx(float(binary_calibration_error(score, truth.long(), n_bins=15)), abs=1e-6)


def test_balanced_accuracy_is_scikit_learns_where_every_image_has_one_class() -> None:
    rng = np.random.default_rng(0)
    of_class = rng.choice(4, 200, p=[0.7, 0.2, 0.1, 0.0])
    labels = np.eye(4, dtype=np.float32)[of_class]
    scores = rng.random((200, 4)).astype(np.float32) + labels
    assert balanced_accuracy(scores, labels) == pytest.approx(
        balanced_accuracy_score(of_class, scores.argmax(axis=1)), abs=1e-12
    )
    two, gap = labels.copy(), labels.copy()
    two[0] = 1
    gap[0, 0] = np.nan
    assert balanced_accuracy(scores, two) is None
    assert balanced_accuracy(scores, gap) is None


GROUPS = [[0], [1, 3], [2], [4], [0, 1, 2, 3, 4]]  # no image has class 4


def of_one_class(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the class of each image, scores with ties, and labels."""
    rng = np.random.default_rng(seed)
    of_class = rng.choice(5, n, p=[0.6, 0.2, 0.1, 0.1, 0.0])
    labels = np.eye(5, dtype=np.float32)[of_class]
    return of_class, (rng.normal(0, 1, labels.shape) + labels).round(1).astype(np.float32), labels


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_is_scikit_learns_on_the_images_of_each_group(seed: int) -> None:
    of_class, scores, labels = of_one_class(seed)
    found = accuracy(scores, labels, GROUPS)
    assert found[3] is None
    for group, value in zip(GROUPS, found, strict=True):
        mine = np.isin(of_class, group)
        if mine.any():
            assert value == pytest.approx(accuracy_score(of_class[mine], scores[mine].argmax(axis=1)), abs=1e-12)


def test_there_is_no_accuracy_where_an_image_has_two_classes_none_or_an_unknown_one() -> None:
    _, scores, labels = of_one_class(0)
    patients = np.arange(len(labels))
    for row in ([1, 1, 0, 0, 0], [0, 0, 0, 0, 0], [1, 0, 0, 0, np.nan]):
        labels[7] = row
        assert accuracy(scores, labels, GROUPS) is None
        assert resampled_accuracy(scores, labels, GROUPS, patients, 5, np.random.default_rng(0)) is None
    assert accuracy(scores[:0], labels[:0], GROUPS) is None


def test_resampled_accuracy_is_scikit_learns_in_the_resamples_of_the_mean_precision() -> None:
    of_class, scores, labels = of_one_class(1)
    patients = np.arange(len(labels)) // 3
    found = resampled_accuracy(scores, labels, GROUPS, patients, 40, np.random.default_rng(5))
    weights = np.concatenate(list(patient_weights(patients, labels == 1, 40, np.random.default_rng(5))), axis=1)
    for values, counts in zip(found, weights.T, strict=True):
        rows = np.repeat(np.arange(len(labels)), counts)
        parts = [rows[np.isin(of_class[rows], group)] for group in GROUPS]
        wanted = [accuracy_score(of_class[p], scores[p].argmax(axis=1)) if len(p) else np.nan for p in parts]
        assert values == pytest.approx(wanted, abs=1e-6, nan_ok=True)
    ends = intervals({"one": found[:, 0], "none": found[:, 3]})
    assert (ends["one_low"], ends["one_high"]) == pytest.approx(np.quantile(found[:, 0], [0.025, 0.975]))
    assert (ends["none_low"], ends["none_high"]) == (None, None)
