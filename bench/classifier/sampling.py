"""Which training images a batch is drawn from: each once an epoch, or images of rare classes more often."""

from __future__ import annotations

import numpy as np

from bench import seeds
from bench.data.class_balance import Balance, draw_probabilities
from bench.tables import Int64


def drawn(groups: Int64, balance: Balance, seed: int, name: str, epoch: int) -> Int64:
    """Return the places that an epoch takes, `int64 [n]`, drawn with replacement."""
    if not len(groups):
        return np.zeros(0, np.int64)
    rng = seeds.rng(seed, "sampler", name, epoch)
    return rng.choice(len(groups), len(groups), p=draw_probabilities(groups, balance)).astype(np.int64)


def occurrence(order: Int64, start: int, stop: int) -> Int64:
    """Return for each place from `start` to `stop` how often its row stands before it in `order`, `int64 [k]`."""
    return np.array([np.count_nonzero(order[:i] == order[i]) for i in range(start, stop)], np.int64)
