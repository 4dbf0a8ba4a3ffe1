"""The loss of multi-label classifiers whose labels may be unknown."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_bce(logits: Tensor, labels: Tensor, weights: Tensor | None = None, positive: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy averaged over the known entries (0 if none is known).

    Args:
        logits: `[b, C]`.
        labels: `[b, C]` in [0, 1], soft ones allowed; NaN = unknown, contributes neither loss nor gradient.
        weights: `[b]`, factor on each sample's loss; None = 1.
        positive: `[C]`, factor on the positive part of each class's loss; None = 1.
    """
    known = ~labels.isnan()
    target = torch.where(known, labels, 0.0)  # before the loss: 0 * NaN would be NaN in the gradient
    losses = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=positive, reduction="none")
    if weights is not None:
        losses = losses * weights[:, None]
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)
