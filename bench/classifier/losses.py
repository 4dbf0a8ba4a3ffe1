"""The losses that a recipe can name. Unknown labels (NaN) add neither loss nor gradient."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.ops import sigmoid_focal_loss

from bench.classifier.recipe import SOFT_LOSSES, Asymmetric, Bce, ClassBalanced, Focal, Loss
from bench.errors import ConfigError
from bench.metrics.losses import masked_bce
from bench.tables import Float32

# (logits [b, C], labels [b, C], weights [b], share of the steps that are done) -> the mean loss of the known entries
LossFunction = Callable[[Tensor, Tensor, Tensor, float], Tensor]


def loss_function(loss: Loss, labels: Float32, positive: Tensor | None, device: str) -> LossFunction:
    """Return the function that computes a loss.

    Args:
        loss: the settings.
        labels: `float32 [n, C]`, those of the real train rows. Their positives are the counts of the classes.
        positive: `[C]`, a factor on the positive part of each class's loss, for `bce`; None = 1.
        device: where the function is used.
    """
    counts = np.nansum(labels, axis=0)
    if isinstance(loss, Bce):
        return lambda logits, target, weights, share: masked_bce(logits, target, weights, positive)
    if isinstance(loss, Focal):
        return _masked(lambda z, y: sigmoid_focal_loss(z, y, loss.alpha, loss.gamma))
    if isinstance(loss, Asymmetric):
        return _masked(lambda z, y: asymmetric(z, y, loss.gamma_positive, loss.gamma_negative, loss.margin))
    balance = torch.from_numpy(effective_weights(counts, loss.beta)).to(device)
    if isinstance(loss, ClassBalanced):
        return _masked(_bce, balance)
    margins = torch.from_numpy(ldam_margins(counts, loss.max_margin)).to(device)
    return _masked(lambda z, y: _bce(z - margins * y, y), balance, loss.reweight_from)


def refuse_soft_labels(loss: Loss, labels: Float32, which: str) -> None:
    """Refuse labels between 0 and 1 for a loss that is not defined for them.

    Raises:
        ConfigError: with the number of such images and the first such label. `which` says whose labels they are.
    """
    soft = (labels > 0) & (labels < 1)
    if soft.any() and not isinstance(loss, SOFT_LOSSES):
        found = f"{int(soft.any(axis=1).sum()):,} {which} images have others (first: {labels[soft][0]:.3g})"
        raise ConfigError(
            f"classifier.loss: {loss.kind} is defined for labels of 0 and 1, and {found}; use bce or "
            "class_balanced, or a label policy of 0 and 1"
        )


def effective_weights(counts: Float32, beta: float) -> Float32:
    """Return the weight of each class, `float32 [C]`, with mean 1: the inverse of its effective number of positives.

    The effective number of n positives is (1 - beta^n) / (1 - beta) (Cui et al. 2019, eq. 2). A class without positives
    counts as one with a single one. Every entry of a class's column, positive or negative, gets the class's weight.
    """
    n = np.maximum(counts, 1).astype(np.float64)
    weights = 1 / -np.expm1(n * math.log(beta)) if beta > 0 else np.ones_like(n)
    return (weights * len(weights) / weights.sum()).astype(np.float32)


def ldam_margins(counts: Float32, max_margin: float) -> Float32:
    """Return the margin of each class, `float32 [C]`: in proportion to n^(-1/4), the largest is `max_margin`.

    This is eq. 12 of Cao et al. 2019. A class without positives counts as one with a single one.
    """
    margins = np.maximum(counts, 1).astype(np.float64) ** -0.25
    return (margins * (max_margin / margins.max())).astype(np.float32)


def asymmetric(logits: Tensor, labels: Tensor, gamma_positive: float, gamma_negative: float, margin: float) -> Tensor:
    """Return the asymmetric loss of every entry, `[b, C]` (Ridnik et al. 2021, eq. 5 to 7).

    For a positive it is -(1 - p)^gamma_positive log p, for a negative -q^gamma_negative log(1 - q) with
    q = max(p - margin, 0).

    Args:
        logits: `[b, C]`.
        labels: `[b, C]`, 0 or 1.
        gamma_positive: focus on positives.
        gamma_negative: focus on negatives.
        margin: how much the probability of a negative is lowered.
    """
    p = torch.sigmoid(logits)
    # A power below 1 has an infinite slope at 0, and infinity times the slope of the clamp, 0, would be NaN.
    least = torch.finfo(p.dtype).tiny
    missed, shifted = (1 - p).clamp(min=least), (p - margin).clamp(min=least)
    # Without a margin, 1 - q may round to 0, so its logarithm is taken from the logit.
    log_negative = torch.log1p(-shifted) if margin > 0 else functional.logsigmoid(-logits)
    positive = missed**gamma_positive * functional.logsigmoid(logits)
    negative = shifted**gamma_negative * log_negative
    return -torch.where(labels == 1, positive, negative)


def _bce(logits: Tensor, labels: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, labels, reduction="none")


def _masked(
    entries: Callable[[Tensor, Tensor], Tensor], classes: Tensor | None = None, from_share: float = 0.0
) -> LossFunction:
    """Return a loss as the mean over known entries, times the weights of samples and, from a share on, of classes."""

    def loss(logits: Tensor, labels: Tensor, weights: Tensor, share: float) -> Tensor:
        known = ~labels.isnan()
        # NaN has to be replaced before the loss, as in `masked_bce`.
        found = entries(logits, torch.where(known, labels, 0.0)) * weights[:, None]
        if classes is not None and share >= from_share:
            found = found * classes
        return torch.where(known, found, 0.0).sum() / known.sum().clamp(min=1)

    return loss
