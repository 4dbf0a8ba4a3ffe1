"""Split a data set into train, val and test by patient: by its official split, or else by stratification."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, model_validator

from bench import seeds
from bench.data.dataset import Dataset, KnownLabels
from bench.data.held_out_pairs import Pair, check_pairs, has_any_pair, of_same_patients, pair_columns, refuse_official
from bench.errors import DataError
from bench.pipeline.settings import Settings
from bench.pipeline.stage import Stage, Work
from bench.tables import Float32, ImageRows, ImageTable, Int64, TrainSet

PARTS = ("train", "val", "test")
Part = Literal["train", "val", "test"]


class SplitSettings(Settings):
    """How a data set is split. If it has an official split, only `min_positives` and `min_patients` are used.

    With `held_out_pairs`, the shares are those of the images of all other patients.
    """

    val: float = Field(0.2, gt=0, lt=1, description="share of images for model selection")
    test: float = Field(
        0.3, gt=0, lt=1, description="share of images for the scores and, with val, the reference of FID and KID"
    )
    seed: int = 0
    min_positives: int = Field(3, ge=1, description="fewest positives that every class must have in every part")
    min_patients: int = Field(1, ge=1, description="fewest patients with a positive, of every class in every part")
    held_out_pairs: tuple[Pair, ...] = Field(
        (), description="pairs of classes that no image of train and val has together: all patients with one are test"
    )

    def division(self) -> dict[str, Any]:
        """Return the settings that decide which images are in which part, as JSON has them."""
        return self.model_dump(mode="json", include={"val", "test", "seed", "held_out_pairs"})

    @model_validator(mode="after")
    def _pairs_are_two_classes_each_once(self) -> SplitSettings:
        """Refuse a pair of one class, and a pair that is there twice in either order."""
        seen: set[frozenset[str]] = set()
        for a, b in self.held_out_pairs:
            if a == b:
                raise ValueError(f"held_out_pairs: want two classes in a pair, got '{a}' twice")
            if frozenset((a, b)) in seen:
                raise ValueError(f"held_out_pairs: '{a}' and '{b}' are there twice; name each pair once")
            seen.add(frozenset((a, b)))
        return self

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
    check(part, table, settings)
    return part


def assign_parts(table: ImageTable | KnownLabels, settings: SplitSettings) -> Int64:
    """Return the part of every row like `checked_parts`, but without checking that the split can be used.

    Raises:
        DataError: if pairs are held out of data that bring their own split, or name a class that there is not.
    """
    pairs = settings.held_out_pairs
    if table.splits is not None:
        if pairs:
            refuse_official()
        return table.splits
    # All images of a patient with a held-out pair are test, and the others are split as if these did not exist. If they
    # counted for the share of test, they could fill it, and no seen combination would be left there to compare with.
    # Val has no pair either: the checkpoint is chosen there, and it must not be chosen for what is called unseen.
    chosen = has_any_pair(table.labels, pair_columns(pairs, table.class_names))
    rest = ~of_same_patients(chosen, table.patients)
    part = np.full(len(table.labels), PARTS.index("test"))
    part[rest] = stratify(table.labels[rest], table.patients[rest], settings)
    return part


def stratify(labels: Float32, patients: Int64, settings: SplitSettings) -> Int64:
    """Return a part for every row, `int64 [n]`, so that every class has the shares of `settings` in the parts.

    This is iterative stratification (Sechidis, Tsoumakas & Vlahavas 2011) over patients. It takes the class with the
    fewest patients left, and deals them out, those with most positives of the class first (equal ones in a seeded
    order). Each goes to the part that lacks most positives of that class. If the patients left of a class are only just
    enough for the parts that still have fewer than `min_patients` of them, these parts come first.
    """
    # Whole patients are dealt, because two images of one patient in train and test would let a classifier recognise the
    # patient. The rarest class goes first: while all patients are still free, its few positives can be spread well. At
    # random, a class with ten positives would often have none in val. A patient with many positives goes first, because
    # it would overfill any part that smaller ones have filled already.
    ids, inverse = np.unique(patients, return_inverse=True)
    positives = np.zeros((len(ids), labels.shape[1] + 1))
    np.add.at(positives[:, :-1], inverse, np.nan_to_num(labels))
    np.add.at(positives[:, -1], inverse, 1)  # the last column counts images, so that the sizes of parts come out right
    has = positives > 0
    shares = np.array([1 - settings.val - settings.test, settings.val, settings.test])
    wanted = shares[:, None] * positives.sum(axis=0)
    short = np.full(wanted.shape, settings.min_patients)  # the patients that each part still needs of each class
    left = has.sum(axis=0)
    order = seeds.rng(settings.seed, "split").permutation(len(ids))
    part = np.full(len(ids), -1)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, np.inf)))
        mine = order[(part[order] < 0) & has[order, rarest]]
        for patient in mine[np.argsort(-positives[mine, rarest], kind="stable")]:
            needs = short.clip(min=0)
            urgent = needs @ (has[patient] & (needs.sum(axis=0) >= left))
            best = max(range(len(PARTS)), key=lambda p: (urgent[p], wanted[p, rarest], wanted[p, -1]))
            part[patient] = best
            wanted[best] -= positives[patient]
            short[best] -= has[patient]
            left -= has[patient]
    return part[inverse]


def check(part: Int64, table: ImageTable | KnownLabels, settings: SplitSettings) -> None:
    """Refuse a split in which a patient is in two parts, a part is empty, or a class lacks positives or negatives.

    Every class must have `min_positives` positives of `min_patients` patients in every part, and a negative. As many
    test images must have each held-out pair, and each of its classes without any pair.

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
            raise DataError(f"split: {name} is empty; {_why_empty(table, len(ids))}{_fewer_pairs(settings)}")
    least = settings.min_positives, settings.min_patients
    check_pairs(table, rows[PARTS.index("test")], settings.held_out_pairs, least)
    positives = np.array([np.nansum(table.labels[mine], axis=0) for mine in rows], dtype=np.int64)
    patients = np.array([positive_patients(table.labels[mine], table.patients[mine]) for mine in rows])
    for i in range(len(PARTS)):
        _check_positives(i, positives, patients, table, settings)
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
        return f"{n_patients} {_unit(table)}s cannot fill train, val and test"
    patients = f", {n_patients} patients" if table.patients_known else ""
    return f"use more images, or larger split.val and split.test ({len(table.labels)} images{patients})"


def positive_patients(labels: Float32, patients: Int64) -> Int64:
    """Return how many patients have a positive of each class, `int64 [C]`; a label of NaN is no positive.

    Args:
        labels: `float32 [n, C]`.
        patients: `int64 [n]`.
    """
    return np.array([len(np.unique(patients[column == 1])) for column in labels.T], dtype=np.int64)


def _check_positives(
    i: int, positives: Int64, patients: Int64, table: ImageTable | KnownLabels, settings: SplitSettings
) -> None:
    """Refuse part i if a class has too few positives in it, or too few patients with one; both are `[parts, C]`."""
    name, unit = PARTS[i], _unit(table)
    for of_parts, setting, said in (
        (positives, "min_positives", "{} positive{}"),
        (patients, "min_patients", "positives of {} " + unit + "{}"),
    ):
        counts = of_parts[i]
        short, least = int(np.argmin(counts)), int(getattr(settings, setting))
        if counts[short] >= least:
            continue
        all_of = table.labels[:, short] == 1
        n_all, n_patients = int(all_of.sum()), len(np.unique(table.patients[all_of]))
        others = int((counts < least).sum()) - 1
        raise DataError(
            f"split: class '{table.class_names[short]}' has {said.format(counts[short], _s(counts[short]))} in "
            f"{name}, split.{setting} asks for {least} ({n_all} in all"
            + (f", of {n_patients} patient{_s(n_patients)}); " if table.patients_known else "); ")
            + _what_helps(name, f"{n_patients} {unit}{_s(n_patients)}", n_patients, table.splits is not None)
            + (f", or lower split.{setting} to {lowest}" if (lowest := of_parts[:, short].min()) else "")
            + _fewer_pairs(settings)
            + (f"; {others} more classes are short" if others else "")
        )


def _fewer_pairs(settings: SplitSettings) -> str:
    return ", or hold out fewer pairs (split.held_out_pairs)" if settings.held_out_pairs else ""


def _unit(table: ImageTable | KnownLabels) -> str:
    """Return what is never split: patients, or images if nobody knows whose they are."""
    return "patient" if table.patients_known else "image"


def _what_helps(name: str, positives: str, n: int, official: bool) -> str:
    """Return what can be done about a class that is short in a part; only what can help.

    Args:
        name: the part.
        positives: the patients with a positive, or the images, as a text: `2 patients`.
        n: how many that are.
        official: whether the split is the data set's own.
    """
    out = "leave the class out (class_names or classes, if the data set has such a setting), or merge it with another"
    if n < len(PARTS):
        return f"no split can put {positives} into {len(PARTS)} parts: {out}"
    if official:
        return f"the data set's own split says which images are {name}: {out}"
    other = "a smaller split.val and split.test" if name == PARTS[0] else f"a larger split.{name}"
    return f"use more images, another split.seed or {other}, {out}"


def _s(n: int) -> str:
    return "" if n == 1 else "s"


class Train(Stage):
    """The train split as methods see it. No image of val or test can be reached through it."""

    split: Split

    def size(self) -> int | None:
        """Return the number of train images: that of the official split, or else the share that the settings leave.

        Held-out pairs leave fewer, which the settings alone do not tell.
        """
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
    """Return the opened train split, read-only. Its images are a view of the data set's memory map."""
    folder: Path = work.get(train)
    table: ImageTable = work.get(train.split.dataset)
    labels = np.load(folder / "labels.npy")
    for array in (labels, *([] if table.excludes is None else [table.excludes])):
        array.flags.writeable = False  # A method that wrote to it would change what the harness reads after it.
    return TrainSet(
        images=ImageRows(table.images, np.load(folder / "rows.npy")),
        labels=labels,
        class_names=table.class_names,
        head=table.head,
        tail=table.tail,
        excludes=table.excludes,
    )


def part_rows(work: Work, split: Split, part: Part) -> tuple[ImageRows, Float32, Int64]:
    """Return the images of one part, their observed labels `float32 [n, C]`, and their data-set rows `int64 [n]`.

    Methods must not use this: they may only see the train split.
    """
    table: ImageTable = work.get(split.dataset)
    rows = work.get(split)[part]
    return ImageRows(table.images, rows), table.labels[rows], rows
