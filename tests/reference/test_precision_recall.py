"""Precision at given recalls against scikit-learn's curve, with ties, unknown labels and classes without a positive."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, precision_recall_curve

from bench.metrics.precision_recall import precisions, recalls


def by_sklearn(scores: np.ndarray, positive: np.ndarray, at: np.ndarray) -> list[float]:
    """Return, for each recall, the precision at the highest of scikit-learn's thresholds that reaches it."""
    precision, recall, thresholds = precision_recall_curve(positive, scores)
    found = []
    for wanted in at:
        reaching = [i for i in range(len(thresholds)) if recall[i] >= wanted - 1e-9]
        found.append(precision[max(reaching, key=lambda i: thresholds[i])])
    return found


@pytest.mark.parametrize("decimals", [None, 2, 1, 0])
def test_precision_at_a_recall_is_that_of_scikit_learns_highest_threshold(decimals: int | None) -> None:
    draw = np.random.default_rng(decimals or 7)
    labels = (draw.random((400, 5)) < [0.5, 0.25, 0.1, 0.01, 0.0]).astype(np.float32)
    labels[draw.random(labels.shape) < 0.2] = np.nan
    labels[:2, 3] = 1
    scores = np.clip(0.3 * np.nan_to_num(labels) + draw.random(labels.shape), 0, 1).astype(np.float32)
    scores = scores if decimals is None else scores.round(decimals)  # fewer decimals are more ties
    at = recalls(50)
    found = precisions(scores, labels, at)
    for c in range(4):
        known = ~np.isnan(labels[:, c])
        assert found[c] == pytest.approx(by_sklearn(scores[known, c], labels[known, c], at))
    assert found[4] is None


def test_the_mean_over_as_many_recalls_as_positives_is_the_average_precision() -> None:
    draw = np.random.default_rng(1)
    labels = (draw.random((300, 1)) < 0.2).astype(np.float32)
    scores = draw.random((300, 1), dtype=np.float32) + labels / 2
    (found,) = precisions(scores, labels, recalls(int(labels.sum())))
    assert np.mean(found) == pytest.approx(average_precision_score(labels[:, 0], scores[:, 0]))


def test_equal_scores_of_all_images_give_the_prevalence() -> None:
    labels = np.array([[1], [0], [0], [np.nan], [0]], np.float32)
    (found,) = precisions(np.full((5, 1), 0.5, np.float32), labels, recalls(4))
    assert found.tolist() == [0.25] * 4


def test_the_recalls_lie_at_equal_distances_up_to_one() -> None:
    assert recalls(4).tolist() == [0.25, 0.5, 0.75, 1.0]
