"""What a fused image is labelled as: the policies that the paper leaves open."""

from __future__ import annotations

from typing import Literal

import numpy as np

from bench.types import Float32, Int64

LabelPolicy = Literal["union", "target_only", "one_hot", "area"]


def union(anchor: Float32, partner: Float32) -> Float32:
    """Return the union of two rows of labels, `float32 [b, C]`; NaN where neither is 1 and one is unknown."""
    return np.where((anchor == 1) | (partner == 1), np.float32(1), anchor + partner)


def assign(policy: LabelPolicy, anchor: Float32, partner: Float32, target_class: Int64, share_tail: Float32) -> Float32:
    """Return labels `float32 [b, C]` in [0, 1], NaN for unknown, under a policy.

    `union`: the classes of either parent (the first release). `target_only`: the target class; all else unknown.
    `one_hot`: the target class; all else absent (the last release). `area`: each parent's labels by its share of the
    mask.

    Args:
        policy: one of the above.
        anchor: `float32 [b, C]` labels of the anchors.
        partner: `float32 [b, C]` labels of the partners.
        target_class: `int64 [b]`.
        share_tail: `float32 [b]`, share of sites taken from the anchor.
    """
    if policy == "union":
        return union(anchor, partner).astype(np.float32)
    if policy == "area":
        share = share_tail[:, None]
        return (share * anchor + (1 - share) * partner).astype(np.float32)
    labels = np.full(anchor.shape, np.nan if policy == "target_only" else 0.0, dtype=np.float32)
    labels[np.arange(len(labels)), target_class] = 1
    return labels
