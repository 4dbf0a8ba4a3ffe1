"""Exact neighbours by matrix products against scipy's `cdist` and a stable sort."""

from __future__ import annotations

import tracemalloc

import numpy as np
import numpy.typing as npt
import pytest
from scipy.spatial.distance import cdist

from bench.metrics import neighbours
from bench.metrics.manifold import manifold_measures, radii
from bench.metrics.neighbours import nearest, parts
from methods.smote import nearest as smote_nearest

Vectors = npt.NDArray[np.floating]


def whole_numbers(rng: np.random.Generator, n: int) -> Vectors:
    """Few different vectors, so that nearly all distances occur several times, and many vectors too."""
    return rng.integers(0, 3, (n, 4)).astype(np.float32)


def pixels(rng: np.random.Generator, n: int) -> Vectors:
    return rng.integers(0, 256, (n, 49)).astype(np.float32)


def far_from_the_origin(rng: np.random.Generator, n: int) -> Vectors:
    """Differences are the last digits of the values: products of the vectors as they are would all be equal."""
    return 1e7 + np.round(rng.normal(size=(n, 6)), 6)


def two_far_groups(rng: np.random.Generator, n: int) -> Vectors:
    """No single centre is near to all vectors. Differences within a group are below the rounding of the products."""
    return np.where(rng.random((n, 1)) < 0.5, -1e8, 1e8) + rng.normal(size=(n, 5))


def permuted(rng: np.random.Generator, n: int) -> Vectors:
    """Equal norms with differently ordered sums, so that equal distances differ by rounding alone."""
    return np.stack([rng.permutation([0.1, 0.7, 1.3, 2.9, 3.1]) for _ in range(n)])


def nearly_equal(rng: np.random.Generator, n: int) -> Vectors:
    return (1 + 1e-6 * rng.normal(size=(n, 64))).astype(np.float32)


def tiny(rng: np.random.Generator, n: int) -> Vectors:
    """Squares of the smaller values are no normal numbers."""
    return rng.normal(size=(n, 3)) * 10.0 ** rng.integers(-163, -150, (n, 1))


def equal(rng: np.random.Generator, n: int) -> Vectors:
    return np.zeros((n, 8), np.float32)


KINDS = [whole_numbers, pixels, far_from_the_origin, two_far_groups, permuted, nearly_equal, tiny, equal]


@pytest.fixture(params=[None, (7, 11), (1, 3)], ids=["one part", "parts", "small parts"])
def size_of_parts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setattr(neighbours, "MOST_QUERIES", request.param[0])
        monkeypatch.setattr(neighbours, "MOST_VECTORS", request.param[1])


@pytest.mark.usefixtures("size_of_parts")
@pytest.mark.parametrize("k", [1, 4, 200])
@pytest.mark.parametrize("kind", KINDS)
def test_distances_and_order_are_those_of_cdist_and_a_stable_sort(kind, k):
    rng = np.random.default_rng(k)
    vectors = kind(rng, 90)
    vectors = np.concatenate([vectors, vectors[:20]])  # duplicates, in other blocks
    queries = np.concatenate([kind(rng, 15), vectors[5:20]])
    apart = cdist(queries, vectors)
    order = np.argsort(apart, axis=1, kind="stable")[:, :k]
    for blocks in ([vectors], [vectors[:1], vectors[1:64], vectors[64:64], vectors[64:]]):
        distances, positions = nearest(queries, blocks, k)
        assert np.array_equal(positions, order)
        assert np.array_equal(distances, np.take_along_axis(apart, order, axis=1))


@pytest.mark.usefixtures("size_of_parts")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_within_a_limit_is_what_cdist_says_also_on_the_edge(kind):
    rng = np.random.default_rng(1)
    queries, vectors = kind(rng, 40), kind(rng, 60)
    apart = cdist(queries, vectors)
    of_vector, of_query = apart[7], apart[:, 9]  # some distances are equal to their limits
    for part in parts(queries, vectors):
        found = part.at_most(of_vector[part.columns])
        assert np.array_equal(found, (apart <= of_vector)[part.rows, part.columns])
        found = part.at_most(of_query[part.rows, None])
        assert np.array_equal(found, (apart <= of_query[:, None])[part.rows, part.columns])


@pytest.mark.usefixtures("size_of_parts")
@pytest.mark.parametrize("kind", KINDS)
def test_manifolds_are_those_of_all_distances(kind):
    rng = np.random.default_rng(2)
    made, real, k = kind(rng, 40), kind(rng, 60), 3
    apart, of_real, of_made = cdist(made, real), np.sort(cdist(real, real))[:, k], np.sort(cdist(made, made))[:, k]
    assert np.array_equal(radii(real, k), of_real)
    inside = apart <= of_real
    assert manifold_measures(made, real, k) == {
        "precision": inside.any(axis=1).mean(),
        "recall": (apart <= of_made[:, None]).any(axis=0).mean(),
        "density": pytest.approx(inside.sum() / (k * 40)),
        "coverage": inside.any(axis=0).mean(),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_no_image_is_its_own_neighbour_in_smote_even_if_many_are_equal(kind):
    vectors = kind(np.random.default_rng(3), 40)
    vectors[25:32] = vectors[3]
    apart = cdist(vectors, vectors)
    np.fill_diagonal(apart, np.inf)
    found = smote_nearest(vectors.__getitem__, np.arange(40), 4, slice(0, 40))
    assert np.array_equal(found, np.argsort(apart, axis=1, kind="stable")[:, :4])


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
@pytest.mark.parametrize("side", [0, 1])
def test_values_without_a_distance_are_refused(bad, side):
    sides = [np.ones((5, 3)), np.ones((6, 3))]
    sides[side][2, 1] = bad
    with pytest.raises(ValueError, match="NaN, infinity or values too large"):
        nearest(sides[0], [sides[1]], 2)
    with pytest.raises(ValueError, match=r"want \[n, d\] and \[m, d\], got \[5, 3\] and \[6, 2\]"):
        nearest(sides[0], [sides[1][:, :2]], 2)


def test_the_memory_does_not_grow_with_the_number_of_vectors():
    def peak(n: int) -> int:
        """Return the most bytes beside queries and vectors."""
        vectors = np.random.default_rng(0).normal(size=(n, 16)).astype(np.float32)
        tracemalloc.start()
        nearest(vectors[:600], [vectors], 5)
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return found

    small, large = peak(5_000), peak(40_000)
    assert large < small + (1 << 20)  # all distances would take 168 MB more
    assert large < 120 << 20
