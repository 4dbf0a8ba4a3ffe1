"""MLSMOTE (Charte, Rivera, del Jesus & Herrera 2015): SMOTE for images with several labels.

Images are made as `smote` makes them; only the labels differ. They are asked of the whole neighbourhood of the base
image, and not of the two parents alone. What is from the paper:

- Base and neighbours are images of the target class, and the neighbours are the nearest of these.
- The three rules for labels. The paper's experiments chose `ranking`.

What differs:

- The classes to augment are the tail classes, and the plan says how many samples each of them gets. The paper
  augments every class that is rarer than the mean imbalance, with one sample for each image of the class.
- A sample has one random step for all pixels, as in imbalanced-learn's SMOTE. The paper draws a step for each feature,
  which would mix the parents pixel by pixel.
- Labels may be unknown. The paper knows them all.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.contract import Float32, Int64, TrainSet
from methods.smote import Smote

LabelRule = Literal["ranking", "union", "intersection"]


class Mlsmote(Smote):
    """Interpolate like `smote`, and label each sample by a vote of its base image and the base's nearest neighbours.

    All of these images have the target class, so every rule gives it to the sample. A sample of a class with a single
    train image is a copy and has the labels of that image.
    """

    name: ClassVar[str] = "mlsmote"

    label_rule: LabelRule = Field(
        "ranking",
        description="a label is given if at least half of the base and its neighbours have it (ranking), any of them "
        "(union), or all of them (intersection)",
    )

    def _labels(self, train: TrainSet, parents: Int64, around: list[Int64]) -> Float32:
        """Return the labels that the neighbourhoods vote for, `float32 [b, C]`."""
        return np.stack([vote(train.labels[rows], self.label_rule) for rows in around])


def vote(labels: Float32, rule: LabelRule) -> Float32:
    """Return the labels that voters give to a sample, `float32 [C]`: 1, 0, or NaN (unknown).

    An unknown label could be a vote for or against. So a label is 1 if the known votes for it are enough, 0 if they
    would not be enough even with all unknown ones, and otherwise unknown.

    Args:
        labels: `float32 [n, C]`, the labels of the voters: 1, 0 or NaN.
        rule: how many votes are enough: half of n (`ranking`), one (`union`) or n (`intersection`).
    """
    enough = {"ranking": len(labels) / 2, "union": 1, "intersection": len(labels)}[rule]
    votes = (labels == 1).sum(axis=0)
    possible = votes + np.isnan(labels).sum(axis=0)
    return np.where(votes >= enough, 1, np.where(possible >= enough, np.nan, 0)).astype(np.float32)
