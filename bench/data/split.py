"""Split a data set into train, val and test by patient: by its official split, or else by stratification."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from bench import seeds
from bench.data.dataset import Dataset, KnownLabels
from bench.errors import DataError
from bench.pipeline.settings import Settings
from bench.pipeline.stage import Stage, Work
from bench.tables import Float32, ImageRows, ImageTable, Int64, TrainSet

PARTS = ("train", "val", "test")
Part = Literal["train", "val", "test"]


class SplitSettings(Settings):
    """How a data set is split. If it has an official split, only `min_positives` is used."""

    val: float = Field(0.2, gt=0, lt=1, description="share of images for model selection")
    test: float = Field(
        0.3, gt=0, lt=1, description="share of images for the scores and, with val, the reference of FID and KID"
    )
    seed: int = 0
    min_positives: int = Field(3, ge=1, description="fewest positives that every class must have in every part")

    @model_validator(mode="after")
    def _leaves_something(self) -> SplitSettings:
        """Refuse shares that leave no images to train on."""
        if self.val + self.test >= 1:
            raise ValueError(f"val and test leave nothing to train on ({self.val} + {self.test})")
        return self


class Split(Stage):
    """The row numbers of the three parts. No patient is in two of them."""

    dataset: Dataset
    settings: SplitSettings = SplitSettings()

    def compute(self, work: Work) -> None:
        """Write `part.npy`: `int64 [n]`, 0 train, 1 val, 2 test."""
        table: ImageTable = work.get(self.dataset)
        np.save(work.out / "part.npy", checked_parts(table, self.settings).astype(np.int64))

    def open(self, folder: Path) -> dict[str, Int64]:
        """Return the row numbers of each part, as a mapping from its name."""
        part = np.load(folder / "part.npy")
        return {name: np.flatnonzero(part == i) for i, name in enumerate(PARTS)}


def checked_parts(table: ImageTable | KnownLabels, settings: SplitSettings) -> Int64:
    """Return the part of every row, `int64 [n]`: the official split, or else the one that `stratify` makes.

    Raises:
        DataError: if the split cannot be used; see `check`.
    """
    part = assign_parts(table, settings)
    check(part, table, settings.min_positives)
    return part


def assign_parts(table: ImageTable | KnownLabels, settings: SplitSettings) -> Int64:
    """Return the part of every row like `checked_parts`, but without checking that the split can be used."""
    return table.splits if table.splits is not None else stratify(table.labels, table.patients, settings)


def stratify(labels: Float32, patients: Int64, settings: SplitSettings) -> Int64:
    """Return a part for every row, `int64 [n]`, so that every class has the shares of `settings` in the parts.

    This is iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011) over patients. It takes the class with the
    fewest positives left, and gives each of its patients to the part that lacks most positives of that class.
    """
    # Whole patients are dealt, because two images of one patient in train and test would let a classifier recognise the
    # patient. The rarest class goes first: while all patients are still free, its few positives can be spread well. At
    # random, a class with ten positives would often have none in val.
    ids, inverse = np.unique(patients, return_inverse=True)
    positives = np.zeros((len(ids), labels.shape[1] + 1))
    np.add.at(positives[:, :-1], inverse, np.nan_to_num(labels))
    np.add.at(positives[:, -1], inverse, 1)  # the last column counts images, so that the sizes of parts come out right
    shares = np.array([1 - settings.val - settings.test, settings.val, settings.test])
    wanted = shares[:, None] * positives.sum(axis=0)
    order = seeds.rng(settings.seed, "split").permutation(len(ids))
    part = np.full(len(ids), -1)
    open_ = np.ones(len(ids), dtype=bool)
    while open_.any():
        left = positives[open_].sum(axis=0)
        rarest = int(np.argmin(np.where(left > 0, left, np.inf)))
        for patient in order[open_[order] & (positives[order, rarest] > 0)]:
            best = max(range(3), key=lambda p: (wanted[p, rarest], wanted[p, -1]))
            part[patient] = best
            wanted[best] -= positives[patient]
            open_[patient] = False
    return part[inverse]


def check(part: Int64, table: ImageTable | KnownLabels, min_positives: int) -> None:
    """Refuse a split in which a patient is in two parts, a part is empty, or a class lacks positives or negatives.

    Raises:
        DataError: if the split is refused. The message names the patient, or the class and the part, and says what is
            there and what to change.
    """
    pairs = np.unique(np.stack([table.patients, part], axis=1), axis=0)
    ids, counts = np.unique(pairs[:, 0], return_counts=True)
    if (counts > 1).any():
        raise DataError(f"split: patient {ids[counts > 1][0]} has images in more than one part; split by patient")
    rows = [part == i for i in range(len(PARTS))]
    for name, mine in zip(PARTS, rows, strict=True):
        if not mine.any():
            raise DataError(f"split: {name} is empty; {_why_empty(table, len(ids))}")
    for name, mine in zip(PARTS, rows, strict=True):
        _check_positives(name, np.nansum(table.labels[mine], axis=0), table, min_positives)
    for name, mine in zip(PARTS, rows, strict=True):
        without = np.flatnonzero(~(table.labels[mine] == 0).any(axis=0))
        if len(without):  # with positives only, every classifier has an average precision of 1
            raise DataError(
                f"split: class '{table.class_names[without[0]]}' has no negative in {name}; leave out columns that are "
                "not classes; if the file marks only positives, say in the data set's settings 'blank: negative'"
            )


def _why_empty(table: ImageTable | KnownLabels, n_patients: int) -> str:
    if table.splits is not None:
        return "the official split must have images in train, val and test"
    if n_patients < len(PARTS):
        return f"{n_patients} patients cannot fill train, val and test"
    return f"use more images, or larger split.val and split.test ({len(table.labels)} images, {n_patients} patients)"


def _check_positives(name: str, found: Float32, table: ImageTable | KnownLabels, min_positives: int) -> None:
    short = int(np.argmin(found))
    if found[short] >= min_positives:
        return
    positive = table.labels[:, short] == 1
    n_patients = len(np.unique(table.patients[positive]))
    in_all = f"{positive.sum()} in all, of {n_patients} patient{'s'[: n_patients != 1]}"
    others = int((found < min_positives).sum()) - 1
    raise DataError(
        f"split: class '{table.class_names[short]}' has {int(found[short])} positives in {name}, "
        f"split.min_positives asks for {min_positives} ({in_all}); use more images, leave the class out, or lower it"
        + (f"; {others} more classes are short" if others else "")
    )


class Train(Stage):
    """The train split as methods see it. No image of val or test can be reached through it."""

    split: Split

    def size(self) -> int | None:
        """Return the number of train images: that of the official split, or else the share that the settings leave."""
        found = self.split.dataset.known_size()
        if found is None:
            return None
        settings = self.split.settings
        return (
            found.n_train if found.n_train is not None else round(found.n_images * (1 - settings.val - settings.test))
        )

    def compute(self, work: Work) -> None:
        """Write the row numbers and labels of the train split. The images stay in the data set's memory map."""
        table, rows = work.get(self.split.dataset), work.get(self.split)["train"]
        np.save(work.out / "rows.npy", rows)
        np.save(work.out / "labels.npy", table.labels[rows])


def train_set(work: Work, train: Train) -> TrainSet:
    """Return the opened train split. Its images are a view of the data set's memory map."""
    folder: Path = work.get(train)
    table: ImageTable = work.get(train.split.dataset)
    return TrainSet(
        images=ImageRows(table.images, np.load(folder / "rows.npy")),
        labels=np.load(folder / "labels.npy"),
        class_names=table.class_names,
        head=table.head,
        tail=table.tail,
    )


def part_rows(work: Work, split: Split, part: Part) -> tuple[ImageRows, Float32, Int64]:
    """Return the images of one part, their observed labels `float32 [n, C]`, and their data-set rows `int64 [n]`.

    Methods must not use this: they may only see the train split.
    """
    table: ImageTable = work.get(split.dataset)
    rows = work.get(split)[part]
    return ImageRows(table.images, rows), table.labels[rows], rows
