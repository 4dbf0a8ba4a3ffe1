"""No method and no label policy puts a class that excludes others beside one of them, in labels or in prompts."""

from __future__ import annotations

from typing import ClassVar, get_args

import numpy as np
import pytest

from bench.augment.augmented import Augmented
from bench.augment.label_policies import LabelEvidence, LabelPolicy, assign
from bench.contract import Float32, Int64, Plan
from bench.diffusion.pipeline import Diffusion
from bench.plugins import registry
from bench.store.store import Store
from bench.testing.toy import CLASS_NAMES, ToyDataset, toy_task


class Healthy(ToyDataset):
    """The toy, with a first class that is there where no other class is."""

    kind: ClassVar[str] = "toy-healthy"
    excludes: dict = {CLASS_NAMES[0]: "all"}

    def _label(self, labels: Float32, rows: Int64, draw: np.random.Generator) -> None:
        super()._label(labels, rows, draw)
        labels[rows, 0] = ~labels[rows, 1:].any(axis=1)


def contradicts(labels: np.ndarray) -> np.ndarray:
    known = np.nan_to_num(labels)
    return known[:, 0] > 1 - known[:, 1:].max(axis=1) + 1e-6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize("name", sorted(registry.methods()))
def test_no_method_contradicts_itself(name: str, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[np.ndarray] = []
    prompt = Diffusion.prompt

    def recorded(self: Diffusion, class_names: tuple[str, ...], labels: np.ndarray) -> str:
        asked.append(np.asarray(labels))
        return prompt(self, class_names, labels)

    monkeypatch.setattr(Diffusion, "prompt", recorded)
    task = toy_task(Healthy(), Plan(per_class=12))
    made, table = store.get(Augmented.of(registry.methods()[name].toy(), task)), store.get(Healthy())
    train = table.labels[store.get(task.train.split)["train"]]
    assert not contradicts(train).any()
    assert not contradicts(np.asarray(made.labels)).any()
    assert not contradicts(np.array(asked).reshape(-1, len(CLASS_NAMES))).any()


@pytest.mark.parametrize("policy", get_args(LabelPolicy))
def test_no_policy_contradicts_itself(policy: LabelPolicy, store: Store) -> None:
    train = store.get(Healthy()).labels
    excludes = Healthy().exclusions(CLASS_NAMES)
    rng = np.random.default_rng(0)
    n = 300
    share = rng.dirichlet([1, 1], n).astype(np.float32)
    evidence = LabelEvidence(
        own=rng.random((n, 4)).astype(np.float32),
        parents=train[rng.integers(len(train), size=(n, 2))],
        present=rng.random((n, 2)) < 0.9,
        share=share,
        target=rng.integers(0, 4, n),
        claimed=rng.integers(0, 4, n),
    )
    taught = rng.random((n, 4)).astype(np.float32)
    free = LabelEvidence(**(vars(evidence) | {"excludes": excludes}))
    before, after = assign(policy, evidence, taught), assign(policy, free, taught)
    assert not contradicts(after).any()
    np.testing.assert_array_equal(before[:, 1:], after[:, 1:])  # findings stay as they are
    if policy == "union":
        assert contradicts(before).any()  # else this says nothing
