"""Duplicate: copies of real tail images, as many as a method would add. The control that matters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np

from bench.contract import AugmentedBatch, Context, Int64, Method, seeds


class Duplicate(Method):
    """Copy train images that have the target class, with their observed labels; every one equally often (±1)."""

    name: ClassVar[str] = "duplicate"

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the copies; a sample's parent is the row that it copies."""
        rows = copied_rows(ctx)
        for index in ctx.batches(64):
            parents = rows[index]
            yield AugmentedBatch(ctx.train.images[parents], ctx.train.labels[parents], parents[:, None])


def copied_rows(ctx: Context) -> Int64:
    """Return `int64 [n]`, the train row that each sample copies: each class goes round its rows in a drawn order."""
    rows = np.empty(len(ctx.samples), dtype=np.int64)
    for target in np.unique(ctx.samples):
        order = seeds.rng(ctx.seed, "order", int(target)).permutation(ctx.train.rows_with(target))
        wanted = ctx.samples == target
        rows[wanted] = np.resize(order, wanted.sum())
    return rows
