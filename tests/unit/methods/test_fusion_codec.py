"""The code and its iterated learning: sparsity, frozen teacher, reset student, imitation, exact resume."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.augment.latents import LatentTable
from bench.errors import ConfigError
from bench.metrics.losses import masked_bce
from bench.pipeline import checkpoints
from methods.fusion.iterated_learning import IteratedLearning, PhaseEpoch, schedule
from methods.fusion.networks import CodecNetworks, SimplicialEmbedding, build_classifier
from methods.fusion.objectives import (
    imitation_loss,
    positive_weights,
    sampled_words,
    sparsity,
    start_at_prior,
)
from methods.fusion.settings import CodecSettings
from tests.unit.methods.fusion_fixtures import TINY_CODEC, toy_labels


def table(n: int = 48, side: int = 8) -> LatentTable:
    rng = np.random.default_rng(5)
    mean = rng.standard_normal((n, 4, 2, 2)).repeat(side // 2, axis=2).repeat(side // 2, axis=3).astype(np.float32)
    return LatentTable(mean, np.full_like(mean, 0.1))


def learning(settings: CodecSettings = TINY_CODEC, seed: int = 1) -> IteratedLearning:
    return IteratedLearning(settings, table(), toy_labels(48), seed)


def weights(module: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in module.parameters()]


@pytest.mark.parametrize(("n_simplices", "vocab_size"), [(1, 64), (4, 5)])
def test_codes_are_on_the_simplex_at_every_site(n_simplices: int, vocab_size: int) -> None:
    embedding = SimplicialEmbedding(n_simplices, vocab_size, 0.7)
    codes = embedding(3 * torch.randn(2, n_simplices * vocab_size, 3, 5))
    assert codes.shape == (2, n_simplices * vocab_size, 3, 5)
    assert (codes >= 0).all()
    torch.testing.assert_close(embedding.split(codes).sum(dim=2), torch.ones(2, n_simplices, 3, 5))


def test_a_low_temperature_sharpens_and_the_measures_say_so() -> None:
    logits = torch.randn(2, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    measured = [sparsity(e, e(logits)) for e in (SimplicialEmbedding(1, 16, t) for t in (10.0, 1.0, 0.01))]
    peaks, entropies = zip(*((m["mean_max_probability"], m["normalised_entropy"]) for m in measured), strict=True)
    assert peaks[0] < peaks[1] < peaks[2]
    assert entropies[0] > entropies[1] > entropies[2]
    assert peaks[0] == pytest.approx(1 / 16, rel=0.3)
    assert peaks[2] > 0.95
    assert entropies[2] < 0.05


def test_free_logits_can_reach_a_one_hot_code_and_the_decoder_any_latent() -> None:
    networks = CodecNetworks(TINY_CODEC, (4, 8, 8), 3)
    for network in (networks.encoder, networks.decoder):
        last = list(network.modules())[-1]
        assert isinstance(last, torch.nn.Conv2d)
        torch.nn.init.constant_(last.bias, 7.0)  # type: ignore[arg-type]
    assert networks.decoder(networks.encode(torch.randn(2, 4, 8, 8))).mean() > 5


@pytest.mark.parametrize(("side", "downsamplings"), [(8, 6), (12, 3), (5, 2), (2, 8)])
def test_networks_fit_any_latent(side: int, downsamplings: int) -> None:
    networks = CodecNetworks(TINY_CODEC.model_copy(update={"downsamplings": downsamplings}), (3, side, side), 4)
    latents = torch.randn(2, 3, side, side)
    codes = networks.encode(latents)
    assert networks.decoder(codes).shape == latents.shape
    assert networks.classifier(codes).shape == (2, 4)


@pytest.mark.parametrize("kind", ["vgg11", "densenet121"])
def test_torchvision_classifiers_read_codes_and_refuse_small_latents(kind: str) -> None:
    with torch.device("meta"):  # shapes without the 128 million weights
        classifier = build_classifier(CodecSettings(classifier=kind), 6, 5).eval()  # type: ignore[arg-type]
        assert classifier(torch.randn(1, 6, 64, 64)).shape == (1, 5)
    with pytest.raises(ConfigError, match="use 'local' or 'conv'"):
        CodecNetworks(TINY_CODEC.model_copy(update={"classifier": kind}), (4, 16, 16), 5)


def test_the_last_generation_ends_after_its_interaction() -> None:
    phases = [(e.generation, e.phase) for e in schedule(CodecSettings(generations=3, interaction_epochs=1))]
    assert phases == [(0, "interaction"), (0, "imitation"), (1, "interaction"), (1, "imitation"), (2, "interaction")]


def test_imitation_freezes_the_teacher_resets_the_student_and_leaves_the_rest(tmp_path: Path) -> None:
    run = learning()
    encoder_before = weights(run.networks.encoder)
    others = weights(run.networks.decoder) + weights(run.networks.classifier)
    now = PhaseEpoch(0, "imitation", 0)
    run._begin(now)
    assert run.teacher is not None
    torch.testing.assert_close(weights(run.teacher), encoder_before, rtol=0, atol=0)
    student = weights(run.networks.encoder)
    assert any((a != b).any() for a, b in zip(student, encoder_before, strict=True))
    run._imitation_epoch(now, lambda done, total, note: None)
    torch.testing.assert_close(weights(run.teacher), encoder_before, rtol=0, atol=0)
    torch.testing.assert_close(weights(run.networks.decoder) + weights(run.networks.classifier), others, rtol=0, atol=0)
    assert any((a != b).any() for a, b in zip(weights(run.networks.encoder), student, strict=True))


def test_every_generation_has_another_student_and_the_same_seed_the_same_one() -> None:
    students = []
    for generation in (0, 1, 0):
        run = learning()
        run._begin(PhaseEpoch(generation, "imitation", 0))
        students.append(torch.cat([w.flatten() for w in weights(run.networks.encoder)]))
    assert torch.equal(students[0], students[2])
    assert not torch.equal(students[0], students[1])


@pytest.mark.parametrize("pseudo_labels", ["sampled", "soft"])
def test_a_student_learns_its_teachers_words(pseudo_labels: str) -> None:
    settings = TINY_CODEC.model_copy(update={"pseudo_labels": pseudo_labels, "imitation_epochs": 6, "temperature": 0.1})
    run = learning(settings)
    run._begin(PhaseEpoch(0, "imitation", 0))
    losses = [
        run._imitation_epoch(PhaseEpoch(0, "imitation", e), lambda done, total, note: None)["imitation_cross_entropy"]
        for e in range(6)
    ]
    assert losses[-1] < 0.9 * losses[0]


def test_sampled_words_follow_the_teachers_probabilities() -> None:
    probabilities = torch.tensor([0.7, 0.2, 0.1]).view(1, 1, 3, 1, 1).expand(1, 2, 3, 60, 60)
    words = sampled_words(probabilities, torch.Generator().manual_seed(0))
    assert torch.equal(words.sum(dim=2), torch.ones(1, 2, 60, 60))
    assert set(words.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(words.mean(dim=(0, 1, 3, 4)), [0.7, 0.2, 0.1], atol=0.02)


def test_imitation_loss_is_the_cross_entropy_of_the_words() -> None:
    embedding = SimplicialEmbedding(2, 5, 0.3)
    logits = torch.randn(3, 10, 4, 4)
    words = torch.randint(5, (3, 2, 4, 4))
    one_hot = torch.nn.functional.one_hot(words, 5).movedim(-1, 2).float()
    expected = torch.nn.functional.cross_entropy(logits.view(6, 5, 4, 4) / 0.3, words.view(6, 4, 4))
    torch.testing.assert_close(imitation_loss(embedding, logits, one_hot), expected)


def test_unknown_labels_count_for_nothing_and_rare_classes_weigh_more() -> None:
    labels = torch.tensor([[1.0, 0.0, float("nan")], [0.0, 1.0, 1.0], [0.0, 1.0, 0.0], [0.0, 1.0, 0.0]])
    weights_ = positive_weights(labels)
    torch.testing.assert_close(weights_, torch.tensor([4 / (1 * 3), 4 / (3 * 3), 3 / (1 * 3)]))
    logits = torch.randn(4, 3)
    total, known = 0.0, 0
    for row in range(4):
        for c in range(3):
            if not torch.isnan(labels[row, c]):
                p = torch.sigmoid(logits[row, c])
                total -= float(weights_[c] * labels[row, c] * p.log() + (1 - labels[row, c]) * (1 - p).log())
                known += 1
    assert masked_bce(logits, labels, positive=weights_).item() == pytest.approx(total / known, rel=1e-5)


@pytest.mark.parametrize("weighted", [True, False])
def test_a_classifier_starts_at_the_constant_that_minimises_its_loss(weighted: bool) -> None:
    labels = torch.from_numpy(toy_labels(60))
    class_weights = positive_weights(labels) if weighted else None
    classifier = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 1), torch.nn.Flatten(), torch.nn.Linear(3, 4))
    start_at_prior(classifier, labels, class_weights, torch.ones(60))
    best = classifier[2].bias.detach().clone().requires_grad_()  # type: ignore[union-attr, operator]
    masked_bce(best.expand(60, 4), labels, positive=class_weights).backward()
    assert best.grad is not None
    torch.testing.assert_close(best.grad, torch.zeros(4), atol=1e-6, rtol=0)


@pytest.mark.parametrize("steps_until_the_kill", [2, 8, 11, 17])
def test_an_interrupted_training_ends_bit_for_bit_as_an_uninterrupted_one(
    steps_until_the_kill: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LEAST_SECONDS", 0.0)
    whole = learning()
    (tmp_path / "whole").mkdir()
    record = whole.run(tmp_path / "whole")

    def stop(done: float, total: float, note: str) -> None:
        if done == steps_until_the_kill:
            raise KeyboardInterrupt

    (tmp_path / "cut").mkdir()
    with pytest.raises(KeyboardInterrupt):
        learning().run(tmp_path / "cut", stop)
    told: list[float] = []
    resumed = learning()
    assert resumed.run(tmp_path / "cut", lambda done, total, note: told.append(done)) == record
    assert told[0] == 1 + (steps_until_the_kill - 1) // 3 * 3  # 48 latents, 16 a step: goes on at the epoch
    for name, value in whole.networks.state_dict().items():
        assert torch.equal(value, resumed.networks.state_dict()[name]), name
        assert torch.equal(whole.first[name], resumed.first[name]), name


def test_training_leaves_the_global_generators_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    np.random.seed(3)
    before, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()  # type: ignore[index, union-attr]
    learning(CodecSettings(**(TINY_CODEC.model_dump() | {"interaction_epochs": 1, "imitation_epochs": 1}))).run(
        tmp_path
    )
    assert torch.equal(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], before_numpy)  # type: ignore[index]


def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        checkpoints.save(tmp_path, number, {"at": number, "w": torch.full((3,), float(number))})
    files = sorted(tmp_path.iterdir())
    assert len(files) == 2
    files[-1].write_bytes(files[-1].read_bytes()[:-40])
    state = checkpoints.load_newest(tmp_path)
    assert state is not None
    assert state["at"] == 2
    flipped = bytearray(files[0].read_bytes())
    flipped[len(flipped) // 2] ^= 1
    files[0].write_bytes(flipped)
    assert checkpoints.load_newest(tmp_path) is None


@pytest.mark.parametrize(("n", "sizes"), [(32, [16, 16]), (33, [16, 16]), (34, [16, 16, 2]), (1, [1])])
def test_no_batch_is_of_one_latent_which_a_densenet_cannot_normalise(n: int, sizes: list[int]) -> None:
    trained = IteratedLearning(TINY_CODEC.model_copy(update={"batch_size": 16}), table(n), np.zeros((n, 4)), seed=1)
    first = trained.epochs[0]
    assert [len(rows) for rows, _ in trained._batches(first, lambda *_: None)] == sizes
