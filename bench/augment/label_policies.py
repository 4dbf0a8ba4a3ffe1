"""Label policies decide which labels a synthetic image gets. The paper does not say, and its two releases differ.

Labels are `float32 [n, C]` in [0, 1]; NaN means unknown and is masked from the loss. Every policy works with every
method, because it uses only what is stored with each sample: parents, target class and two optional extras (see
`LabelEvidence`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.data.exclusions import without_contradictions
from bench.tables import AugmentedSet, Float32, Int64

LabelPolicy = Literal["own", "union", "target_only", "released", "area", "teacher"]
SOFT_POLICIES = ("area", "teacher")  # whose labels can lie between 0 and 1
PARENT_SHARE, CLAIMED_CLASS = "parent_share", "claimed_class"


@dataclass(frozen=True)
class LabelEvidence:
    """The facts about each sample that the policies decide from.

    Attributes:
        own: `float32 [n, C]`, the labels that the method itself gives.
        parents: `float32 [n, p, C]`, the observed labels of the parents; arbitrary values for a missing parent (-1).
        present: `bool [n, p]`, True where the parent exists.
        share: `float32 [n, p]`, each parent's share of the image (extra `parent_share`); equal shares by default.
        target: `int64 [n]`, the class that the sample was made for.
        claimed: `int64 [n]`, the class that the method says the sample shows (extra `claimed_class`), or -1; the
            target by default.
        excludes: `bool [C, C]`, which classes exclude which; None: no class excludes another.
    """

    own: Float32
    parents: Float32
    present: npt.NDArray[np.bool_]
    share: Float32
    target: Int64
    claimed: Int64
    excludes: npt.NDArray[np.bool_] | None = None

    @classmethod
    def of(
        cls, samples: AugmentedSet, train_labels: Float32, excludes: npt.NDArray[np.bool_] | None = None
    ) -> LabelEvidence:
        """Gather the evidence of a finished set, from `train_labels` `float32 [n_train, C]` and `TrainSet.excludes`."""
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
            excludes=excludes,
        )


def assign(policy: LabelPolicy, evidence: LabelEvidence, taught: Float32 | None = None) -> Float32:
    """Return labels `float32 [n, C]` under a policy.

    - `own`: the labels that the method gives.
    - `union`: a class is present if any parent has it, and unknown if no parent has it but one is unknown (the
      paper's first release).
    - `target_only`: the target class is present, every other class is unknown.
    - `released`: the claimed class is present, every other class is absent (the paper's last release, +1 and -1).
    - `area`: the mean of the parents' labels, weighted by their shares of the image.
    - `teacher`: `taught`, the probabilities of a classifier that was trained on real images only.

    Under `union` and `area` a sample without parents keeps the method's labels. Under every policy, a class that
    excludes others gives way to them: the union of "No Finding" and a finding is the finding alone.

    Raises:
        ValueError: if the policy is `teacher` and `taught` is None.
    """
    return without_contradictions(_assigned(policy, evidence, taught), evidence.excludes)


def _assigned(policy: LabelPolicy, evidence: LabelEvidence, taught: Float32 | None) -> Float32:
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


def union(
    parents: Float32,
    present: npt.NDArray[np.bool_] | None = None,
    excludes: npt.NDArray[np.bool_] | None = None,
) -> Float32:
    """Return the union over axis 1 of `float32 [n, p, C]`, as `float32 [n, C]`.

    It is 1 if any parent's label is 1, else NaN if any is NaN, else the highest label. Parents outside `present` are
    ignored. A class that excludes others (`TrainSet.excludes`) is 0 beside them.
    """
    known: Float32 = parents if present is None else np.where(present[:, :, None], parents, np.float32(0))
    merged = np.where(np.any(known == 1, axis=1), 1, known.max(axis=1)).astype(np.float32)
    return without_contradictions(merged, excludes)


def _union(evidence: LabelEvidence) -> Float32:
    return union(evidence.parents, evidence.present)


def _area(evidence: LabelEvidence) -> Float32:
    # A parent with a share of zero must not make the label unknown, but 0 * NaN would.
    weighed = np.where(evidence.share[:, :, None] > 0, evidence.share[:, :, None] * evidence.parents, 0)
    return weighed.sum(axis=1).clip(0, 1)  # Shares sum to 1 only up to rounding.
