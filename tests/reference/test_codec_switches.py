"""The codec's switches, each side of each, against what the paper's notes say of the released code and plain loops."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from pydantic import ValidationError

from bench.augment.latents import LatentTable
from bench.contract import Latents
from methods.fusion import codec as codec_module
from methods.fusion.codec import Codec, TrainedCodec
from methods.fusion.iterated_learning import IteratedLearning, PhaseEpoch
from methods.fusion.networks import CodecNetworks, SimplicialEmbedding
from methods.fusion.objectives import imitation_loss
from methods.fusion.settings import CodecSettings
from tests.unit.methods.fusion_fixtures import TINY_CODEC, toy_labels, toy_task

CEILING = math.e / (math.e + 63 / math.e)  # 0.105: 64 words, temperature 1
MEASURES = {
    "reconstruction_l1", "mean_max_probability", "normalised_entropy", "latents_beyond_1", "classification_bce",
}  # fmt: skip


def tiny(**changes: object) -> CodecSettings:
    return CodecSettings(**(TINY_CODEC.model_dump() | changes))  # type: ignore[arg-type]


def table(n: int = 32, side: int = 8) -> LatentTable:
    """Latents without noise, so that a measure does not depend on the draw."""
    rng = np.random.default_rng(5)
    mean = rng.standard_normal((n, 4, 2, 2)).repeat(side // 2, axis=2).repeat(side // 2, axis=3).astype(np.float32)
    return LatentTable(mean, np.zeros_like(mean))


def learning(settings: CodecSettings) -> IteratedLearning:
    return IteratedLearning(settings, table(), toy_labels(32), 1)


def weights(module: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def quiet(done: float, total: float, note: str) -> None:
    """Hear progress and say nothing."""


def networks_with_large_outputs(settings: CodecSettings) -> CodecNetworks:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        networks = CodecNetworks(settings, (4, 8, 8), 3).eval().requires_grad_(False)
    for network in (networks.encoder, networks.decoder):
        convolution = [m for m in network.modules() if isinstance(m, torch.nn.Conv2d)][-1]
        convolution.weight.mul_(1000)
    return networks


@pytest.mark.parametrize("temperature", [1.0, 0.25])
@pytest.mark.parametrize("activation", ["softmax", "tanh"])
def test_codes_equal_a_loop_over_sites(activation: str, temperature: float) -> None:
    embedding = SimplicialEmbedding(2, 5, temperature, activation)  # type: ignore[arg-type]
    logits = 2 * torch.randn(2, 10, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = np.zeros(logits.shape)
    for b, first, y, x in np.ndindex(2, 2, 3, 3):
        words = slice(5 * first, 5 * first + 5)
        scores = [float(v) for v in logits[b, words, y, x]]
        if activation == "tanh":
            scores = [math.tanh(v) for v in scores]
        powers = [math.exp(v / temperature) for v in scores]
        expected[b, words, y, x] = [p / sum(powers) for p in powers]
    np.testing.assert_allclose(embedding(logits), expected, rtol=1e-5)
    np.testing.assert_allclose(embedding.log_codes(logits).exp().flatten(1, 2), expected, rtol=1e-5)


def test_under_tanh_no_word_of_64_is_likelier_than_the_released_codes_ceiling() -> None:
    settings = tiny(vocab_size=64, temperature=1.0)
    latents = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    free = networks_with_large_outputs(settings).encode(latents)
    bounded = networks_with_large_outputs(settings.model_copy(update={"code_activation": "tanh"})).encode(latents)
    assert free.amax(dim=1).mean() > 0.9
    assert bounded.max() <= CEILING * (1 + 1e-5)
    one_against_all = torch.full((1, 64, 1, 1), -50.0)
    one_against_all[0, 7] = 50.0
    assert SimplicialEmbedding(1, 64, 1.0, "tanh")(one_against_all).max().item() == pytest.approx(CEILING, rel=1e-6)
    assert pytest.approx(0.105, abs=5e-4) == CEILING


def test_a_decoder_that_ends_in_tanh_rebuilds_nothing_beyond_1() -> None:
    codes = torch.rand(3, 8, 8, 8, generator=torch.Generator().manual_seed(3))
    linear = networks_with_large_outputs(tiny()).decoder(codes)
    bounded = networks_with_large_outputs(tiny(decoder_range="tanh")).decoder(codes)
    assert linear.abs().max() > 10
    np.testing.assert_allclose(bounded, np.tanh(linear.numpy()), atol=1e-6)
    assert bounded.abs().max() <= 1


def test_a_trained_tanh_decoder_loses_at_least_what_lies_beyond_1(tmp_path: Path) -> None:
    mean = np.full((32, 4, 8, 8), 2.0, dtype=np.float32) * np.array([1, -1, 1, -1], dtype=np.float32)[:, None, None]
    lost = {}
    for decoder_range in ("linear", "tanh"):
        settings = tiny(decoder_range=decoder_range, generations=1, interaction_epochs=10, learning_rate=3e-2)
        run = IteratedLearning(settings, LatentTable(mean, np.zeros_like(mean)), toy_labels(32), 1)
        (tmp_path / decoder_range).mkdir()
        lost[decoder_range] = run.run(tmp_path / decoder_range)["final"]["reconstruction_l1"]
    assert lost["tanh"] >= 1
    assert lost["linear"] < 0.5


@pytest.mark.parametrize("words", ["one-hot", "soft"])
def test_per_word_bce_equals_a_loop_over_words(words: str) -> None:
    generator = torch.Generator().manual_seed(4)
    embedding = SimplicialEmbedding(2, 3, 0.7)
    logits = torch.randn(2, 6, 2, 2, generator=generator)
    uttered = torch.randn(2, 2, 3, 2, 2, generator=generator).softmax(dim=2)
    if words == "one-hot":
        uttered = (uttered == uttered.amax(dim=2, keepdim=True)).float()
    terms = []
    for b, simplex, y, x in np.ndindex(2, 2, 2, 2):
        powers = [math.exp(float(logits[b, 3 * simplex + v, y, x]) / 0.7) for v in range(3)]
        for v in range(3):
            p, target = powers[v] / sum(powers), float(uttered[b, simplex, v, y, x])
            terms.append(-target * math.log(p) - (1 - target) * math.log(1 - p))
    found = imitation_loss(embedding, logits, uttered, "per_word_bce").item()
    assert found == pytest.approx(sum(terms) / len(terms), rel=1e-5)
    assert found != pytest.approx(imitation_loss(embedding, logits, uttered).item(), rel=0.05)


def test_per_word_bce_is_finite_with_a_finite_gradient_where_a_student_is_surely_wrong() -> None:
    logits = torch.tensor([200.0, -200.0]).view(1, 2, 1, 1).requires_grad_()
    loss = imitation_loss(
        SimplicialEmbedding(1, 2, 0.1), logits, torch.tensor([0.0, 1.0]).view(1, 1, 2, 1, 1), "per_word_bce"
    )
    loss.backward()
    assert loss.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("kind", ["cross_entropy", "per_word_bce"])
def test_a_student_learns_with_either_loss_and_the_record_names_it(kind: str, tmp_path: Path) -> None:
    record = learning(tiny(imitation_loss=kind, imitation_epochs=8, learning_rate=1e-2)).run(tmp_path)
    first = record["generations"][0]
    assert first[f"imitation_{kind}"] < first[f"imitation_{kind}_first"]
    of_uniform_words = {"cross_entropy": math.log(8), "per_word_bce": (math.log(8) + 7 * math.log(8 / 7)) / 8}
    assert first[f"imitation_{kind}_first"] == pytest.approx(of_uniform_words[kind], rel=0.4)
    other = {"cross_entropy": "per_word_bce", "per_word_bce": "cross_entropy"}[kind]
    assert f"imitation_{other}" not in first


@pytest.mark.parametrize("student_reset", [True, False])
def test_a_student_starts_anew_or_as_its_teacher_and_the_next_interaction_goes_on_with_it(student_reset: bool) -> None:
    run = learning(tiny(student_reset=student_reset))
    teacher = weights(run.networks.encoder)
    imitation, interaction = PhaseEpoch(0, "imitation", 0), PhaseEpoch(1, "interaction", 0)
    run._begin(imitation)
    assert torch.equal(weights(run.networks.encoder), teacher) is not student_reset
    run._imitation_epoch(imitation, quiet)
    assert run.teacher is not None
    assert torch.equal(weights(run.teacher), teacher)  # a copy: what the student learns leaves it alone
    student = weights(run.networks.encoder)
    assert not torch.equal(student, teacher)
    run._begin(interaction)
    assert torch.equal(weights(run.networks.encoder), student)
    run._interaction_epoch(interaction, quiet)
    assert not torch.equal(weights(run.networks.encoder), student)  # and its optimiser is the student's


def test_the_first_checkpoint_is_what_a_training_of_one_generation_ends_with(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "three").mkdir()
    one, three = learning(tiny(generations=1)), learning(tiny(generations=3))
    record_of_one, record = one.run(tmp_path / "one"), three.run(tmp_path / "three")
    for name, value in one.networks.state_dict().items():
        assert torch.equal(three.first[name], value), name
        assert torch.equal(one.first[name], value), name
    assert record["first"] == record_of_one["first"] == record_of_one["final"]
    assert record["final"] != record["first"]


def test_the_stage_writes_both_checkpoints_and_measures_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels, task = toy_labels(32), toy_task(tmp_path)
    stage = Codec(latents=task.latents, train=task.train, settings=tiny(), seed=3)
    for name in ("out", "ckpt"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(codec_module, "train_set", lambda work, train: SimpleNamespace(labels=labels))
    latents = {Latents: table()}
    stage.compute(SimpleNamespace(
        out=tmp_path / "out", ckpt=tmp_path / "ckpt", device="cpu", progress=quiet, get=lambda s: latents[type(s)],
    ))  # fmt: skip
    trained = stage.open(tmp_path / "out")
    assert not torch.equal(weights(trained.load()), weights(trained.load(checkpoint="first")))
    assert torch.equal(weights(trained.load()), weights(trained.load(checkpoint="last")))
    for checkpoint, name in (("last", "final"), ("first", "first")):
        assert trained.record[name] == pytest.approx(measured(trained, checkpoint, labels), rel=1e-4)
        assert trained.record[name].keys() == MEASURES


def measured(trained: TrainedCodec, checkpoint: str, labels: np.ndarray) -> dict[str, float]:
    """Return the measures over all latents at once, in float64, from their definitions."""
    latents, networks = table().mean, trained.load(checkpoint=checkpoint)  # type: ignore[arg-type]
    codes = networks.encode(torch.from_numpy(latents))
    rebuilt, logits = networks.decoder(codes).numpy(), networks.classifier(codes).numpy().astype(np.float64)
    probabilities = codes.numpy().astype(np.float64)
    known, positive = ~np.isnan(labels), np.nan_to_num(labels)
    weight = known.sum(axis=0) / (positive.sum(axis=0) * labels.shape[1])
    scores = 1 / (1 + np.exp(-logits))
    losses = -weight * positive * np.log(scores) - (1 - positive) * np.log(1 - scores)
    return {
        "reconstruction_l1": float(np.abs(rebuilt - latents).mean()),
        "mean_max_probability": float(probabilities.max(axis=1).mean()),
        "normalised_entropy": float(scipy.stats.entropy(probabilities, axis=1).mean() / math.log(8)),
        "latents_beyond_1": float((np.abs(latents) > 1).mean()),
        "classification_bce": float(losses[known].mean()),
    }


@pytest.mark.parametrize(
    ("field", "bad"), [("code_activation", "relu"), ("decoder_range", "sigmoid"), ("imitation_loss", "l2")]
)
def test_unknown_choices_are_refused_with_the_allowed_ones(field: str, bad: str) -> None:
    with pytest.raises(ValidationError, match=r"'\w+' or '\w+'"):
        tiny(**{field: bad})


def test_defaults_are_the_corrected_side() -> None:
    settings = CodecSettings()
    assert (settings.code_activation, settings.decoder_range) == ("softmax", "linear")
    assert (settings.imitation_loss, settings.student_reset) == ("cross_entropy", True)
