"""Scores beside average precision, against scikit-learn and torchmetrics, with ties, unknown labels and empty classes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.metrics import balanced_accuracy_score, f1_score, roc_auc_score
from torchmetrics.functional.classification import binary_calibration_error

from bench.metrics.classification import auroc, balanced_accuracy, best_thresholds, calibration_error, f1


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
