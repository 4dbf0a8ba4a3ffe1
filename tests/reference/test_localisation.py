"""Localisation measures against loops written from their definitions, scikit-learn, and cases with known answers."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import jaccard_score

from bench.metrics.localisation import inside_ratio, iou_above, iou_top, pointing_chance, pointing_hits, pointing_prior

N, H, W = 40, 7, 9
MEASURES = (pointing_hits, iou_top, iou_above, inside_ratio)


@pytest.fixture(params=[None, 1], ids=["distinct", "many ties"])
def maps(request: pytest.FixtureRequest) -> np.ndarray:
    drawn = np.random.default_rng(0).random((N, H, W)).astype(np.float32)
    return drawn if request.param is None else drawn.round(request.param)


@pytest.fixture
def masks() -> np.ndarray:
    draw = np.random.default_rng(1)
    masks = draw.random((N, H, W)) < draw.uniform(0.02, 0.3, (N, 1, 1))
    masks[:, 3, 4] |= ~masks.any(axis=(1, 2))
    return masks


@pytest.mark.parametrize("tolerance", [0, 1, 1.5, 3])
def test_pointing_game_equals_the_loop(maps: np.ndarray, masks: np.ndarray, tolerance: float) -> None:
    for i, found in enumerate(pointing_hits(maps, masks, tolerance)):
        true = [(y, x) for y in range(H) for x in range(W) if masks[i, y, x]]
        highest = [(y, x) for y in range(H) for x in range(W) if maps[i, y, x] == maps[i].max()]
        hits = [min(math.dist(site, t) for t in true) <= tolerance for site in highest]
        assert found == pytest.approx(sum(hits) / len(hits))


@pytest.mark.parametrize("tolerance", [0, 2])
def test_chance_is_what_every_site_in_turn_would_score(masks: np.ndarray, tolerance: float) -> None:
    each_site = np.eye(H * W, dtype=np.float32).reshape(H * W, H, W)
    for mask, chance in zip(masks[:5], pointing_chance(masks[:5], tolerance), strict=True):
        hits = pointing_hits(each_site, np.repeat(mask[None], H * W, axis=0), tolerance)
        assert chance == pytest.approx(hits.mean())


def test_prior_of_the_class_equals_the_loop_over_its_other_masks(masks: np.ndarray) -> None:
    classes = np.random.default_rng(4).integers(0, 4, N)
    classes[7] = 9  # alone in its class
    for i, found in enumerate(pointing_prior(masks, classes)):
        counts = [sum(masks[j].flat[s] for j in range(N) if j != i and classes[j] == classes[i]) for s in range(H * W)]
        commonest = [s for s in range(H * W) if counts[s] == max(counts)]
        expected = sum(masks[i].flat[s] for s in commonest) / len(commonest) if i != 7 else 0
        assert found == pytest.approx(expected)


def test_iou_of_the_top_sites_equals_the_loop_without_ties() -> None:
    draw = np.random.default_rng(2)
    for _ in range(N):
        order, mask = draw.permutation(H * W), draw.random(H * W) < 0.2
        mask[0] = True
        top, true = {int(s) for s in np.argsort(-order)[: mask.sum()]}, {int(s) for s in np.flatnonzero(mask)}
        values = order.astype(np.float32).reshape(1, H, W) - 20  # the scale must not matter
        assert iou_top(values, mask.reshape(1, H, W))[0] == pytest.approx(len(top & true) / len(top | true))


def test_iou_of_the_top_sites_shares_the_last_places_among_those_that_tie() -> None:
    # three true sites; one value is highest and true, four tie for the two places left and one of them is true
    values = np.array([[[9, 5, 5], [5, 5, 0]]], dtype=np.float32)
    mask = np.array([[[1, 1, 0], [0, 0, 1]]], dtype=bool)
    shared = 1 + 2 * 1 / 4
    assert iou_top(values, mask)[0] == pytest.approx(shared / (6 - shared))


def test_iou_above_a_level_equals_sklearn(maps: np.ndarray, masks: np.ndarray) -> None:
    for level in (0.3, 0.5, 0.9):
        for i, found in enumerate(iou_above(maps, masks, level)):
            assert found == pytest.approx(jaccard_score(masks[i].ravel(), maps[i].ravel() > level))


def test_energy_inside_equals_the_loop(maps: np.ndarray, masks: np.ndarray) -> None:
    signed = maps - 0.3
    for i, found in enumerate(inside_ratio(signed, masks)):
        energy = inside = sites = 0.0
        for value, true in zip(signed[i].ravel(), masks[i].ravel(), strict=True):
            energy += max(float(value), 0.0)
            inside += max(float(value), 0.0) * true
            sites += true
        assert found == pytest.approx(inside / energy / (sites / (H * W)), rel=1e-6)


def test_the_mask_itself_is_a_perfect_map_and_its_complement_the_worst(masks: np.ndarray) -> None:
    perfect, worst = masks.astype(np.float32), (~masks).astype(np.float32)
    for measure in (pointing_hits, iou_top, iou_above):
        np.testing.assert_array_equal(measure(perfect, masks), 1)
        np.testing.assert_array_equal(measure(worst, masks), 0)
    np.testing.assert_allclose(inside_ratio(perfect, masks), 1 / masks.mean(axis=(1, 2)))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_constant_map_points_nowhere(measure, value: float, masks: np.ndarray) -> None:
    np.testing.assert_array_equal(measure(np.full((N, H, W), value, dtype=np.float32), masks), 0)


@pytest.mark.parametrize("measure", MEASURES)
def test_no_maps_give_no_numbers_and_what_cannot_be_judged_is_refused(measure, masks: np.ndarray) -> None:
    maps = np.random.default_rng(3).random((N, H, W)).astype(np.float32)
    assert measure(maps[:0], masks[:0]).shape == (0,)
    with pytest.raises(ValueError, match=r"\[40, 7, 9\] and \[39, 7, 9\]"):
        measure(maps, masks[1:])
    masks[5] = False
    with pytest.raises(ValueError, match="number 5 is empty"):
        measure(maps, masks)
