"""Label policies: what a synthetic image is labelled as. The paper leaves it open, and its two releases differ.

Labels are `float32 [n, C]` in [0, 1], NaN for unknown (masked from the loss). Every policy serves every method, from
what a method's samples say of themselves: parents, target class, and two optional extras, see `LabelEvidence`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.tables import AugmentedSet, Float32, Int64

LabelPolicy = Literal["own", "union", "target_only", "released", "area", "teacher"]
PARENT_SHARE, CLAIMED_CLASS = "parent_share", "claimed_class"


@dataclass(frozen=True)
class LabelEvidence:
    """What the policies decide from.

    Attributes:
        own: `float32 [n, C]`, what the method itself says.
        parents: `float32 [n, p, C]`, observed labels of the parents; of a parent that is missing (-1) any value.
        present: `bool [n, p]`, which parents there are.
        share: `float32 [n, p]`, each parent's share of the image (extra `parent_share`); equal ones by default.
        target: `int64 [n]`, the class that a sample was made for.
        claimed: `int64 [n]`, the class that the method takes it to be of (extra `claimed_class`), -1 for none;
            the target by default.
    """

    own: Float32
    parents: Float32
    present: npt.NDArray[np.bool_]
    share: Float32
    target: Int64
    claimed: Int64

    @classmethod
    def of(cls, samples: AugmentedSet, train_labels: Float32) -> LabelEvidence:
        """Gather the evidence of a finished set; `train_labels` are `float32 [n_train, C]`."""
        parents = np.asarray(samples.parents)
        present = parents >= 0
        share = samples.extras.get(PARENT_SHARE)
        if share is None:
            share = present / np.maximum(np.sum(present, axis=1, keepdims=True), 1)
        target = np.asarray(samples.target_class)
        return cls(
            own=np.asarray(samples.labels),
            parents=train_labels[parents],
            present=present,
            share=np.where(present, share, 0).astype(np.float32),
            target=target,
            claimed=np.asarray(samples.extras.get(CLAIMED_CLASS, target)),
        )


def assign(policy: LabelPolicy, evidence: LabelEvidence, taught: Float32 | None = None) -> Float32:
    """Return labels `float32 [n, C]` under a policy.

    `own`: what the method says. `union`: the classes of any parent; unknown where none has the class and one is unknown
    (first release). `target_only`: the target class is there, all else unknown. `released`: the class that the method
    takes the sample to be of, all else absent (last release: +1 and -1). `area`: the parents' labels weighed by their
    shares of the image. `teacher`: `taught`, the probabilities of a classifier trained on real images alone.
    A sample without parents keeps its own labels under `union` and `area`.

    Raises:
        ValueError: if `teacher` is asked for without `taught`.
    """
    if policy == "own":
        return evidence.own
    if policy == "teacher":
        if taught is None:
            raise ValueError("policy 'teacher' needs the teacher's probabilities")
        return taught.astype(np.float32)
    if policy == "target_only":
        return _hot(evidence.target, evidence.own.shape, np.nan)
    if policy == "released":
        return _hot(evidence.claimed, evidence.own.shape, 0.0)
    from_parents = _union(evidence) if policy == "union" else _area(evidence)
    has_parents = np.any(evidence.present, axis=1, keepdims=True)
    return np.where(has_parents, from_parents, evidence.own).astype(np.float32)


def _hot(classes: Int64, shape: tuple[int, ...], elsewhere: float) -> Float32:
    labels = np.full(shape, elsewhere, dtype=np.float32)
    there = np.flatnonzero(classes >= 0)
    labels[there, classes[there]] = 1
    return labels


def union(parents: Float32, present: npt.NDArray[np.bool_] | None = None) -> Float32:
    """Return the union over axis 1 of `float32 [n, p, C]`: 1 where any is, else NaN where any is, else the highest."""
    known: Float32 = parents if present is None else np.where(present[:, :, None], parents, np.float32(0))
    return np.where(np.any(known == 1, axis=1), 1, known.max(axis=1)).astype(np.float32)


def _union(evidence: LabelEvidence) -> Float32:
    return union(evidence.parents, evidence.present)


def _area(evidence: LabelEvidence) -> Float32:
    # a share of zero hides an unknown label: 0 * NaN would not
    weighed = np.where(evidence.share[:, :, None] > 0, evidence.share[:, :, None] * evidence.parents, 0)
    return weighed.sum(axis=1).clip(0, 1)  # shares add up to 1 but for rounding
