"""Baseline: the original training set, nothing added. The control of every table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from bench.contract import AugmentedBatch, Context, Method


class Baseline(Method):
    """Add nothing."""

    name: ClassVar[str] = "baseline"
    makes_images: ClassVar[bool] = False

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield nothing."""
        yield from ()
