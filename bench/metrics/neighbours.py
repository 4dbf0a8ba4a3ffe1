"""Find exact nearest neighbours among more vectors than fit into memory."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.floating]


def nearest(queries: Floats, blocks: Iterable[Floats], k: int) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Return the Euclidean distances of the k nearest vectors and their positions, `[n, k]` each, nearest first.

    If two distances are equal, the earlier position comes first.

    Args:
        queries: `[n, d]`.
        blocks: the vectors to search, in blocks `[m_i, d]`. One block is in memory at a time.
        k: the number of neighbours; all vectors are returned if there are fewer.
    """
    from sklearn.neighbors import NearestNeighbors

    # The best k of all blocks so far are merged with the best k of each new block. The result is exact, because a
    # vector among the k nearest of all is among the k nearest of its block. The sort is stable and earlier blocks stand
    # first, so the result does not depend on the size of the blocks, even where distances are equal.
    distances: Floats = np.empty((len(queries), 0), queries.dtype)
    positions: npt.NDArray[np.int64] = np.empty((len(queries), 0), np.int64)
    start = 0
    for block in blocks:
        search = NearestNeighbors(n_neighbors=min(k, len(block)), algorithm="brute").fit(block)
        apart, found = search.kneighbors(queries)
        distances, positions = np.hstack([distances, apart]), np.hstack([positions, start + found])
        best = np.argsort(distances, axis=1, kind="stable")[:, :k]
        distances, positions = np.take_along_axis(distances, best, axis=1), np.take_along_axis(positions, best, axis=1)
        start += len(block)
    return distances, positions
