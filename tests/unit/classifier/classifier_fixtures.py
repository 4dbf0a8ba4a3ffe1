"""A cell over the toy data set, small enough to train in a second or two."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.augment.augmented import Augmented
from bench.classifier.classifier import Classifier
from bench.classifier.settings import ClassifierSettings
from bench.contract import AugmentedBatch, Context, Method, Plan
from bench.data.split import Split, SplitSettings, Train
from bench.pipeline import checkpoints
from bench.store.store import Store
from bench.store.work import Work
from bench.testing.toy import ToyDataset

FAST = {"architecture": "resnet18", "steps": 6, "batch_size": 8, "n_validations": 3}


class Twins(Method):
    """Copies of real images, so that distances and nearest neighbours are known."""

    name: ClassVar[str] = "twins"

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        for index in ctx.batches(8):
            rows = np.array([ctx.rng(i).choice(ctx.train.rows_with(ctx.samples[i])) for i in index])
            yield AugmentedBatch(ctx.train.images[rows], ctx.train.labels[rows], rows[:, None])


def cell(per_class: int = 0, seed: int = 0, n_images: int = 60, **settings: Any) -> Classifier:
    """Return the classifier stage of a cell; its fields lead to the rest."""
    split = Split(dataset=ToyDataset(n_images=n_images), settings=SplitSettings(min_positives=1))
    train = Train(split=split)
    augmented = Augmented(method=Twins(), train=train, plan=Plan(per_class=per_class), seed=0)
    chosen = FAST | settings
    if "epochs" in settings:
        chosen = {name: value for name, value in chosen.items() if name != "steps"}
    return Classifier(split=split, train=train, augmented=augmented, settings=ClassifierSettings(**chosen), seed=seed)


def interrupt_at(step: int, monkeypatch: Any, store: Store, stage: Classifier) -> Path:
    """Compute `stage` until its progress passes `step`; return the folder of its checkpoints."""
    seen: list[Path] = []

    def progress(work: Work, done: float, total: float, note: str = "") -> None:
        if note.startswith("train"):
            seen.append(work.ckpt)
            if done >= step:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "LEAST_SECONDS", 0.0)
        patch.setattr(Work, "progress", progress)
        try:
            store.get(stage)
        except KeyboardInterrupt:
            return seen[0]
    raise AssertionError("the training was over before it was interrupted")
