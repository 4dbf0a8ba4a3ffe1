"""Measures from nearest neighbours in a feature space: precision, recall, density, coverage, and distances to parents.

The distances show whether synthetic images are near copies of train images.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.metrics.neighbours import nearest, parts
from bench.tables import Int64

Features = npt.NDArray[np.floating]
Distances = npt.NDArray[np.float64]

MEASURES = ("precision", "recall", "density", "coverage")


def manifold_measures(synthetic: Features, real: Features, k: int = 3) -> dict[str, float] | None:
    """Return how the k-NN manifolds of `synthetic [m, d]` and `real [n, d]` overlap, or None unless k < m and k < n.

    The manifold of a set is the union of balls around its points. The radius of a ball is the distance to the point's
    k-th nearest neighbour in the set, not counting the point itself. Points on the edge of a ball are inside it.

    - Precision is the share of synthetic points in the real manifold, and recall the share of real points in the
      synthetic manifold (Kynkäänniemi et al. 2019, eq. 1 to 3). A single outlier with a large ball can raise either.
    - Density is the number of real balls that contain a synthetic point, averaged over the synthetic points and divided
      by k. It is about 1 for equal distributions and may be larger. Coverage is the share of real balls that contain a
      synthetic point (Naeem et al. 2020).

    All four depend on n, m and k, so values can only be compared if these are equal.
    """
    if min(len(synthetic), len(real)) <= k:
        return None
    real_radii, synthetic_radii = radii(real, k), radii(synthetic, k)
    # One pass over the distances gives all four measures.
    n_inside = 0
    precise, recalled, covered = (np.zeros(n, dtype=bool) for n in (len(synthetic), len(real), len(real)))
    for part in parts(synthetic, real):
        in_real = part.at_most(real_radii[part.columns])
        n_inside += int(in_real.sum())
        precise[part.rows] |= in_real.any(axis=1)
        covered[part.columns] |= in_real.any(axis=0)
        recalled[part.columns] |= part.at_most(synthetic_radii[part.rows, None]).any(axis=0)
    return {
        "precision": float(precise.mean()),
        "recall": float(recalled.mean()),
        "density": n_inside / (k * len(synthetic)),
        "coverage": float(covered.mean()),
    }


def radii(points: Features, k: int) -> Distances:
    """Return the distance of each of `points [n, d]` to its k-th nearest other point, `float64 [n]`; k < n."""
    # The nearest of all is the point itself, or another at the same place.
    return nearest(points, [points], k + 1)[0][:, k]


def nearest_distances(
    queries: Features,
    among: Features,
    parents: Int64 | None = None,
    rows: Int64 | None = None,
    groups: Int64 | None = None,
    block: int = 8192,
) -> tuple[Distances, Distances]:
    """Return each query's distance to the nearest vector in `among`, and to the nearest one that is unrelated to it.

    Args:
        queries: `[n, d]`.
        among: `[m, d]`, memory-mapped if it is large.
        parents: `int64 [n, p]`, the rows of `among` that each query was made from; -1 = none. None if no query has
            parents.
        rows: `int64 [m']`, the rows of `among` to search; `parents` are then positions in `rows`. None means all rows.
        groups: `int64 [m']`, the group of each row that is searched, such as its patient. All rows in the group of a
            parent are related to the query. None: only the parents themselves are.
        block: the number of rows that are in memory at a time.

    Returns:
        Two arrays `float64 [n]`; NaN where there is no vector to measure the distance to.
    """
    if rows is None:
        rows = np.arange(len(among))
    none = np.full(len(queries), np.nan)
    if len(queries) == 0 or len(rows) == 0:
        return none, none.copy()
    if parents is None:
        parents = np.full((len(queries), 1), -1)
    of = np.unique(np.arange(len(rows)) if groups is None else groups, return_inverse=True)[1]
    related = np.where(parents >= 0, of[parents], -1)
    sizes = np.where(related >= 0, np.bincount(of)[related], 0)
    wanted = min(int(sizes.sum(axis=1).max()) + 1, len(rows))  # so that at least one of the neighbours is unrelated
    blocks = (among[rows[start : start + block]] for start in range(0, len(rows), block))
    found, near = nearest(queries, blocks, wanted)
    is_related = (of[near][:, :, None] == related[:, None, :]).any(axis=2)
    others = np.where(is_related, np.inf, found).min(axis=1)
    return found[:, 0], np.where(np.isinf(others), np.nan, others)
