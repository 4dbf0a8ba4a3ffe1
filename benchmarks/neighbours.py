"""Is the exact search for neighbours as fast as it should be? CPU seconds of ours and two peers, in turn.

scipy's `cdist` with a stable sort is exact too, and holds all distances in memory. scikit-learn's brute-force search
uses matrix products as ours does, but does not measure its candidates again: where vectors are nearly equal, rounding
decides. All get the same features, on one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from scipy.spatial.distance import cdist
from sklearn.neighbors import NearestNeighbors
from threadpoolctl import threadpool_limits

from bench.metrics.neighbours import nearest
from benchmarks import common
from benchmarks.common import Figure
from benchmarks.frechet import features

SIZES = ((1_000, 3_000), (2_000, 10_000))
K = 4  # manifolds of three neighbours: the nearest is the point itself
CDIST_BOUND, SKLEARN_BOUND = 0.25, 2.0  # ours / theirs

Found = tuple[np.ndarray, np.ndarray]
Search = Callable[[np.ndarray, np.ndarray], Found]


def ours(queries: np.ndarray, vectors: np.ndarray) -> Found:
    """Return distances and positions, `[n, K]` each."""
    return nearest(queries, [vectors], K)


def by_cdist(queries: np.ndarray, vectors: np.ndarray) -> Found:
    """Return the same from all distances."""
    apart = cdist(queries, vectors)
    order = np.argsort(apart, axis=1, kind="stable")[:, :K]
    return np.take_along_axis(apart, order, axis=1), order


def by_sklearn(queries: np.ndarray, vectors: np.ndarray) -> Found:
    """Return the same, where no two vectors are nearly as far."""
    distances, positions = NearestNeighbors(n_neighbors=K, algorithm="brute").fit(vectors).kneighbors(queries)
    return distances, positions


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--width", type=int, default=1024, help="features; DenseNet121 has 1024, Inception 2048")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--sizes", type=int, nargs=2, action="append", metavar=("QUERIES", "VECTORS"))
    given = parser.parse_args()
    threadpool_limits(1)  # as every stage does
    figures: list[Figure] = []
    for n, m in given.sizes or SIZES:
        queries, vectors = features(n, given.width, 0), features(m, given.width, 1)
        figures += compared(f"{n} in {m}", queries, vectors, given.repeats)
    return common.report(figures, given.json, width=given.width, k=K)


def compared(name: str, queries: np.ndarray, vectors: np.ndarray, repeats: int) -> list[Figure]:
    """Return how the three compare at one size."""
    peers: dict[str, tuple[Search, float]] = {
        "cdist": (by_cdist, CDIST_BOUND),
        "scikit-learn": (by_sklearn, SKLEARN_BOUND),
    }
    mine: list[float] = []
    ratios: dict[str, list[float]] = {peer: [] for peer in peers}
    differs: dict[str, float] = {}
    apart: dict[str, float] = {}
    for _ in range(repeats):
        (distances, positions), seconds = timed(ours, queries, vectors)
        mine.append(seconds)
        for peer, (search, _) in peers.items():
            (theirs, order), taken = timed(search, queries, vectors)
            ratios[peer].append(seconds / taken)
            differs[peer] = float((order != positions).mean())
            apart[peer] = float(np.abs(theirs / distances - 1).max())
    figures = [Figure.of(f"{name}: ours", "s", mine)]
    for peer, (_, bound) in peers.items():
        figures += [
            Figure.of(f"{name}: ours / {peer}", "", ratios[peer], bound),
            Figure.of(f"{name}: share of positions other than {peer}'s", "", [differs[peer]], 0.0),
            Figure.of(f"{name}: relative difference from {peer}", "", [apart[peer]], 0.0 if peer == "cdist" else 1e-6),
        ]
    return figures


def timed(search: Search, queries: np.ndarray, vectors: np.ndarray) -> tuple[Found, float]:
    """Return what a search finds, and its CPU seconds."""
    started = time.process_time()
    found = search(queries, vectors)
    return found, time.process_time() - started


if __name__ == "__main__":
    raise SystemExit(main())
