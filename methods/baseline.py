"""Baseline: train on the real images only. This is the control in every table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from bench.contract import AugmentedBatch, Context, Method


class Baseline(Method):
    """Train on the real images only: no synthetic images are made."""

    name: ClassVar[str] = "baseline"
    makes_images: ClassVar[bool] = False

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield nothing."""
        yield from ()
