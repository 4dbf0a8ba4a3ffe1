"""Relabels a finished augmented set under a policy: the images are shared by all policies."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from bench.augment import Augmented
from bench.classifier import Classifier
from bench.labelling import LabelEvidence, LabelPolicy, assign
from bench.split import train_set
from bench.stage import Resources, Stage, inert
from bench.types import AugmentedSet, Float32

if TYPE_CHECKING:
    from bench.cost import Cost, Sizes


class Labelled(Stage):
    """Labels of an augmented set under a policy.

    `teacher` is the cell's control: the classifier trained with the same seed on real images alone, the weights that
    val chose. It is there for the policy `teacher` only, so that no other policy waits for it.
    """

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=5)

    augmented: Augmented
    policy: LabelPolicy
    teacher: Classifier | None = None

    def compute(self, work: Any) -> None:
        """Write `labels.npy`, `float32 [n, C]`."""
        samples: AugmentedSet = work.get(self.augmented)
        taught = None
        if self.teacher is not None:
            taught = np.zeros_like(samples.labels)
            if len(samples):
                work.progress(0, 1, "teacher")
                taught = work.get(self.teacher).predict(samples.images, work.device)
        evidence = LabelEvidence.of(samples, train_set(work, self.augmented.train).labels)
        np.save(work.out / "labels.npy", assign(self.policy, evidence, taught))
        work.progress(1, 1, "labelled")

    def open(self, folder: Path) -> Float32:
        """Return the labels."""
        return np.load(folder / "labels.npy")

    @inert
    def cost(self, sizes: Sizes) -> Cost:
        """Return the teacher's pass over the synthetic images, where there is a teacher."""
        from bench.cost import Cost

        train = sizes.train(self.augmented.train)
        n, n_classes = sizes.samples(self.augmented.plan, self.augmented.train), len(train.class_names)
        network = self.teacher.settings.flops(n_classes, train.images.image_px) if self.teacher else None
        return Cost(
            flop=n * network.forward if network else 0.0, host=1000.0 * n, bytes=4.0 * n * n_classes, what=self.policy
        )
