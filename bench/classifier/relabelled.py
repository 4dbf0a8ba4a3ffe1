"""Relabels a finished set of synthetic images under a label policy, so that all policies share the images."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np

from bench.augment.augmented import Augmented
from bench.augment.label_policies import LabelEvidence, LabelPolicy, assign
from bench.classifier.classifier import Classifier
from bench.data.split import train_set
from bench.pipeline.stage import Resources, Stage, Work
from bench.tables import AugmentedSet, Float32


class Labelled(Stage):
    """The labels of a set of synthetic images under a label policy.

    `teacher` is the control of the cell: the classifier trained with the same seed on real images only, with the
    weights selected on val. It is set for the policy `teacher` only, so that no other policy has to wait for it.
    """

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=5)

    augmented: Augmented
    policy: LabelPolicy
    teacher: Classifier | None = None

    def size(self) -> int | None:
        """Return the number of synthetic images."""
        return self.augmented.size()

    def compute(self, work: Work) -> None:
        """Write `labels.npy`, `float32 [n, C]`."""
        samples: AugmentedSet = work.get(self.augmented)
        taught = None
        if self.teacher is not None:
            taught = np.zeros_like(samples.labels)
            if len(samples):
                work.progress(0, 1, "teacher")
                taught = work.get(self.teacher).predict(samples.images, work.device)
        train = train_set(work, self.augmented.train)
        evidence = LabelEvidence.of(samples, train.labels, train.excludes)
        np.save(work.out / "labels.npy", assign(self.policy, evidence, taught))
        work.progress(1, 1, "labelled")

    def open(self, folder: Path) -> Float32:
        """Return the labels."""
        return np.load(folder / "labels.npy")
