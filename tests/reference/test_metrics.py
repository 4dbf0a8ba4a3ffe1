"""The measures against independent implementations: scipy, scikit-learn, torchmetrics and loops of ten lines."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from bench.metrics.average_precision import average_precision, mean_over, means
from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel import kernel_distance, subset_distances
from bench.metrics.manifold import MEASURES, manifold_measures, nearest_distances

torch.set_num_threads(1)
SIZES = [(5, 7, 16), (40, 12, 16), (12, 40, 16), (60, 90, 16), (2, 2, 8), (16, 17, 16)]  # n and m below, at and above d


def features(n: int, m: int, d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return two sets that share a few strong directions, as features of a network do."""
    draw = np.random.default_rng(seed)
    basis = draw.normal(size=(d, d)) * np.linspace(2, 0.01, d)
    return draw.normal(size=(n, d)) @ basis, draw.normal(size=(m, d)) @ basis * 0.7 + 0.3


class Given(nn.Module):
    """Hands torchmetrics features that are computed already."""

    num_features: int

    def __init__(self, d: int) -> None:
        super().__init__()
        self.num_features = d

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_frechet_distance_equals_the_symmetric_root(n: int, m: int, d: int) -> None:
    a, b = features(n, m, d)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    values, vectors = scipy.linalg.eigh(cov_a)  # tr (S_a S_b)^(1/2) = tr (R S_b R)^(1/2), R the root of S_a
    half = vectors * np.sqrt(values.clip(0)) @ vectors.T
    root = np.sqrt(scipy.linalg.eigvalsh(half @ cov_b @ half).clip(0)).sum()
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("n", "m", "d"), [s for s in SIZES if min(s[:2]) > s[2]])
def test_frechet_distance_equals_scipys_root_of_the_product(n: int, m: int, d: int) -> None:
    a, b = features(n, m, d)
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = np.real(np.trace(scipy.linalg.sqrtm(cov_a @ cov_b)))
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(cov_a) + np.trace(cov_b) - 2 * root
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_frechet_distance_equals_torchmetrics(n: int, m: int, d: int) -> None:
    from torchmetrics.image.fid import FrechetInceptionDistance

    a, b = features(n, m, d)
    metric = FrechetInceptionDistance(feature=Given(d), normalize=True, input_img_size=(3, 4, 4))
    metric.orig_dtype = torch.float64
    metric = metric.set_dtype(torch.float64)
    for x, real in ((a, True), (b, False)):
        batch = torch.from_numpy(x)
        metric.inception.forward = lambda images, batch=batch: batch
        metric.update(torch.zeros(len(x), 3, 4, 4, dtype=torch.float64), real=real)
    # it roots the eigenvalues of a product that is not symmetric: about 1e-8 of rounding becomes 1e-4 where n < d
    assert frechet_distance(a, b) == pytest.approx(float(metric.compute()), rel=1e-3 if min(n, m) <= d else 1e-6)


@pytest.mark.parametrize("spoilt", ["dead", "equal", "nearly equal", "nearly dead"])
@pytest.mark.parametrize(("n", "m"), [(40, 50), (12, 50), (50, 12)])
def test_frechet_distance_of_features_that_depend_on_each_other(n: int, m: int, spoilt: str) -> None:
    a, b = features(n, m, 16)
    noise = np.random.default_rng(3).normal(size=n)
    a[:, 5] = {
        "dead": 0.0, "equal": a[:, 4], "nearly equal": a[:, 4] + 1e-7 * noise, "nearly dead": 1e-9 * noise,
    }[spoilt]  # fmt: skip
    centred = [(x - x.mean(0)) / np.sqrt(len(x) - 1) for x in (a, b)]
    cross = scipy.linalg.svdvals(centred[0] @ centred[1].T).sum()  # the definition, without any factor
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + sum((x**2).sum() for x in centred) - 2 * cross
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-12)


def test_frechet_distance_of_gaussians_with_a_closed_form() -> None:
    a = np.array([[1.0, 0.0], [-1.0, 0.0]])  # variance 2 on the first axis
    b = np.array([[5.0, 0.0], [1.0, 0.0]])  # variance 8, mean 3
    assert frechet_distance(a, b) == pytest.approx(9 + (np.sqrt(8) - np.sqrt(2)) ** 2)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-12)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a))


def test_frechet_distance_refuses_what_has_none() -> None:
    good = np.zeros((3, 2))
    for a, fault in ((good[:1], "two samples"), (np.zeros((3, 4)), "got"), (good * np.nan, "NaN")):
        with pytest.raises(ValueError, match=fault):
            frechet_distance(a, good)


def kid_by_hand(a: np.ndarray, b: np.ndarray) -> float:
    def k(x: np.ndarray, y: np.ndarray) -> float:
        return (float(x @ y) / len(x) + 1) ** 3

    n, m = len(a), len(b)
    within_a = sum(k(a[i], a[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    within_b = sum(k(b[i], b[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    return within_a + within_b - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


@pytest.mark.parametrize(("n", "m", "d"), SIZES)
def test_kernel_distance_equals_the_loop(n: int, m: int, d: int) -> None:
    a, b = features(n, m, d)
    assert kernel_distance(a, b) == pytest.approx(kid_by_hand(a, b), rel=1e-9)


def test_kernel_distance_equals_torchmetrics_on_whole_sets_and_on_average_of_subsets() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = (x.astype(np.float32) / 4 for x in features(60, 60, 8))
    b += 1  # well apart, so that the mean over random subsets varies little

    def theirs(subsets: int, subset_size: int) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            metric = KernelInceptionDistance(
                feature=Given(8), subsets=subsets, subset_size=subset_size, normalize=False
            )
        for x, real in ((a, True), (b, False)):
            metric.inception.forward = lambda images, x=x: torch.from_numpy(x)
            metric.update(torch.zeros(len(x), 3, 4, 4, dtype=torch.uint8), real=real)
        return float(metric.compute()[0])

    assert kernel_distance(a, b) == pytest.approx(theirs(1, 60), rel=1e-4)
    torch.manual_seed(0)
    assert kernel_distance(a, b, subset_size=20, n_subsets=400) == pytest.approx(theirs(400, 20), rel=0.05)


def test_kernel_distance_of_subsets_is_seeded_and_takes_the_smaller_side_whole() -> None:
    a, b = (x / 4 for x in features(50, 9, 8))
    b += 1
    one, same, other = (kernel_distance(a, b, subset_size=10, n_subsets=3, seed=s) for s in (0, 0, 1))
    assert one == same != other
    assert kernel_distance(a, b, subset_size=10, n_subsets=3000) == pytest.approx(kid_by_hand(a, b), rel=0.05)
    with pytest.raises(ValueError, match="two samples"):
        kernel_distance(a, b[:1])


def test_subset_distances_equal_torchmetrics_mean_and_sd() -> None:
    from torchmetrics.image.kid import KernelInceptionDistance

    a, b = (x.astype(np.float32) / 4 for x in features(40, 60, 8))
    b += 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        metric = KernelInceptionDistance(feature=Given(8), subsets=2000, subset_size=15, normalize=False)
    for x, real in ((a, True), (b, False)):
        metric.inception.forward = lambda images, x=x: torch.from_numpy(x)
        metric.update(torch.zeros(len(x), 3, 4, 4, dtype=torch.uint8), real=real)
    torch.manual_seed(0)
    mean, sd = (float(value) for value in metric.compute())
    drawn = subset_distances(a, b, subset_size=15, n_subsets=2000)
    assert drawn.shape == (2000,)
    assert drawn.mean() == pytest.approx(mean, rel=0.02)
    assert drawn.std() == pytest.approx(sd, rel=0.08)


def test_a_subset_is_at_most_half_of_the_smaller_side() -> None:
    a, b = (x / 4 for x in features(4, 9, 8))
    pairs = [[i, j] for i in range(4) for j in range(i)]  # every subset of two of the smaller side
    values = {
        round(kid_by_hand(a[p], b[list(q)]), 9) for p in pairs for q in ((i, j) for i in range(9) for j in range(i))
    }
    drawn = subset_distances(a, b, subset_size=1000, n_subsets=50)
    assert {round(float(v), 9) for v in drawn} <= values
    assert len(set(drawn)) > 10
    assert subset_distances(a[:3], b) is None
    assert np.array_equal(drawn, subset_distances(a, b, n_subsets=50))
    assert not np.array_equal(drawn, subset_distances(a, b, n_subsets=50, seed=1))


def manifolds_by_hand(synthetic: np.ndarray, real: np.ndarray, k: int) -> dict[str, float]:
    """Return the four measures in the words of Kynkäänniemi et al. 2019 (eq. 1-3) and Naeem et al. 2020 (eq. 4-5)."""

    def nnd(i: int, points: np.ndarray) -> float:
        return sorted(math.dist(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    def in_ball(y: np.ndarray, i: int, points: np.ndarray) -> bool:
        return math.dist(y, points[i]) <= nnd(i, points)

    n, m = len(real), len(synthetic)
    return {
        "precision": sum(any(in_ball(y, i, real) for i in range(n)) for y in synthetic) / m,
        "recall": sum(any(in_ball(x, j, synthetic) for j in range(m)) for x in real) / n,
        "density": sum(in_ball(y, i, real) for y in synthetic for i in range(n)) / (k * m),
        "coverage": sum(any(in_ball(y, i, real) for y in synthetic) for i in range(n)) / n,
    }


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize(("m", "n"), [(24, 36), (36, 24)])
def test_manifold_measures_equal_the_loops(m: int, n: int, k: int) -> None:
    draw = np.random.default_rng(m + k)
    synthetic, real = draw.normal(size=(m, 3)) * 0.9 + 1.2, draw.normal(size=(n, 3))
    real[1] = real[0]  # twins: the nearest other of each is at distance zero
    expected = manifolds_by_hand(synthetic, real, k)
    assert manifold_measures(synthetic, real, k) == pytest.approx(expected)
    assert 0 < expected["precision"] < 1
    assert 0 < expected["recall"] < 1
    assert list(expected) == list(MEASURES)


def test_manifold_measures_at_the_ends() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(400, 8)), draw.normal(size=(400, 8))
    # k = 1: a point is in its own ball and in that of each point that it is the nearest of
    assert manifold_measures(a, a, 1) == {"precision": 1, "recall": 1, "density": 2, "coverage": 1}
    far = manifold_measures(a + 1e3, a)
    assert far == dict.fromkeys(MEASURES, 0.0)
    same = manifold_measures(a, b)
    assert same["density"] == pytest.approx(1, abs=0.1)  # its expectation for equal distributions (Naeem et al., eq. 7)
    assert same["coverage"] == pytest.approx(1 - 0.5**3, abs=0.05)  # 1 - 1 / 2^k for n = m (Naeem et al., sec. 3.3)
    # one mode out of two: what is there is precise, and half of the real is not covered
    two = np.concatenate([a[:200], a[200:] + 50])
    lost = manifold_measures(b[:200], two)
    assert lost["precision"] > 0.8
    assert lost["recall"] < 0.5
    assert lost["coverage"] < 0.5


@pytest.mark.parametrize(("m", "n"), [(3, 50), (50, 3), (0, 50)])
def test_manifold_measures_need_more_points_than_neighbours(m: int, n: int) -> None:
    assert manifold_measures(np.zeros((m, 2)), np.zeros((n, 2)), k=3) is None


def test_nearest_distances_equal_the_loop_with_and_without_parents() -> None:
    draw = np.random.default_rng(0)
    among = draw.normal(size=(15, 4)).astype(np.float32)
    parents = np.array([[3, 7], [7, -1], [-1, -1], [0, 14], [2, 2], [5, 6]])
    queries = among[parents[:, 0]] * 0.7 + among[parents[:, 1]] * 0.3
    nearest, others = nearest_distances(queries, among, parents)
    for i, q in enumerate(queries):
        every = [math.dist(q, x) for x in among]
        assert nearest[i] == pytest.approx(min(every), abs=1e-6)
        assert others[i] == pytest.approx(min(d for j, d in enumerate(every) if j not in parents[i]), abs=1e-6)
    assert (others > nearest).sum() >= 3
    alone, orphans = nearest_distances(queries, among)
    np.testing.assert_allclose(alone, nearest)
    np.testing.assert_allclose(orphans, nearest)


def test_all_rows_in_the_group_of_a_parent_are_related_to_the_query() -> None:
    rng = np.random.default_rng(4)
    queries, among = rng.standard_normal((12, 3)), rng.standard_normal((40, 3))
    rows = rng.permutation(40)[:30]
    patients, parents = rng.integers(0, 6, 30), rng.integers(-1, 30, (12, 2))
    _, others = nearest_distances(queries, among, parents, rows, patients, block=7)
    for query, mine, found in zip(queries, parents, others, strict=True):
        excluded = {patients[p] for p in mine if p >= 0}
        apart = [
            np.linalg.norm(query - among[row]) for row, who in zip(rows, patients, strict=True) if who not in excluded
        ]
        assert found == pytest.approx(min(apart))
    _, none = nearest_distances(queries[:1], among, np.array([[0]]), rows, np.zeros(30, int))
    assert np.isnan(none).all()


def test_nearest_distances_are_nan_where_nothing_is_near() -> None:
    points = np.eye(3)
    nearest, others = nearest_distances(points[:1], points[:2], np.array([[0, 1]]))
    assert nearest.tolist() == [0]
    assert np.isnan(others).all()
    assert np.isnan(nearest_distances(points, points[:0])[0]).all()
    assert nearest_distances(points[:0], points)[1].shape == (0,)


@pytest.mark.parametrize("decimals", [8, 1])  # 1: many ties
def test_average_precision_equals_sklearn_over_the_known_labels(decimals: int) -> None:
    draw = np.random.default_rng(0)
    scores = (draw.normal(size=(300, 5)) * 3).round(decimals).astype(np.float32)
    labels = (draw.random((300, 5)) < [0.5, 0.2, 0.05, 0.01, 0.9]).astype(np.float32)
    labels[draw.random((300, 5)) < 0.2] = np.nan
    for c, found in enumerate(average_precision(scores, labels)):
        known = ~np.isnan(labels[:, c])
        assert found == pytest.approx(average_precision_score(labels[known, c], scores[known, c]), abs=1e-12)


def test_average_precision_does_not_lose_order_where_probabilities_saturate() -> None:
    labels = np.array([[1], [0], [0]], np.float32)
    assert average_precision(np.array([[40], [30], [20]], np.float32), labels) == [1.0]


def test_average_precision_is_none_without_positives_and_the_means_leave_it_out() -> None:
    scores = np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3)
    labels = np.array([[0, 0, np.nan], [0, 0, np.nan], [0, 1, np.nan], [0, 1, np.nan]], np.float32)
    ap = dict(zip("abc", average_precision(scores, labels), strict=True))
    assert ap == {"a": None, "b": 1.0, "c": None}
    assert means("map", ap, head=("a", "b"), tail=("a", "c")) == {"map_head": 1.0, "map_tail": None, "map_all": 1.0}
    assert mean_over({"a": 0.2, "b": 0.4}, "ab") == pytest.approx(0.3)


def test_a_perfect_ranking_has_average_precision_one() -> None:
    labels = (np.random.default_rng(0).random((900, 3)) < 0.3).astype(np.float32)
    assert average_precision(labels * 0.1 + 0.4, labels) == [1.0, 1.0, 1.0]
