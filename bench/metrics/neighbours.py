"""Exact nearest neighbours among more vectors than fit into memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def nearest(queries: Floats, blocks: Iterable[Floats], k: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return Euclidean distances of the k nearest vectors and their positions, `[n, k]` each, nearest first.

    Args:
        queries: `[n, d]`.
        blocks: the vectors to search, `[m_i, d]` each; one block at a time is in memory, beside the best k so far.
        k: how many; all of them where there are fewer. Of equal distances the earlier position comes first.
    """
    from sklearn.neighbors import NearestNeighbors

    distances: npt.NDArray[Any] = np.empty((len(queries), 0), queries.dtype)
    positions: npt.NDArray[Any] = np.empty((len(queries), 0), np.int64)
    start = 0
    for block in blocks:
        search = NearestNeighbors(n_neighbors=min(k, len(block)), algorithm="brute").fit(block)
        apart, found = search.kneighbors(queries)
        distances, positions = np.hstack([distances, apart]), np.hstack([positions, start + found])
        best = np.argsort(distances, axis=1, kind="stable")[:, :k]
        distances, positions = np.take_along_axis(distances, best, axis=1), np.take_along_axis(positions, best, axis=1)
        start += len(block)
    return distances, positions
