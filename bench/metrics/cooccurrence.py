"""Which findings occur together: how far the labels of one set of images are from those of another."""

from __future__ import annotations

import numpy as np

from bench.tables import Float32


def cooccurrence_gap(a: Float32, b: Float32, leaving_out: int) -> float | None:
    """Return the mean over classes of how much the shares of images with the class differ, in [0, 1].

    Give it the labels of images that all have one class: the shares of the others say what that class occurs with. 0
    means that every other class is as common beside it in one set as in the other.

    Args:
        a: `float32 [n, C]` in [0, 1]; NaN is unknown and does not count.
        b: `float32 [m, C]`, likewise.
        leaving_out: the column of the class that all images have.

    Returns:
        None if no other class is known on both sides.
    """
    others = [c for c in range(a.shape[1]) if c != leaving_out]
    known = [c for c in others if np.isfinite(a[:, c]).any() and np.isfinite(b[:, c]).any()]
    if not known:
        return None
    return float(
        np.mean([abs(np.nanmean(a[:, c], dtype=np.float64) - np.nanmean(b[:, c], dtype=np.float64)) for c in known])
    )
