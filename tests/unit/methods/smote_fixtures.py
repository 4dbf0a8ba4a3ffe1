"""What SMOTE's search for neighbours should find, by all distances."""

from __future__ import annotations

import numpy as np
from scipy.spatial.distance import cdist

from bench.tables import Int64, TrainSet


def neighbours_by_cdist(train: TrainSet, k: int) -> dict[int, Int64]:
    """Return column → positions of each image's nearest neighbours in pixels within the class, for each tail class."""
    found = {}
    for column in train.tail_index:
        flat = train.images[train.rows_with(column)].reshape(len(train.rows_with(column)), -1).astype(float)
        apart = cdist(flat, flat) + np.diag(np.full(len(flat), np.inf))
        found[column] = np.argsort(apart, axis=1, kind="stable")[:, : max(1, min(k, len(flat) - 1))]
    return found
