"""Draws in which rare classes come more often: which class an image counts for, and how likely each image is."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.tables import Float32, Int64

Balance = Literal["class_balanced", "square_root"]


def rarest_class(labels: Float32, counts: Float32) -> Int64:
    """Return the group of each image, `int64 [n]`: the rarest class that it has, or C for an image without any.

    Args:
        labels: `float32 [n, C]`; a class is there if its label is at least 0.5.
        counts: `float32 [C]`, the positives of each class. Of equally rare classes the first is taken.
    """
    there = np.nan_to_num(labels) >= 0.5
    rarity = np.where(there, counts[None], np.inf)
    return np.where(there.any(axis=1), rarity.argmin(axis=1), labels.shape[1]).astype(np.int64)


def draw_probabilities(groups: Int64, balance: Balance) -> npt.NDArray[np.float64]:
    """Return the probability of each image in a draw, `float64 [n]`.

    With `class_balanced` all groups that have images are equally likely, and with `square_root` a group of n images has
    a probability in proportion to the square root of n (Kang et al. 2020, eq. 1 with q = 0 and q = 1/2).
    """
    sizes = np.bincount(groups)[groups].astype(np.float64)
    weights = 1 / (sizes if balance == "class_balanced" else np.sqrt(sizes))
    return weights / weights.sum()
