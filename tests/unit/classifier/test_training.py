"""The parts of the training loop against loops of ten lines and torch's own schedule."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from bench.classifier.training import TrainingData, _spread, inverse_prevalence, one_cycle, shifted, tf32
from bench.metrics.losses import masked_bce
from bench.pipeline import checkpoints
from bench.store.work import Execution

torch.set_num_threads(1)


def loss_by_hand(logits: list, labels: list, weights: list, positive: list) -> float:
    total, known = 0.0, 0
    for row, target, weight in zip(logits, labels, weights, strict=True):
        for x, y, factor in zip(row, target, positive, strict=True):
            if not math.isnan(y):
                p = 1 / (1 + math.exp(-x))
                total -= weight * (factor * y * math.log(p) + (1 - y) * math.log(1 - p))
                known += 1
    return total / known


def test_masked_loss_equals_the_loop_and_unknown_labels_have_no_gradient() -> None:
    draw = np.random.default_rng(0)
    logits = torch.tensor(draw.normal(size=(7, 4)), requires_grad=True)
    labels = draw.random((7, 4))
    labels[draw.random((7, 4)) < 0.3] = np.nan
    weights, positive = draw.random(7), draw.random(4) * 3
    loss = masked_bce(logits, torch.tensor(labels), torch.tensor(weights), torch.tensor(positive))
    assert loss.item() == pytest.approx(
        loss_by_hand(logits.tolist(), labels.tolist(), weights.tolist(), positive.tolist())
    )
    loss.backward()
    assert torch.equal(logits.grad == 0, torch.tensor(np.isnan(labels)))


def test_a_batch_of_unknown_labels_has_loss_zero() -> None:
    logits = torch.zeros(2, 3, requires_grad=True)
    loss = masked_bce(logits, torch.full((2, 3), torch.nan))
    loss.backward()
    assert loss.item() == 0
    assert not logits.grad.any()


@pytest.mark.parametrize("n_steps", [20, 100, 333])
def test_one_cycle_is_torchs(n_steps: int) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=n_steps, cycle_momentum=False)
    for step in range(n_steps):
        assert 0.1 * one_cycle(step, n_steps) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-9)
        optimizer.step()
        if step < n_steps - 1:
            theirs.step()


def test_the_shortest_trainings_have_a_schedule() -> None:
    assert all(0 < one_cycle(step, n) <= 1 for n in (1, 2, 3, 4) for step in range(n))


def test_positive_weights_are_negatives_over_positives_of_what_is_known() -> None:
    labels = np.array([[1, 0, 1], [0, 0, np.nan], [0, 0, 0], [0, 0, 0]], np.float32)
    np.testing.assert_allclose(inverse_prevalence(labels), [3, 1, 2])


def data(n_real: int, n_synthetic: int) -> TrainingData:
    images = np.arange(n_real + n_synthetic, dtype=np.uint8)[:, None, None]
    labels = np.zeros((n_real + n_synthetic, 2), np.float32)
    return TrainingData(images[:n_real], labels[:n_real], images[n_real:], labels[n_real:])


def test_real_images_keep_their_order_whatever_is_added() -> None:
    alone, mixed = data(30, 0).order(3, epoch=2), data(30, 12).order(3, epoch=2)
    assert sorted(mixed) == list(range(42))
    assert list(mixed[mixed < 30]) == list(alone)
    assert list(data(30, 0).order(3, epoch=1)) != list(alone) != list(data(30, 0).order(4, epoch=2))


def test_a_batch_holds_the_rows_asked_for_and_says_which_are_synthetic() -> None:
    images, _, synthetic = data(5, 5).batch(np.array([7, 0, 4, 9]))
    assert sorted(images[:, 0, 0]) == [0, 4, 7, 9]
    assert list(images[synthetic, 0, 0]) == [7, 9]


def test_shifts_move_by_at_most_what_is_asked() -> None:
    images = np.zeros((40, 9, 9), np.uint8)
    images[:, 4, 4] = 1
    moved = shifted(images, 2, np.random.default_rng(0))
    _, y, x = np.nonzero(moved)
    assert moved.shape == images.shape
    assert set(y) == set(x) == {2, 3, 4, 5, 6}
    assert shifted(images, 0, np.random.default_rng(0)) is images


def test_evaluations_are_spread_and_end_at_the_end() -> None:
    assert _spread(100, 4) == {25, 50, 75, 100}
    assert _spread(2, 6) == {1, 2}


def test_checkpoints_newest_sound_one_wins_and_two_are_kept(tmp_path) -> None:
    assert checkpoints.load_newest(tmp_path) is None
    (tmp_path / "000000009.part").write_bytes(b"left by a kill")
    for step in (1, 2, 10):
        checkpoints.save(tmp_path, step, {"step": step, "weights": torch.full((3,), step)})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000002.ckpt", "000000010.ckpt"]
    assert checkpoints.load_newest(tmp_path)["weights"].tolist() == [10, 10, 10]
    newest = tmp_path / "000000010.ckpt"
    for damaged in (newest.read_bytes()[:-1], b"", newest.read_bytes()[:200]):
        newest.write_bytes(damaged)
        assert checkpoints.load_newest(tmp_path)["step"] == 2


def test_a_gpu_computes_in_whole_float32_unless_a_training_asks_for_tf32() -> None:
    Execution("cpu").apply()
    switches = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    assert [s.fp32_precision for s in switches] == ["ieee", "ieee"]  # PyTorch's own default for the first is tf32
    with tf32():
        assert [s.fp32_precision for s in switches] == ["tf32", "tf32"]
    assert [s.fp32_precision for s in switches] == ["ieee", "ieee"]
    with pytest.raises(ZeroDivisionError), tf32():
        1 / 0  # noqa: B018
    assert [s.fp32_precision for s in switches] == ["ieee", "ieee"]
