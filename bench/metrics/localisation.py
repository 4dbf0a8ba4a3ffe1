"""Does a map point at what is truly there? Class activation maps against true masks, each map by itself.

A map is a score a site, at any scale; only `iou_above` reads its values. A constant map singles out no site: it counts
as a miss and as no overlap, never as chance.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench.tables import Float32, Int64

Masks = npt.NDArray[np.bool_]
PerMap = npt.NDArray[np.float64]


def pointing_hits(maps: Float32, masks: Masks, tolerance: float = 0.0) -> PerMap:
    """Return the pointing game of each map (Zhang et al. 2018, section 4.2), `float64 [n]` in [0, 1].

    1 where the map's maximum falls inside the true mask or within `tolerance` of it, else 0; their mean is the share
    of hits. Where several sites share the maximum it is their share inside: the hit that a fair choice of one expects.

    Args:
        maps: `float32 [n, h, w]`.
        masks: `bool [n, h, w]`; none may be empty.
        tolerance: in sites, Euclidean (15 px in the paper's images).

    Raises:
        ValueError: for shapes that differ or an empty mask.
    """
    values, _ = _flat(maps, masks)
    inside = _widened(masks, tolerance).reshape(values.shape)
    highest = values == values.max(axis=1, keepdims=True)
    return np.where(_is_constant(values), 0.0, _share(highest & inside, highest))


def pointing_chance(masks: Masks, tolerance: float = 0.0) -> PerMap:
    """Return the share of sites that would be hits, `float64 [n]`: the pointing game of a site drawn at random."""
    return _widened(masks, tolerance).mean(axis=(1, 2))


def pointing_prior(masks: Masks, classes: Int64) -> PerMap:
    """Return the pointing game of a map that knows the class alone, `float64 [n]` in [0, 1].

    It points at the sites that are true oftenest in the class's other masks: what a map must beat to say more of its
    image than where the finding usually is. The only mask of a class has no others and counts as a miss.

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

    As many sites as are true, so that the measure reads the order of the sites alone, whatever a map's scale. Of sites
    that tie for the last places, each counts by the same share.

    Raises:
        ValueError: for shapes that differ or an empty mask.
    """
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
    """Return the share of each map's energy inside its mask over the mask's share of the sites, `float64 [n]`.

    The energy-based pointing game (Wang et al. 2020, Score-CAM, section 4.3), divided by what a map without any
    preference would get: 1 is chance, 2 twice as much as that. Values below 0 have no energy; a map without any has 0.

    Raises:
        ValueError: for shapes that differ or an empty mask.
    """
    values, inside = _flat(maps, masks)
    energy = np.where(_is_constant(values)[:, None], 0.0, values.clip(min=0).astype(np.float64))
    return _share(energy * inside, energy) / inside.mean(axis=1)


def _flat(maps: Float32, masks: Masks) -> tuple[Float32, Masks]:
    """Return maps and masks as `[n, h * w]`."""
    if maps.ndim != 3 or maps.shape != masks.shape:
        raise ValueError(f"maps and masks: want [n, h, w] twice, got {list(maps.shape)} and {list(masks.shape)}")
    if len(masks) and not masks.any(axis=(1, 2)).all():
        where = int(np.argmin(masks.any(axis=(1, 2))))
        raise ValueError(f"masks: number {where} is empty, no map can be right; leave such pairs out")
    n_sites = maps.shape[1] * maps.shape[2]
    return maps.reshape(len(maps), n_sites), masks.reshape(len(masks), n_sites)


def _is_constant(values: Float32) -> Masks:
    return values.max(axis=1) == values.min(axis=1)


def _share(part: npt.NDArray, whole: npt.NDArray) -> PerMap:
    """Return the row sums of `part` over those of `whole`; 0 where there is nothing."""
    total = whole.sum(axis=1, dtype=np.float64)
    return np.divide(part.sum(axis=1, dtype=np.float64), total, out=np.zeros(len(total)), where=total > 0)


def _widened(masks: Masks, tolerance: float) -> Masks:
    """Return the sites within `tolerance` of a true one."""
    if tolerance == 0:
        return masks
    from scipy import ndimage

    reach = int(tolerance)
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    disc = np.hypot(y, x) <= tolerance
    return np.asarray(ndimage.binary_dilation(masks, structure=disc[None]), dtype=bool)
