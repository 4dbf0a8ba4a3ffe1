"""The local code: what a site can see, how scores of sites are pooled, balanced batches, and maps that point."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.augment.latents import LatentTable
from bench.errors import ConfigError
from bench.metrics import localisation
from methods.fusion.cams import class_activation_maps
from methods.fusion.iterated_learning import IteratedLearning, PhaseEpoch
from methods.fusion.networks import CodecNetworks, LocalClassifier
from methods.fusion.objectives import start_at_prior
from methods.fusion.settings import CodecSettings

SIDE, AT = 16, (5, 9)
LOCAL = {"encoder": "local", "classifier": "local", "batches": "class_balanced", "positive_weights": "none"}


def networks(**changes: object) -> CodecNetworks:
    settings = CodecSettings(**(LOCAL | {"vocab_size": 8, "width": 8, "downsamplings": 2} | changes))  # type: ignore[arg-type]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CodecNetworks(settings, (4, SIDE, SIDE), 3).eval().requires_grad_(False)


def sites_that_change(network: torch.nn.Module, channels: int) -> set[tuple[int, int]]:
    """Return the sites whose output changes with the site `AT` of the input, relative to it."""
    before = torch.rand(1, channels, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    after = before.clone()
    after[:, :, AT[0], AT[1]] += 5
    moved = (network(after) - network(before)).abs().amax(dim=(0, 1)) > 1e-6
    return {(int(y) - AT[0], int(x) - AT[1]) for y, x in moved.nonzero()}


def square(reach: int) -> set[tuple[int, int]]:
    return {(y, x) for y in range(-reach, reach + 1) for x in range(-reach, reach + 1)}


def test_a_site_of_the_local_code_sees_3_sites_across_and_one_of_its_maps_7() -> None:
    found = networks()
    assert sites_that_change(found.encoder, 4) == square(1)
    reached = sites_that_change(found.classifier.features, 8)  # type: ignore[arg-type]
    assert reached <= square(3)
    assert max(max(site) for site in reached) == 3


def test_a_site_of_the_image_wide_code_and_of_its_maps_sees_every_site() -> None:
    found = networks(encoder="unet", classifier="conv")
    assert len(sites_that_change(found.encoder, 4)) == SIDE**2
    assert len(sites_that_change(found.classifier.features, 8)) == (SIDE // 2) ** 2  # type: ignore[arg-type]


@pytest.mark.parametrize("sharpness", [0.0, 0.5, 4.0])
def test_the_score_of_an_image_is_the_log_mean_exp_over_its_sites(sharpness: float) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        classifier = LocalClassifier(6, 2, 4, sharpness).eval().requires_grad_(False)
    codes = torch.rand(3, 6, 5, 5, generator=torch.Generator().manual_seed(4))
    features, head = classifier.features(codes).double(), classifier.head.double()
    for b in range(3):
        for c in range(2):
            scores = [float(head.weight[c] @ features[b, :, y, x] + head.bias[c]) for y in range(5) for x in range(5)]
            if sharpness:
                expected = math.log(sum(math.exp(sharpness * s) for s in scores) / 25) / sharpness
            else:
                expected = sum(scores) / 25
            found = float(classifier.float()(codes)[b, c])
            assert found == pytest.approx(expected, abs=1e-5)
            assert min(scores) <= found <= max(scores)
            classifier.head.double()


def small(**changes: object) -> CodecSettings:
    return CodecSettings(**(LOCAL | {"vocab_size": 8, "width": 8, "batch_size": 16} | changes))  # type: ignore[arg-type]


def table_of_spots(n: int = 240) -> tuple[LatentTable, np.ndarray, np.ndarray]:
    """Return latents of noise, labels and true sites: class 1 is a pattern at a random site, in one of eight latents.

    Class 0, in half of them, is a shift of the whole latent.
    """
    rng = np.random.default_rng(7)
    labels = np.stack([rng.random(n) < 0.5, np.arange(n) % 8 == 0], axis=1).astype(np.float32)
    mean = rng.standard_normal((n, 4, SIDE, SIDE)).astype(np.float32) * 0.3
    mean[:, 0] += 0.5 * labels[:, 0, None, None]
    truth = np.zeros((n, SIDE, SIDE), dtype=bool)
    for i in np.flatnonzero(labels[:, 1]):
        y, x = rng.integers(1, SIDE - 3, size=2)
        truth[i, y : y + 2, x : x + 2] = True
        mean[i, :, y : y + 2, x : x + 2] += np.float32([[[2]], [[-2]], [[2]], [[-2]]])
    return LatentTable(mean, np.zeros_like(mean)), labels, truth


def trained(folder: Path, **changes: object) -> IteratedLearning:
    latents, labels, _ = table_of_spots()
    settings = small(vocab_size=16, generations=2, interaction_epochs=4, **changes)
    learning = IteratedLearning(settings, latents, labels, seed=1)
    learning.run(folder)
    return learning


def test_maps_of_the_local_code_point_at_a_rare_small_finding(tmp_path: Path) -> None:
    latents, labels, truth = table_of_spots()
    found = trained(tmp_path).networks.requires_grad_(False)
    rows = np.flatnonzero(labels[:, 1])
    codes = found.encode(torch.from_numpy(latents.mean[rows]))
    classes = torch.ones(len(rows), dtype=torch.long)
    maps = class_activation_maps("layercam", found.classifier, found.feature_layers, codes, classes).numpy()
    pointing = localisation.pointing_hits(maps, truth[rows]).mean()
    assert pointing > 0.8, pointing
    assert localisation.pointing_chance(truth[rows]).mean() < 0.02


def test_balanced_batches_have_each_class_as_often_and_depend_on_the_seed_and_the_epoch_alone() -> None:
    latents, labels, _ = table_of_spots()
    settings = small()

    def drawn(seed: int, epoch: int, batches: str = "class_balanced") -> np.ndarray:
        changed = settings.model_copy(update={"batches": batches})
        learning = IteratedLearning(changed, latents, labels, seed)
        now = PhaseEpoch(0, "interaction", epoch)
        return np.concatenate([rows.numpy() for rows, _ in learning._batches(now, lambda *_: None)])

    rows = np.concatenate([drawn(1, epoch) for epoch in range(20)])
    # Three groups: the rare class, the other class without it, and neither.
    group = np.where(labels[rows, 1] == 1, 0, np.where(labels[rows, 0] == 1, 1, 2))
    shares = np.bincount(group) / len(rows)
    assert shares == pytest.approx([1 / 3] * 3, abs=4 * math.sqrt(2 / 9 / len(rows)))
    assert drawn(1, 3).tolist() == drawn(1, 3).tolist()
    assert drawn(1, 3).tolist() != drawn(1, 4).tolist()
    assert drawn(1, 3).tolist() != drawn(2, 3).tolist()
    assert sorted(drawn(1, 3, "plain")) == list(range(len(labels)))


@pytest.mark.parametrize("generations", [1, 2])
def test_statistics_of_both_checkpoints_are_those_of_an_epoch_with_their_own_weights(
    generations: int, tmp_path: Path
) -> None:
    latents, labels, _ = table_of_spots(64)
    settings = small(generations=generations, interaction_epochs=1, imitation_epochs=1)
    learning = IteratedLearning(settings, latents, labels, seed=3)
    learning.run(tmp_path)
    last = {name: value.clone() for name, value in learning.networks.state_dict().items()}
    for state, generation in ((learning.first, 0), (last, generations - 1)):
        learning.networks.load_state_dict(state)
        convolution = learning.networks.classifier.features[0][0]  # type: ignore[index, union-attr]
        means, variances = [], []
        for _, batch in learning._batches(PhaseEpoch(generation, "interaction", 1), lambda *_: None):
            with torch.no_grad():
                values = convolution(learning.networks.encode(batch)).numpy().astype(np.float64)  # type: ignore[operator]
            values = values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1)
            means.append(values.mean(axis=1))
            variances.append(values.var(axis=1, ddof=1))
        name = "classifier.features.0.1.running_"
        np.testing.assert_allclose(state[name + "mean"], np.mean(means, axis=0), rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(state[name + "var"], np.mean(variances, axis=0), rtol=1e-3, atol=1e-9)


def test_after_a_short_training_evaluation_tells_classes_apart_as_training_does(tmp_path: Path) -> None:
    latents, labels, truth = table_of_spots(480)
    settings = small(vocab_size=16, generations=1, interaction_epochs=1)
    learning = IteratedLearning(settings, latents, labels, seed=1)
    learning.run(tmp_path)
    networks = learning.networks.requires_grad_(False)
    rows = np.flatnonzero(labels[:, 1])
    codes = networks.encode(torch.from_numpy(latents.mean[rows]))
    maps = class_activation_maps(
        "layercam", networks.classifier, networks.feature_layers, codes, torch.ones(len(rows), dtype=torch.long)
    )
    assert localisation.pointing_hits(maps.numpy(), truth[rows]).mean() > 0.6


def test_an_image_that_is_drawn_twice_in_an_epoch_has_two_latents() -> None:
    latents, labels, _ = table_of_spots()
    noisy = LatentTable(latents.mean, np.ones_like(latents.mean))
    learning = IteratedLearning(small(), noisy, labels, seed=1)
    seen: dict[int, list[np.ndarray]] = {}
    for rows, batch in learning._batches(PhaseEpoch(0, "interaction", 0), lambda *_: None):
        for row in set(rows.tolist()):
            seen.setdefault(row, []).append(batch[rows.tolist().index(row)].numpy())
    often = [drawn for drawn in seen.values() if len(drawn) > 1]
    assert len(often) > 10
    assert all(not np.array_equal(drawn[0], drawn[1]) for drawn in often)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"batches": "class_balanced", "positive_weights": "balanced"},
            "'balanced' would balance the classes a second time",
        ),
        (
            {"classifier": "conv", "pooling_sharpness": 2.0},
            "pooling_sharpness: has no effect with the classifier 'conv'",
        ),
    ],
)
def test_settings_that_would_silently_do_something_else_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        CodecSettings(**changes)  # type: ignore[arg-type]


def test_a_batch_of_one_latent_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"codec\.batch_size: .* use 2 or more"):
        CodecSettings(classifier="local", batch_size=1).check(16)
    CodecSettings(batch_size=1).check(16)


def test_a_classifier_starts_at_the_prevalence_in_its_batches() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [float("nan"), 0.0]])
    draws = torch.tensor([2.0, 1.0, 0.5, 3.0])
    classifier = torch.nn.Sequential(torch.nn.Linear(3, 2))
    start_at_prior(classifier, labels, None, draws)
    torch.testing.assert_close(classifier[0].bias.sigmoid(), torch.tensor([2 / 3.5, 0.5 / 6.5]))
