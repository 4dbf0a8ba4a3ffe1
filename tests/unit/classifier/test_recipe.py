"""Samplers, augmentations, mixes, a new last layer and architectures: what a training sees, and that it resumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.classifier import networks
from bench.classifier.augmentation import augmented, balanced_share, mixed, mixed_with
from bench.classifier.sampling import drawn, occurrence
from bench.classifier.settings import ClassifierSettings
from bench.classifier.training import Training, TrainingData
from bench.data.class_balance import draw_probabilities, rarest_class
from bench.store.store import Store
from tests.unit.classifier.classifier_fixtures import cell, interrupt_at

torch.set_num_threads(1)

LABELS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [1, 0, np.nan], [1, 0, 1], [0, 1, 0]], np.float32)
DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (12, 32, 32), dtype=np.uint8)
IN_COLOUR = np.random.default_rng(1).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


# --- samplers


def test_an_image_belongs_to_its_rarest_class_or_to_none():
    assert rarest_class(LABELS, np.nansum(LABELS, axis=0)).tolist() == [0, 1, 3, 0, 2, 1]


@pytest.mark.parametrize(("sampler", "power"), [("class_balanced", 0.0), ("square_root", 0.5)])
def test_groups_are_drawn_in_proportion_to_a_power_of_their_size(sampler, power):
    groups = np.repeat([0, 1, 4], [100, 36, 4])
    expected = np.array([100, 36, 4]) ** power / sum(np.array([100, 36, 4]) ** power)
    chances = draw_probabilities(groups, sampler)
    np.testing.assert_allclose([chances[groups == g].sum() for g in (0, 1, 4)], expected)
    found = np.concatenate([groups[drawn(groups, sampler, 1, "all", epoch)] for epoch in range(300)])
    np.testing.assert_allclose([(found == g).mean() for g in (0, 1, 4)], expected, atol=0.01)


def test_occurrences_count_what_came_before_in_the_epoch():
    assert occurrence(np.array([5, 3, 5, 5, 3]), 1, 5).tolist() == [0, 1, 2, 1]


# --- augmentation


@pytest.mark.parametrize("images", [IMAGES, IN_COLOUR], ids=["grey", "colour"])
@pytest.mark.parametrize("augmentation", ["standard", "trivial_augment"])
def test_an_image_is_changed_by_its_own_seed_alone(augmentation, images):
    state = torch.get_rng_state()
    together = augmented(images, augmentation, range(12))
    assert together.dtype == np.uint8
    assert together.shape == images.shape
    np.testing.assert_array_equal(together[5:7], augmented(images[5:7], augmentation, [5, 6]))
    assert any((a != b).any() for a, b in zip(together, images, strict=True))
    assert len({a.tobytes() for a in augmented(images[[0] * 12], augmentation, range(12))}) > 3
    assert torch.equal(state, torch.get_rng_state())


def test_standard_augmentation_never_flips():
    ramp = np.tile(np.linspace(40, 200, 32), (32, 1)).astype(np.uint8)
    for image in augmented(np.stack([ramp] * 30), "standard", range(30)):
        assert image[8:24, 20:24].mean() > image[8:24, 8:12].mean() + 20


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_labels_and_weights_are_mixed_in_the_share_of_the_pixels(mix):
    pixels = torch.arange(4.0)[:, None, None, None].expand(4, 3, 16, 16).contiguous()
    labels = torch.tensor([[1.0, 0], [0, 1], [torch.nan, 1], [1, 1]])
    weights = torch.tensor([1.0, 0.5, 1, 1])
    found, both, factor = mixed(mix, 1.0, pixels, labels, weights, seed=3)
    # Pixels are the numbers of the images, so the share of the first in the second can be read off its mean.
    share = 1 - found[1].mean().item()
    assert 0 < share < 1
    before = labels.roll(1, 0)
    torch.testing.assert_close(both, (1 - share) * labels + share * before, equal_nan=True, atol=1e-5, rtol=0)
    torch.testing.assert_close(factor, (1 - share) * weights + share * weights.roll(1, 0), atol=1e-5, rtol=0)
    assert both[2:, 0].isnan().all()
    again = mixed(mix, 1.0, pixels, labels, weights, seed=3)
    assert torch.equal(again[0], found)


def test_balanced_mixup_takes_little_of_the_balanced_batch():
    shares = [balanced_share(0.2, 1, step) for step in range(2000)]
    assert np.mean(shares) == pytest.approx(0.2 / 1.2, abs=0.02)  # the mean of Beta(a, 1) is a / (a + 1)
    first, second = torch.zeros(2, 3), torch.ones(2, 3)
    assert torch.equal(mixed_with(0.25, [first], [second])[0], torch.full((2, 3), 0.25))


# --- in the training


def training(n_synthetic=0, **settings):
    n_real = len(IMAGES) - n_synthetic
    labels = np.resize(LABELS, (len(IMAGES), 3))
    data = TrainingData(IMAGES[:n_real], labels[:n_real], IMAGES[n_real:], labels[n_real:])
    chosen = {"architecture": "resnet18", "steps": 6, "batch_size": 4, **settings}
    return Training(ClassifierSettings(**chosen), 0, data, "cpu", lambda network: ({"val_loss": 0.0}, None))


def inputs(of, steps):
    found = []
    for of.step in steps:
        found.append([tensor.clone() for tensor in of._inputs()])
    return found


RECIPES = [
    {},
    {"sampler": "class_balanced", "augmentation": "standard"},
    {"sampler": "square_root", "augmentation": "trivial_augment"},
    {"mix": "mixup", "augmentation": "standard"},
    {"mix": "cutmix"},
    {"mix": "balanced_mixup", "augmentation": "standard"},
    {"retrain_head": 0.5, "augmentation": "standard"},
    {"synthetic_first": 0.3, "retrain_head": 0.3, "sampler": "square_root"},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=str)
def test_what_a_step_sees_does_not_depend_on_the_steps_before(recipe):
    whole = inputs(training(4, **recipe), range(6))
    for step in (5, 3, 0):
        (alone,) = inputs(training(4, **recipe), [step])
        for a, b in zip(whole[step], alone, strict=True):
            assert torch.equal(a.nan_to_num(-1), b.nan_to_num(-1))


def test_real_images_are_augmented_alike_whatever_is_added():
    def seeds_by_row(n_more):
        labels = np.zeros((len(IMAGES), 2), np.float32)
        data = TrainingData(IMAGES[:8], labels[:8], IMAGES[8 : 8 + n_more], labels[8 : 8 + n_more])
        settings = ClassifierSettings(architecture="resnet18", steps=9, batch_size=4, augmentation="standard")
        of = Training(settings, 0, data, "cpu", lambda network: ({"val_loss": 0.0}, None))
        found = {}
        for of.step in range((8 + n_more) // 4):
            batch = of._batch(of._phase())
            found |= {int(row): seed for row, seed in zip(batch.rows, batch.seeds, strict=True)}
        return found

    alone, more = seeds_by_row(0), seeds_by_row(4)
    assert set(alone) == set(range(8))
    assert {row: seed for row, seed in more.items() if row < 8} == alone
    assert len(set(more.values())) == 12


def test_the_new_last_layer_is_trained_alone_on_balanced_batches():
    of = training(retrain_head=0.5, steps=8)
    trunk = {}
    seen: list[int] = []
    drawn_before = of._batch

    def watched(phase):
        batch = drawn_before(phase)
        if of.step >= 4:
            seen.extend(batch.rows.tolist())
        return batch

    of._batch = watched
    while of.step < 8:
        if of.step == 4:
            trunk = {n: v.clone() for n, v in of.network.state_dict().items()}
        of._advance()
    after = of.network.state_dict()
    changed = {name for name, value in after.items() if not torch.equal(value, trunk[name])}
    assert changed == {"fc.weight", "fc.bias"}
    assert of._phase().sampler == "class_balanced"
    assert len(seen) == 16


@pytest.mark.parametrize(
    "recipe", [{"retrain_head": 0.5, "augmentation": "standard"}, {"mix": "balanced_mixup"}], ids=str
)
@pytest.mark.parametrize("stop", [2, 3, 5])
def test_an_interrupted_training_ends_with_the_same_weights(recipe, stop, tmp_path: Path, monkeypatch):
    stage = cell(per_class=4, loss="class_balanced", sampler="square_root", **recipe)
    whole = Store(tmp_path / "whole").get(stage)
    store = Store(tmp_path / "cut")
    interrupt_at(stop, monkeypatch, store, stage)
    resumed = store.get(stage)
    assert (whole.folder / "model.safetensors").read_bytes() == (resumed.folder / "model.safetensors").read_bytes()
    if "retrain_head" in recipe:
        assert resumed.record["best_step"] > 3


# --- architectures


@pytest.mark.parametrize("architecture", ["resnet50", "convnext_tiny", "efficientnet_b0"])
def test_an_architecture_trains_reproducibly_and_loses_its_last_layer(architecture):
    def run():
        of = training(architecture=architecture, steps=2, retrain_head=0.5)
        losses = [of._advance(), of._advance()]
        return losses, of.network

    first, network = run()
    torch.manual_seed(99)  # dropout must not draw from whatever state the process is in
    assert run()[0] == first
    assert networks.head_of(network, architecture).out_features == 3
    width = networks.head_of(network, architecture).in_features
    features = networks.in_batches(networks.without_head(network, architecture), IMAGES, None, "cpu")
    assert features.shape == (12, width)
