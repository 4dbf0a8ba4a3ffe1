"""Compare class activation maps with the true masks of findings, one map at a time.

A map has a score for every site of a grid. Every measure but `iou_above` ignores the scale of the scores. A constant
map prefers no site. It counts as a miss and as no overlap; otherwise it would get the score of a random guess.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.tables import Float32, Int64

Masks = npt.NDArray[np.bool_]
PerMap = npt.NDArray[np.float64]


def pointing_hits(maps: Float32, masks: Masks, tolerance: float = 0.0) -> PerMap:
    """Return the pointing game of each map (Zhang et al. 2018, section 4.2), `float64 [n]` in [0, 1].

    The value is 1 if the map's maximum is inside the true mask or within `tolerance` of it, else 0; the mean over maps
    is the share of hits. If several sites share the maximum, the value is the share of these sites that hit, which is
    the expected value when one of them is drawn at random.

    Args:
        maps: `float32 [n, h, w]`.
        masks: `bool [n, h, w]`; none may be empty.
        tolerance: Euclidean distance in sites (Zhang et al. allow 15 px of the image).

    Raises:
        ValueError: for shapes that differ or an empty mask.
    """
    values, _ = _flat(maps, masks)
    inside = _widened(masks, tolerance).reshape(values.shape)
    highest = values == values.max(axis=1, keepdims=True)
    return np.where(_is_constant(values), 0.0, _share(highest & inside, highest))


def pointing_chance(masks: Masks, tolerance: float = 0.0) -> PerMap:
    """Return the share of sites that are hits, `float64 [n]`: what a site drawn at random scores in the pointing game.

    `masks` and `tolerance` are those of `pointing_hits`.
    """
    return _widened(masks, tolerance).mean(axis=(1, 2))


def pointing_prior(masks: Masks, classes: Int64) -> PerMap:
    """Return what a map that knows only the class scores in the pointing game, `float64 [n]` in [0, 1].

    Such a map points at the sites that are in most of the other masks of the class. A real map has to beat it to show
    that it looks at its own image, and not only where the finding usually is. If a mask is the only one of its class,
    there are no other masks, and it counts as a miss.

    Args:
        masks: `bool [n, h, w]`; none may be empty.
        classes: `int64 [n]`, the class of each mask.

    Raises:
        ValueError: for an empty mask.
    """
    others = np.zeros(masks.shape, dtype=np.float32)
    for c in np.unique(classes):
        of_class = masks[classes == c]
        others[classes == c] = of_class.sum(axis=0) - of_class.astype(np.float32)
    return pointing_hits(others, masks)


def iou_top(maps: Float32, masks: Masks) -> PerMap:
    """Return the intersection over union of each map's k highest sites with its mask of k sites, `float64 [n]`.

    The map's k is the number of sites in its mask, so the measure depends on the order of the sites and not on the
    scale of the map. If several sites tie for the last places, each of them counts with an equal fraction.

    Raises:
        ValueError: for shapes that differ or an empty mask.
    """
    # Sites that tie for the last places are common in maps that are clipped at 0. Counting whichever come first would
    # favour findings at the top of the image.
    values, inside = _flat(maps, masks)
    size = inside.sum(axis=1)
    last = np.take_along_axis(-np.sort(-values, axis=1), size[:, None] - 1, axis=1)  # the k-th highest value
    above, tied = values > last, values == last
    places = size - above.sum(axis=1)
    shared = (above & inside).sum(axis=1) + places * _share(tied & inside, tied)
    return np.where(_is_constant(values), 0.0, shared / (2 * size - shared))


def iou_above(maps: Float32, masks: Masks, level: float = 0.5) -> PerMap:
    """Return the intersection over union of each map's sites above `level` with its mask, `float64 [n]`.

    Raises:
        ValueError: for shapes that differ or an empty mask.
    """
    values, inside = _flat(maps, masks)
    chosen = (values > level) & ~_is_constant(values)[:, None]
    return (chosen & inside).sum(axis=1) / (chosen | inside).sum(axis=1)


def inside_ratio(maps: Float32, masks: Masks) -> PerMap:
    """Return the share of each map's energy inside its mask, divided by the mask's share of the sites, `float64 [n]`.

    This is the energy-based pointing game (Wang et al. 2020, Score-CAM, section 4.3), divided by the score of a map
    without any preference: 1 is chance, and 2 is twice as good as chance. Values below 0 count as no energy. A map
    without energy gets 0.

    Raises:
        ValueError: for shapes that differ or an empty mask.
    """
    values, inside = _flat(maps, masks)
    energy = np.where(_is_constant(values)[:, None], 0.0, values.clip(min=0).astype(np.float64))
    return _share(energy * inside, energy) / inside.mean(axis=1)


def _flat(maps: Float32, masks: Masks) -> tuple[Float32, Masks]:
    """Return maps and masks as `[n, h * w]`.

    Raises:
        ValueError: for shapes that differ or an empty mask.
    """
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps and masks: want [n, h, w] twice, got {list(maps.shape)} and {list(masks.shape)}")
    if len(masks) and not masks.any(axis=(1, 2)).all():
        where = int(np.argmin(masks.any(axis=(1, 2))))
        raise ValueError(f"masks: number {where} is empty, so no map can be right; leave such pairs out")
    n_sites = maps.shape[1] * maps.shape[2]
    return maps.reshape(len(maps), n_sites), masks.reshape(len(masks), n_sites)


def _is_constant(values: Float32) -> Masks:
    return values.max(axis=1) == values.min(axis=1)


def _share(part: npt.NDArray, whole: npt.NDArray) -> PerMap:
    """Return the row sums of `part` divided by those of `whole`, or 0 where `whole` sums to 0."""
    total = whole.sum(axis=1, dtype=np.float64)
    return np.divide(part.sum(axis=1, dtype=np.float64), total, out=np.zeros(len(total)), where=total > 0)


def _widened(masks: Masks, tolerance: float) -> Masks:
    """Return the sites within `tolerance` of a site in the mask."""
    if tolerance == 0:
        return masks
    from scipy import ndimage

    reach = int(tolerance)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(y, x) <= tolerance
    return np.asarray(ndimage.binary_dilation(masks, structure=disc[None]), dtype=bool)
