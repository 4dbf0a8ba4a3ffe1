"""The conformance suite finds each way of breaking the contract."""

import random
from typing import ClassVar

import numpy as np
import pytest

from bench.contract import AugmentedBatch, Method
from bench.errors import ContractError, StageError
from bench.store.store import Store
from bench.testing import datasets, methods
from bench.testing.toy import ToyDataset


class Copies(Method):
    """The method of the contract's docstring; `flaw` breaks it."""

    name: ClassVar[str] = "copies"
    flaw: str = ""

    def augment(self, ctx):
        size = {"batch": ctx.batch_size, "start": ctx.start}.get(self.flaw, 64)
        if self.flaw == "short":
            return
        for index in ctx.batches(64):
            rows = np.array([self.rng(ctx, i, size).choice(ctx.train.rows_with(ctx.samples[i])) for i in index])
            images, labels = ctx.train.images[rows], ctx.train.labels[rows]
            self.spoil(ctx, images, labels, index)
            yield AugmentedBatch(images, labels, rows[:, None])

    def rng(self, ctx, i, size):
        if self.flaw == "salted":
            return np.random.default_rng(abs(hash(f"{ctx.seed} {i}")))
        if self.flaw == "seedless":
            return np.random.default_rng(int(i))
        return np.random.default_rng([ctx.seed, int(i), size or 0])

    def spoil(self, ctx, images, labels, index):
        if self.flaw == "unlabelled":
            labels[np.arange(len(index)), ctx.samples[index]] = 0
        elif self.flaw == "range":
            labels[:, 0] = 2
        elif self.flaw == "soft":
            labels[:, 0] = 0.5
        elif self.flaw == "global":
            random.random()
        elif self.flaw == "scribbles":
            ctx.train.labels.flags.writeable = True
            ctx.train.labels[:, 0] = 1
        elif self.flaw == "peeks":  # reaches past its rows into the table below
            images[:] = ctx.train.images._images[-1]
        elif self.flaw == "greys" and ctx.train.images.colour:
            images[:] = images.mean(axis=-1, keepdims=True)

    def skip(self, train):
        return {"lazy": "never today", "mute": " "}.get(
            self.flaw if self.flaw == "lazy" or train.counts[-1] < 2 else ""
        )


BROKEN = {
    "": set(),
    "short": {"check_plan", "check_labels", "check_colour"},
    "lazy": {"check_plan"},
    "mute": {"check_one_image_class"},
    "salted": {"check_same_in_another_process"},
    "seedless": {"check_seed_matters"},
    "batch": {"check_batch_size", "check_colour"},
    "start": {"check_batch_size", "check_colour"},
    "unlabelled": {"check_labels", "check_colour"},
    "range": {"check_labels", "check_colour"},
    "soft": {"check_labels", "check_colour"},
    "global": {"check_leaves_no_trace"},
    "scribbles": {"check_leaves_no_trace"},
    "peeks": {"check_sees_train_only"},
    "greys": {"check_colour"},
}


@pytest.mark.parametrize("flaw", BROKEN)
def test_each_flaw_is_found(flaw, tmp_path):
    caught = set()
    for check in methods.METHOD_CHECKS:
        try:
            check(Copies(flaw=flaw), tmp_path)
        except (ContractError, StageError):  # StageError: it failed in an earlier check
            caught.add(check.__name__)
    assert BROKEN[flaw] <= caught
    assert flaw or not caught


class Renamed(Copies):
    name: ClassVar[str] = "No Name"


class AtNothing(Copies):
    at: ClassVar[str] = "steps"


@pytest.mark.parametrize("cls", [Renamed, AtNothing])
def test_facts_that_do_not_hold(cls, tmp_path):
    with pytest.raises(ContractError):
        methods.check_facts(cls(), tmp_path)


class Spoilt(ToyDataset):
    """The toy data set with one thing wrong."""

    kind: ClassVar[str] = "spoilt"
    flaw: str

    def compute(self, work):
        super().compute(work)
        edits = {"flat": "images", "odd": "labels", "cut": "splits", "wide": "patients"}
        if self.flaw in edits:
            path = work.out / f"{edits[self.flaw]}.npy"
            array = np.array(np.load(path))
            array[0] = {"flat": 0, "odd": 0.5, "cut": 2, "wide": 0}[self.flaw]
            np.save(path, array.astype(np.int32) if self.flaw == "wide" else array)


@pytest.mark.parametrize(
    ("flaw", "check"),
    [
        ("flat", datasets.check_images), ("odd", datasets.check_labels),
        ("cut", datasets.check_patients_and_splits), ("wide", datasets.check_patients_and_splits),
    ],
)  # fmt: skip
def test_spoilt_data_sets_are_found(flaw, check, tmp_path):
    with pytest.raises(Exception, match="broke the contract"):
        check(Spoilt(flaw=flaw), tmp_path)
    for sound in datasets.DATASET_CHECKS[:-1]:
        sound(ToyDataset(), tmp_path)


def test_toy_data_set_moves_val_and_test_alone(tmp_path):
    one, other = (Store(tmp_path).get(ToyDataset(held_out_seed=s)) for s in (0, 1))
    train = one.splits == 0
    assert np.array_equal(one.images[train], other.images[train])
    assert not np.array_equal(one.images[~train], other.images[~train])
