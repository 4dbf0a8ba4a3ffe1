"""Duplicate: copies of real tail images, as many as other methods add.

This is the control that matters. A method that does not beat it gains from showing tail images more often, and not
from its synthetic images.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from bench.contract import AugmentedBatch, Context, Int64, Method, seeds


class Duplicate(Method):
    """Copy train images of the target class, with their observed labels; each one equally often (±1)."""

    name: ClassVar[str] = "duplicate"

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the copies. The parent of a sample is the train row that it copies."""
        rows = copied_rows(ctx)
        for index in ctx.batches(64):
            parents = rows[index]
            yield AugmentedBatch(ctx.train.images[parents], ctx.train.labels[parents], parents[:, None])


def copied_rows(ctx: Context) -> Int64:
    """Return the train row that each sample copies, `int64 [n]`.

    Every class goes through its rows in a random order, again and again, until it has enough samples.
    """
    rows = np.empty(len(ctx.samples), dtype=np.int64)
    for target in np.unique(ctx.samples):
        order = seeds.rng(ctx.seed, "order", int(target)).permutation(ctx.train.rows_with(target))
        wanted = ctx.samples == target
        rows[wanted] = np.resize(order, wanted.sum())
    return rows
