"""The loss that trains multi-label classifiers when some labels are unknown."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def masked_bce(logits: Tensor, labels: Tensor, weights: Tensor | None = None, positive: Tensor | None = None) -> Tensor:
    """Return the binary cross-entropy, averaged over the known entries (0 if no entry is known).

    Args:
        logits: `[b, C]`.
        labels: `[b, C]` in [0, 1], soft labels allowed. An entry that is NaN is unknown and adds neither loss nor
            gradient.
        weights: `[b]`, a factor on each sample's loss; None = 1.
        positive: `[C]`, a factor on the positive part of each class's loss; None = 1.
    """
    known = ~labels.isnan()
    # NaN has to be replaced before the loss. Masking the loss alone gives 0 * NaN, which is NaN, in the gradient.
    target = torch.where(known, labels, 0.0)
    losses = functional.binary_cross_entropy_with_logits(logits, target, pos_weight=positive, reduction="none")
    if weights is not None:
        losses = losses * weights[:, None]
    return torch.where(known, losses, 0.0).sum() / known.sum().clamp(min=1)
