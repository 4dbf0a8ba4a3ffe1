"""Exact nearest neighbours by matrix products, in bounded memory.

A squared distance is ||a||² + ||b||² - 2ab, and all products of two sets are one matrix product. That is many times
faster than differences, but rounding can exchange neighbours that are almost equally far. So the products only choose
candidates, with a bound on their rounding error, and scipy's `cdist` measures the candidates again. All results are
those of `cdist` to the last bit, ties included, on every machine and for every number of threads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.floating | np.integer]
Float64 = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

MOST_QUERIES, MOST_VECTORS = 512, 4096  # rows of a part; their products take 16 MiB
_PART_BYTES = 64 << 20  # of a part's rows in float64; rows of more values come fewer at a time


@dataclass(frozen=True)
class Part:
    """The squared distances between some of the queries and some of the vectors, known up to rounding.

    Attributes:
        queries, vectors: the rows of this part, `[b, d]` and `[m, d]`.
        rows, columns: where they stand among all queries and all vectors.
        upper: `[b, m]`; no squared distance is larger.
        slack: `[b]`; no squared distance is smaller than `upper - slack`.
    """

    queries: Numbers
    vectors: Numbers
    rows: slice
    columns: slice
    upper: Float64
    slack: Float64

    def measured(self, row: int, columns: npt.NDArray[np.int64]) -> Float64:
        """Return the distances between one query and some vectors of this part, as `cdist` computes them."""
        from scipy.spatial.distance import cdist

        return np.asarray(cdist(self.queries[row : row + 1], self.vectors[columns])[0], np.float64)

    def at_most(self, limits: Float64) -> Bool:
        """Return which distances are at most `limits`, which are `[m]` or `[b, 1]`, as `bool [b, m]`."""
        squared = limits**2
        found = self.upper <= squared
        unsure = ~found & (self.upper - self.slack[:, None] <= squared)
        every = np.broadcast_to(limits, found.shape)
        for row in np.flatnonzero(unsure.any(axis=1)):
            columns = np.flatnonzero(unsure[row])
            found[row, columns] = self.measured(int(row), columns) <= every[row, columns]
        return found


def parts(queries: Numbers, vectors: Numbers) -> Iterator[Part]:
    """Yield the matrix of squared distances between `queries [n, d]` and `vectors [m, d]` in parts.

    Whatever n and m are, a search takes less than 200 MiB beside what is given to it, and less than 120 MiB if a row
    has 1,024 values. (A row of more than 8 million values is a part of its own, and takes several times its bytes.)

    Raises:
        ValueError: for different widths, or for values that are not finite or too large to be squared.
    """
    if queries.ndim != 2 or vectors.ndim != 2 or queries.shape[1] != vectors.shape[1]:
        raise ValueError(f"neighbours: want [n, d] and [m, d], got {list(queries.shape)} and {list(vectors.shape)}")
    width = queries.shape[1]
    fit = max(1, _PART_BYTES // (8 * max(1, width)))
    # Distances do not change when all vectors are moved, and products lose the fewest digits around the origin.
    centre = queries.mean(axis=0, dtype=np.float64) if len(queries) else np.zeros(width)
    for columns in _slices(len(vectors), min(fit, MOST_VECTORS)):
        b = vectors[columns] - centre
        for rows in _slices(len(queries), min(fit, MOST_QUERIES)):
            yield Part(queries[rows], vectors[columns], rows, columns, *_bounds(_moved(queries[rows], centre), b))


def _moved(vectors: Numbers, centre: Float64) -> Float64:
    with np.errstate(invalid="ignore"):  # `_bounds` refuses what is not finite
        return np.asarray(vectors - centre, np.float64)


def _bounds(a: Float64, b: Float64) -> tuple[Float64, Float64]:
    """Return `upper` and `slack` of a part, see `Part`."""
    # With u = eps / 2, a sum of d products is wrong by at most d·u times the sum of their sizes, in whatever order and
    # with however many threads it is added (Higham 2002, section 3.1). For the norms, the products, moving to the
    # centre and what `cdist` itself rounds, this makes less than 4·(d + 5)·u·(||a||² + ||b||²). Twice that is taken.
    error = 4 * (a.shape[1] + 8) * np.finfo(np.float64).eps
    least = np.finfo(np.float64).tiny  # squares below it are rounded to zero
    with np.errstate(over="ignore", invalid="ignore"):
        of_a, of_b = np.einsum("ij,ij->i", a, a), np.einsum("ij,ij->i", b, b)
        most = of_a + of_b.max()
        if not np.isfinite(4 * most).all():
            raise ValueError("neighbours: vectors hold NaN, infinity or values too large to be squared")
    upper = (-2 * a) @ b.T
    upper += (1 + error) * of_a[:, None] + least
    upper += (1 + error) * of_b
    return upper, 2 * (error * most + least)


def nearest(queries: Numbers, blocks: Iterable[Numbers], k: int) -> tuple[Float64, npt.NDArray[np.int64]]:
    """Return the Euclidean distances of the k nearest vectors and their positions, `[n, k]` each, nearest first.

    If two distances are equal, the earlier position comes first. Beside the queries and one block, it takes n x k
    results and what `parts` says.

    Args:
        queries: `[n, d]`.
        blocks: the vectors to search, in blocks `[m_i, d]`. One block is in memory at a time.
        k: the number of neighbours, 1 or more; all vectors are returned if there are fewer.

    Raises:
        ValueError: see `parts`.
    """
    distances = np.full((len(queries), k), np.inf)
    positions = np.full((len(queries), k), -1, dtype=np.int64)
    start = 0
    for block in blocks:
        for part in parts(queries, block):
            mine = distances[part.rows], positions[part.rows]  # views
            for row, columns in _candidates(part, mine[0][:, -1] ** 2, k):
                # What was found before has earlier positions and comes first, so a stable sort keeps ties in order.
                apart = np.concatenate([mine[0][row], part.measured(row, columns)])
                where = np.concatenate([mine[1][row], start + part.columns.start + columns])
                best = np.argsort(apart, kind="stable")[:k]
                mine[0][row], mine[1][row] = apart[best], where[best]
        start += len(block)
    return distances[:, :start], positions[:, :start]


def _candidates(part: Part, limits: Float64, k: int) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """Yield each query of a part with the vectors that may be among its k nearest, if there are any.

    `limits [b]` are the squared distances of the k-th nearest so far.
    """
    wanted = part.upper <= (limits + part.slack)[:, None]
    found = np.count_nonzero(wanted, axis=1)
    many = np.flatnonzero(found > k)  # then the k-th nearest of this part is a lower limit
    if len(many):
        limits[many] = np.minimum(limits[many], np.partition(part.upper[many], k - 1, axis=1)[:, k - 1])
        wanted[many] = part.upper[many] <= (limits + part.slack)[many, None]
    for row in np.flatnonzero(found):
        yield int(row), np.flatnonzero(wanted[row])


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, n)) for start in range(0, n, size)]
