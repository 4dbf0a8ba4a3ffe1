"""Average precision of each class on the observed labels, and its means over the head, the tail and all classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from bench.tables import Float32


def average_precision(scores: Float32, labels: Float32) -> list[float | None]:
    """Return the step-wise average precision of each class, or None for a class without a positive.

    AP = sum over thresholds of (R_k - R_{k-1}) P_k, without interpolation (as scikit-learn does).

    Args:
        scores: `float32 [n, C]`, higher means more likely; any monotone scale.
        labels: `float32 [n, C]`, 0 or 1; entries that are NaN (unknown) are left out.
    """
    import torch
    from torchmetrics.functional.classification import binary_average_precision

    found: list[float | None] = []
    for c in range(labels.shape[1]):
        known = ~np.isnan(labels[:, c])
        target = labels[known, c] == 1
        if not target.any():
            found.append(None)
            continue
        # torchmetrics applies a sigmoid to scores outside [0, 1]. Where it saturates, different scores become equal and
        # the result changes. Ranks scaled to [0, 1] keep the order and the ties exactly as they are.
        ranks = np.unique(scores[known, c], return_inverse=True)[1]
        unit = torch.from_numpy(ranks / max(ranks.max(), 1))
        found.append(float(binary_average_precision(unit, torch.from_numpy(target).long())))
    return found


def mean_over(values: Mapping[str, float | None], names: Iterable[str]) -> float | None:
    """Return the mean of the named values that are not None, or None if there is no such value."""
    there = [v for name in names if (v := values[name]) is not None]
    return float(np.mean(there)) if there else None


def means(
    prefix: str, values: Mapping[str, float | None], head: Sequence[str], tail: Sequence[str]
) -> dict[str, float | None]:
    """Return `<prefix>_head`, `<prefix>_tail` and `<prefix>_all`: means in which all classes have equal weight."""
    groups = {"head": head, "tail": tail, "all": list(values)}
    return {f"{prefix}_{group}": mean_over(values, names) for group, names in groups.items()}
