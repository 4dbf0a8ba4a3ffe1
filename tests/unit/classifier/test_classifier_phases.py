"""Training in two phases: synthetic images alone, then real images alone."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from bench.classifier.settings import ClassifierSettings
from bench.classifier.training import Training, TrainingData
from bench.store.store import Store
from tests.unit.classifier.classifier_fixtures import cell, interrupt_at

torch.set_num_threads(1)


def seen(n_real: int, n_synthetic: int, steps: int, share: float, size: int = 8, seed: int = 0) -> list[list[int]]:
    """Return the grey levels (one a row) in each batch that a training took; real rows come first."""
    images = np.repeat(np.arange(n_real + n_synthetic, dtype=np.uint8), 32 * 32).reshape(-1, 32, 32)
    labels = np.zeros((len(images), 2), np.float32)
    data = TrainingData(images[:n_real], labels[:n_real], images[n_real:], labels[n_real:])
    settings = ClassifierSettings(architecture="resnet18", steps=steps, batch_size=size, synthetic_first=share)
    training = Training(settings, seed, data, "cpu", lambda network: ({}, None))
    batches = []
    for training.step in range(steps):
        batches.append(data.batch(training._batch(training._phase()).rows)[0][:, 0, 0].tolist())
    return batches


def flat(batches: list[list[int]]) -> list[int]:
    return [row for batch in batches for row in batch]


def test_the_share_of_the_steps_is_synthetic_alone_and_the_rest_real_alone() -> None:
    batches = seen(n_real=40, n_synthetic=24, steps=10, share=0.3)
    assert [min(b) >= 40 for b in batches] == [True] * 3 + [False] * 7
    assert all(max(b) < 40 for b in batches[3:])
    assert sorted(flat(batches[:3])) == list(range(40, 64))  # an epoch of the synthetic ones
    assert sorted(flat(batches[3:8])) == list(range(40))  # an epoch of the real ones
    assert flat(batches[8:]) != flat(batches[3:5])  # the next epoch has another order


def test_real_batches_are_those_of_a_training_without_synthetic_images() -> None:
    assert seen(40, 24, steps=10, share=0.3)[3:] == seen(40, 0, steps=7, share=0.0)
    assert seen(40, 0, steps=7, share=0.3) == seen(40, 0, steps=7, share=0.0)  # a control has no first phase


@pytest.mark.parametrize(("steps", "share"), [(10, 0.96), (2, 0.8), (4, 0.1), (150, 0.997)])
def test_rounding_leaves_a_step_of_each_phase(steps: int, share: float) -> None:
    batches = seen(40, 24, steps=steps, share=share)
    assert min(batches[0]) >= 40
    assert max(batches[-1]) < 40


def test_fewer_synthetic_images_than_a_batch_take_turns() -> None:
    batches = seen(40, 3, steps=4, share=0.5)
    assert [len(b) for b in batches] == [8] * 4
    assert all(set(b) == {40, 41, 42} for b in batches[:2])


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_that_leaves_no_real_step_is_refused(share: float) -> None:
    with pytest.raises(ValidationError, match="synthetic_first"):
        ClassifierSettings(synthetic_first=share)


def test_a_kill_in_either_phase_changes_no_bit(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = cell(per_class=6, synthetic_first=0.5)
    whole, records = Store(tmp_path / "whole"), []
    records.append(load_file(whole.get(stage).folder / "model.safetensors"))
    for at in (2, 4):
        store = Store(tmp_path / str(at))
        interrupt_at(at, monkeypatch, store, stage)
        folder = store.get(stage).folder
        records.append(load_file(folder / "model.safetensors"))
        assert json.loads((folder / "record.json").read_text())["steps"] == 6
    for other in records[1:]:
        assert all(torch.equal(tensor, other[name]) for name, tensor in records[0].items())
