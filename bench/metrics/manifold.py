"""What nearest neighbours say of two sets of features: precision, recall, density, coverage, and copies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.metrics.neighbours import nearest
from bench.tables import Int64

Features = npt.NDArray[np.floating]
Distances = npt.NDArray[np.float64]

MEASURES = ("precision", "recall", "density", "coverage")


def manifold_measures(synthetic: Features, real: Features, k: int = 3, block: int = 256) -> dict[str, float] | None:
    """Return how the k-NN manifolds of `synthetic [m, d]` and `real [n, d]` overlap; None unless k < m and k < n.

    A set's manifold is the union of balls around its points, each as wide as the distance to the point's k-th nearest
    neighbour in the set, itself not counted. Points on a ball's edge are in it.

    - precision: share of synthetic points in the real manifold; recall: share of real points in the synthetic one
      (Kynkäänniemi et al. 2019, eq. 1 to 3). One outlier with a wide ball makes either large.
    - density: how many real balls hold a synthetic point, mean over these, divided by k; about 1 for equal
      distributions, and it may be more. Coverage: share of real balls that hold a synthetic point (Naeem et al. 2020).

    All depend on both sizes and on k: only figures of equal ones can be held against each other.
    """
    from scipy.spatial.distance import cdist

    if min(len(synthetic), len(real)) <= k:
        return None
    real_radii, synthetic_radii = radii(real, k, block), radii(synthetic, k, block)
    n_precise, n_inside = 0, 0
    recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
    for i in range(0, len(synthetic), block):  # bounds memory: block x n distances at a time
        distances = cdist(synthetic[i : i + block], real)
        in_real = distances <= real_radii
        n_precise += int(in_real.any(axis=1).sum())
        n_inside += int(in_real.sum())
        covered |= in_real.any(axis=0)
        recalled |= (distances <= synthetic_radii[i : i + block, None]).any(axis=0)
    return {
        "precision": n_precise / len(synthetic),
        "recall": float(recalled.mean()),
        "density": n_inside / (k * len(synthetic)),
        "coverage": float(covered.mean()),
    }


def radii(points: Features, k: int, block: int = 256) -> Distances:
    """Return `float64 [n]`, the distance of each of `points [n, d]` to its k-th nearest other; k < n."""
    from scipy.spatial.distance import cdist

    blocks = (cdist(points[i : i + block], points) for i in range(0, len(points), block))
    # the point itself stands at position 0 of its sorted distances
    return np.concatenate([np.partition(distances, k, axis=1)[:, k] for distances in blocks])


def nearest_distances(
    queries: Features, among: Features, parents: Int64 | None = None, rows: Int64 | None = None, block: int = 8192
) -> tuple[Distances, Distances]:
    """Return the distance of each of `queries [n, d]` to its nearest of `among [m, d]`, and to its nearest non-parent.

    Args:
        queries: `[n, d]`.
        among: `[m, d]`, memory-mapped where it is large.
        parents: `int64 [n, p]`, rows of `among` that each query was made from; -1 = none. None: nobody has any.
        rows: `int64 [m']`, the rows of `among` that count, which `parents` are then positions in; None: all.
        block: how many of them are in memory at a time.

    Returns:
        Two `float64 [n]`; NaN where nothing is there to be near to.
    """
    if rows is None:
        rows = np.arange(len(among))
    none = np.full(len(queries), np.nan)
    if len(queries) == 0 or len(rows) == 0:
        return none, none.copy()
    if parents is None:
        parents = np.full((len(queries), 1), -1)
    wanted = min(parents.shape[1] + 1, len(rows))  # one more than the parents: one of them is no parent
    blocks = (among[rows[start : start + block]] for start in range(0, len(rows), block))
    found, near = nearest(queries, blocks, wanted)
    is_parent = (near[:, :, None] == parents[:, None, :]).any(axis=2)
    others = np.where(is_parent, np.inf, found).min(axis=1)
    return found[:, 0].astype(np.float64), np.where(np.isinf(others), np.nan, others)
