"""Decide which classes are head and which are tail: by name, or the rarest in train."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bench.errors import DataError, listed, nearest
from bench.tables import Float32, Int64


def head_and_tail(
    where: str,
    names: Sequence[str],
    labels: Float32,
    splits: Int64 | None,
    head: Sequence[str] | None,
    tail: Sequence[str] | None,
    n_tail: int | None,
) -> tuple[list[str], list[str]]:
    """Return the names of the head and of the tail classes, in column order.

    Args:
        where: the source of the labels, for messages.
        names: the classes.
        labels: `float32 [n, C]`, 0, 1 or NaN.
        splits: `int64 [n]`, the official split with 0 for train, or None.
        head: the head classes; None: all that are not in the tail.
        tail: the tail classes; None: the `n_tail` rarest.
        n_tail: how many of the rarest classes are tail; None: half of them.

    Raises:
        DataError: for a name that is not a class, a class in both, or a tail that leaves no head.
    """
    for name in (*(head or ()), *(tail or ())):
        if name not in names:
            raise DataError(f"{where}: no class '{name}'{nearest(name, names)} (have: {listed(names)})")
    # Which classes are tail is a decision about the training, so it must not depend on the labels of val and test.
    # Without an official split all labels count: the split is made later and gives each part its share of a class.
    trained = labels if splits is None else labels[splits == 0]
    rarest = np.argsort(np.nansum(trained, axis=0), kind="stable")[: n_tail or max(1, len(names) // 2)]
    in_tail = set(tail) if tail is not None else {names[i] for i in rarest}
    in_head = set(head) if head is not None else set(names) - in_tail
    if in_head & in_tail:
        raise DataError(f"{where}: {listed(in_head & in_tail)} in head and in tail; name each class once")
    if not in_head:
        raise DataError(f"{where}: all {len(names)} classes are tail; at least one must be head")
    return [n for n in names if n in in_head], [n for n in names if n in in_tail]
