"""Every loss against a loop over its entries, written from its paper."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.classifier.losses import effective_weights, ldam_margins, loss_function, refuse_soft_labels
from bench.classifier.recipe import Asymmetric, Bce, ClassBalanced, Focal, Ldam
from bench.classifier.settings import ClassifierSettings
from bench.errors import ConfigError

DRAW = np.random.default_rng(0)
TRAIN = (DRAW.random((200, 4)) < [0.5, 0.2, 0.05, 0.02]).astype(np.float32)
TRAIN[DRAW.random(TRAIN.shape) < 0.1] = np.nan
COUNTS = [int((TRAIN[:, c] == 1).sum()) for c in range(4)]
LOGITS, WEIGHTS = DRAW.normal(0, 2, (9, 4)), DRAW.random(9) + 0.5
HARD = (DRAW.random((9, 4)) < 0.4).astype(float)
HARD[DRAW.random((9, 4)) < 0.2] = np.nan
SOFT = np.where(np.isnan(HARD), np.nan, DRAW.random((9, 4)))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def bce(z, y):
    return -y * math.log(sigmoid(z)) - (1 - y) * math.log(1 - sigmoid(z))


def cui(beta):
    """Return the weights of eq. 2 of Cui et al., written out as sums of powers."""
    numbers = [sum(beta**i for i in range(n)) for n in COUNTS]
    total = sum(1 / e for e in numbers)
    return [4 / e / total for e in numbers]


def focal(z, y, c, late):
    p = sigmoid(z) if y == 1 else 1 - sigmoid(z)
    return -(0.25 if y == 1 else 0.75) * (1 - p) ** 2 * math.log(p)


def asymmetric(z, y, c, late):
    if y == 1:
        return -((1 - sigmoid(z)) ** 1) * math.log(sigmoid(z))
    q = max(sigmoid(z) - 0.05, 0)
    return -(q**4) * math.log(1 - q)


def class_balanced(z, y, c, late):
    return cui(0.9999)[c] * bce(z, y)


def ldam(z, y, c, late):
    margins = [0.5 * (n / min(COUNTS)) ** -0.25 for n in COUNTS]
    return (cui(0.9999)[c] if late else 1) * bce(z - margins[c] if y == 1 else z, y)


def by_hand(entry, labels, late):
    known = [(i, c) for i in range(9) for c in range(4) if not math.isnan(labels[i, c])]
    return sum(WEIGHTS[i] * entry(LOGITS[i, c], labels[i, c], c, late) for i, c in known) / len(known)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize(
    ("loss", "entry", "labels"),
    [
        (Bce(), lambda z, y, c, late: bce(z, y), SOFT),
        (Focal(), focal, HARD),
        (Asymmetric(), asymmetric, HARD),
        (ClassBalanced(), class_balanced, SOFT),
        (Ldam(), ldam, HARD),
    ],
    ids=lambda x: getattr(x, "kind", ""),
)
def test_a_loss_equals_the_loop_and_unknown_labels_have_no_gradient(loss, entry, labels, late):
    logits = torch.tensor(LOGITS, requires_grad=True)
    found = loss_function(loss, TRAIN, None, "cpu")(
        logits, torch.tensor(labels), torch.tensor(WEIGHTS), 0.9 if late else 0.5
    )
    assert found.item() == pytest.approx(by_hand(entry, labels, late), rel=1e-5)
    found.backward()
    assert logits.grad[torch.tensor(np.isnan(labels))].abs().sum() == 0
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize(
    "loss",
    [
        Focal(),
        Asymmetric(),
        Asymmetric(margin=0),
        Asymmetric(gamma_positive=0.5, gamma_negative=0.5),  # whose slope is infinite at 0
        ClassBalanced(),
        Ldam(),
    ],
    ids=str,
)
def test_extreme_logits_have_finite_losses_and_gradients(loss):
    logits = torch.tensor([[200.0, -200, 200, -200]], requires_grad=True)
    compute = loss_function(loss, TRAIN, None, "cpu")
    for labels in ([[1.0, 1, 0, 0]], [[0.0, 0, 1, 1]]):
        value = compute(logits, torch.tensor(labels), torch.ones(1), 1.0)
        value.backward()
        assert torch.isfinite(value)
        assert torch.isfinite(logits.grad).all()


def test_a_class_without_positives_counts_as_one_with_a_single_one():
    np.testing.assert_array_equal(
        effective_weights(np.float32([5, 0]), 0.9), effective_weights(np.float32([5, 1]), 0.9)
    )
    np.testing.assert_array_equal(ldam_margins(np.float32([5, 0]), 0.5), ldam_margins(np.float32([5, 1]), 0.5))
    np.testing.assert_array_equal(effective_weights(np.float32([5, 2, 9]), 0), [1, 1, 1])


def test_soft_labels_are_refused_where_a_loss_is_not_defined_for_them():
    labels = np.float32([[1, 0], [0.25, np.nan], [0, 0.5]])
    for loss in (Bce(), ClassBalanced()):
        refuse_soft_labels(loss, labels, "synthetic")
    for loss in (Focal(), Asymmetric(), Ldam()):
        refuse_soft_labels(loss, labels[:1], "synthetic")
        with pytest.raises(ConfigError, match=r"and 2 synthetic images have others \(first: 0\.25\); use bce or"):
            refuse_soft_labels(loss, labels, "synthetic")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"loss": "focall"}, "focall"),
        ({"loss": {"kind": "focal", "margin": 1}}, "margin"),
        ({"loss": "focal", "positive_weights": True}, "belongs to the loss bce, not to focal"),
        ({"loss": "ldam", "mix": "mixup"}, "mixup makes labels between 0 and 1"),
        ({"mix_alpha": 1}, "give a mix, too"),
        ({"sampler": "balanced"}, "sampler"),
        ({"synthetic_first": 0.5, "retrain_head": 0.5}, "leave no step on real images"),
        ({"synthetic_first": 0.5, "synthetic_weight": 0.1}, "no batch has real and synthetic images"),
        ({"architecture": "vgg11"}, "architecture"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, said):
    with pytest.raises(ValidationError, match=said):
        ClassifierSettings(**settings)


def test_a_loss_may_be_given_by_name():
    assert ClassifierSettings(loss="ldam").loss == Ldam()
    given = ClassifierSettings(loss={"kind": "focal", "gamma": 3})
    assert given.loss == Focal(gamma=3)
    assert ClassifierSettings.model_validate_json(given.model_dump_json()) == given
