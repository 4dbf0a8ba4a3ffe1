"""The gap between what findings occur with, against a loop over lists."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bench.metrics.cooccurrence import cooccurrence_gap


def test_the_gap_equals_a_loop_over_the_known_labels() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.random((n, 5)).round(1).astype(np.float32) for n in (20, 30))
    for labels in (a, b):
        labels[rng.random(labels.shape) < 0.3] = np.nan
    gaps = []
    for c in (0, 1, 3, 4):
        shares = []
        for labels in (a, b):
            known = [float(v) for v in labels[:, c] if not math.isnan(v)]
            shares.append(sum(known) / len(known))
        gaps.append(abs(shares[0] - shares[1]))
    assert cooccurrence_gap(a, b, leaving_out=2) == pytest.approx(sum(gaps) / 4, abs=1e-6)


def test_equal_sets_have_no_gap_and_opposite_ones_the_largest() -> None:
    a = np.array([[1, 0, 1], [1, 1, 0]], np.float32)
    assert cooccurrence_gap(a, a[::-1], leaving_out=0) == 0
    assert cooccurrence_gap(np.zeros((2, 3), np.float32), np.ones((4, 3), np.float32), leaving_out=0) == 1


def test_without_a_class_that_both_know_there_is_no_gap() -> None:
    a = np.array([[1, np.nan, 0.5]], np.float32)
    b = np.array([[1, 1, np.nan]], np.float32)
    assert cooccurrence_gap(a, b, leaving_out=0) is None
    assert cooccurrence_gap(a[:0], b, leaving_out=0) is None
