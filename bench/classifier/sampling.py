"""Which training images a batch is drawn from: each once an epoch, or images of rare classes more often."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bench import seeds
from bench.classifier.recipe import Sampler
from bench.tables import Float32, Int64


def rarest_class(labels: Float32, counts: Float32) -> Int64:
    """Return the group of each image, `int64 [n]`: the rarest class that it has, or C for an image without any.

    Args:
        labels: `float32 [n, C]`; a class is there if its label is at least 0.5.
        counts: `float32 [C]`, the positives of each class. Of equally rare classes the first is taken.
    """
    there = np.nan_to_num(labels) >= 0.5
    rarity = np.where(there, counts[None], np.inf)
    return np.where(there.any(axis=1), rarity.argmin(axis=1), labels.shape[1]).astype(np.int64)


def draw_probabilities(groups: Int64, sampler: Sampler) -> npt.NDArray[np.float64]:
    """Return the probability of each image in a draw, `float64 [n]`.

    With `class_balanced` all groups that have images are equally likely, and with `square_root` a group of n images has
    a probability in proportion to the square root of n (Kang et al. 2020, eq. 1 with q = 0 and q = 1/2).
    """
    sizes = np.bincount(groups)[groups].astype(np.float64)
    weights = 1 / (sizes if sampler == "class_balanced" else np.sqrt(sizes))
    return weights / weights.sum()


def drawn(groups: Int64, sampler: Sampler, seed: int, name: str, epoch: int) -> Int64:
    """Return the places that an epoch takes, `int64 [n]`, drawn with replacement."""
    if not len(groups):
        return np.zeros(0, np.int64)
    rng = seeds.rng(seed, "sampler", name, epoch)
    return rng.choice(len(groups), len(groups), p=draw_probabilities(groups, sampler)).astype(np.int64)


def occurrence(order: Int64, start: int, stop: int) -> Int64:
    """Return for each place from `start` to `stop` how often its row stands before it in `order`, `int64 [k]`."""
    return np.array([np.count_nonzero(order[:i] == order[i]) for i in range(start, stop)], np.int64)
