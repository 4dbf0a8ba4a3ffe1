"""DA-Fusion: textual inversion trains one embedding and nothing else, and the images are SDEdit's under its prompts."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.augment.augmented import Augmented, checked
from bench.contract import Context, Plan, Task, checkpoints
from bench.diffusion.pipeline import Diffusion
from bench.errors import ConfigError
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.testing.toy import toy_task
from methods.da_fusion import DaFusion, InversionSettings, LearnedTokens, Lesson, named, with_tokens
from methods.sdedit import Sdedit


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return Store(tmp_path_factory.mktemp("stages"))


@pytest.fixture(scope="module")
def task() -> Task:
    return toy_task(plan=Plan(per_class=4))


def context_of(method: Sdedit, task: Task, store: Store) -> Context:
    stage = Augmented.of(method, task)
    return stage.context(Work(store, stage, store.root / "no" / "out", store.root / "no" / "ckpt", Execution()))


@pytest.fixture(scope="module")
def toy(store: Store, task: Task) -> Context:
    return context_of(DaFusion.toy(), task, store)


def lesson(ctx: Context, seed: int = 0, **settings: float) -> Lesson:
    table, chosen = ctx.inputs["latents"], InversionSettings(**({"steps": 6, "batch_size": 4} | settings))
    return Lesson(ctx.diffusion, table, ctx.train, "Nodule", chosen, seed)


def images(method: Sdedit, ctx: Context) -> np.ndarray:
    return np.concatenate([batch.images for batch in checked(method, ctx)])


def prompt(diffusion: Diffusion, ctx: Context, *present: str) -> str:
    return diffusion.prompt(ctx.train.class_names, [name in present for name in ctx.train.class_names])


def test_a_token_with_the_embedding_of_its_name_changes_nothing(toy: Context) -> None:
    """The tokenizer knows the name as one piece, so token and name are the same to the text encoder."""
    learned = with_tokens(toy.diffusion, ["Nodule"], named(toy.diffusion, "Nodule")[None])
    plain, new = (prompt(d, toy, "Opacity", "Nodule") for d in (toy.diffusion, learned))
    assert plain != new
    assert "nodule" not in new
    assert prompt(learned, toy, "Opacity", "Fracture") == prompt(toy.diffusion, toy, "Opacity", "Fracture")
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8), dtype=np.float32)
    one, other = (d.sample([text], noise, 3, 2.0) for d, text in ((toy.diffusion, plain), (learned, new)))
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_model_of_the_other_rows_stays_as_it_is(toy: Context, tmp_path: Path) -> None:
    pipeline = toy.diffusion.pipeline
    before = {name: value.clone() for name, value in pipeline.text_encoder.state_dict().items()}
    vocabulary, words = len(pipeline.tokenizer), dict(toy.diffusion.prompts.words)
    work = lesson(toy, learning_rate=0.1)
    list(work.run(checkpoints.Checkpoints(tmp_path, "")))
    assert work.diffusion.pipeline.unet is pipeline.unet
    assert len(pipeline.tokenizer) == vocabulary
    assert toy.diffusion.prompts.words == words
    for name, value in pipeline.text_encoder.state_dict().items():
        assert torch.equal(value, before[name])
    frozen = [p for part in (pipeline.unet, pipeline.vae, pipeline.text_encoder) for p in part.parameters()]
    assert not any(p.requires_grad or p.grad is not None for p in frozen)
    trained = [p for p in work.diffusion.pipeline.text_encoder.parameters() if p.requires_grad]
    assert [tuple(p.shape) for p in trained] == [(1, len(work.vector))]


def test_the_loss_is_that_of_a_loop_over_the_schedulers_own_parts(toy: Context) -> None:
    """The draws are replayed in their order: rows, latents, noise, timesteps."""
    work = lesson(toy)
    found = float(work.loss(np.random.default_rng(5), 3).detach())
    rng, pipeline, table = np.random.default_rng(5), work.diffusion.pipeline, toy.inputs["latents"]
    rows = rng.choice(toy.train.rows_with(3), 3)
    drawn, noise = rng.standard_normal((2, 3, 4, 8, 8), dtype=np.float32)
    times = rng.integers(1000, size=3)
    errors = []
    for i in range(3):
        clean = torch.from_numpy(table.mean[rows[i]] + table.std[rows[i]] * drawn[i])[None]
        added, t = torch.from_numpy(noise[i])[None], torch.tensor([times[i]])
        text = work.diffusion.prompt(toy.train.class_names, toy.train.labels[rows[i]])
        with torch.no_grad():
            condition = pipeline.encode_prompt(text, "cpu", 1, do_classifier_free_guidance=False)[0]
            noisy = pipeline.scheduler.add_noise(clean, added, t)
            predicted = pipeline.unet(noisy, t, encoder_hidden_states=condition).sample
        kind = pipeline.scheduler.config.prediction_type
        wanted = added if kind == "epsilon" else pipeline.scheduler.get_velocity(clean, added, t)
        errors.append(float(((predicted - wanted) ** 2).mean()))
    assert found == pytest.approx(np.mean(errors), rel=1e-4)


def test_training_lowers_the_loss_over_the_same_draws(toy: Context, tmp_path: Path) -> None:
    work = lesson(toy, steps=60, learning_rate=0.05)
    before = work.judged()
    assert before == work.judged()
    assert list(work.run(checkpoints.Checkpoints(tmp_path, ""))) == list(range(1, 61))
    assert work.judged() < before


def test_the_loss_of_the_name_is_under_the_name_and_not_under_the_token_that_starts_from_it(toy: Context) -> None:
    """A name of one piece could not tell the two apart; this one has several."""
    words = {"Nodule": "a small round spot"}
    named_so = copy.copy(toy.diffusion)
    named_so.prompts = named_so.prompts.model_copy(update={"words": words})
    work = Lesson(named_so, toy.inputs["latents"], toy.train, "Nodule", InversionSettings(), seed=0)
    of_name, of_token = work.judged(named_so), work.judged()
    assert of_name != of_token
    kept, work.diffusion = work.diffusion, named_so
    assert work.judged() == of_name
    work.diffusion = kept
    assert work.judged() == of_token


def test_a_stopped_training_ends_with_the_same_bits(
    toy: Context, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.da_fusion._SAVE_EVERY", 2)
    whole, stopped, resumed = (lesson(toy) for _ in range(3))
    list(whole.run(checkpoints.Checkpoints(tmp_path / "whole", "")))
    parts = checkpoints.Checkpoints(tmp_path / "parts", "")
    for step in stopped.run(parts):
        if step == 3:
            break
    assert list(resumed.run(parts)) == [3, 4, 5, 6]
    np.testing.assert_array_equal(resumed.vector, whole.vector)
    assert not np.array_equal(whole.vector, stopped.vector)
    other = lesson(toy, seed=1)
    list(other.run(checkpoints.Checkpoints(tmp_path / "other", "")))
    assert not np.array_equal(other.vector, whole.vector)


def test_a_class_without_images_keeps_the_embedding_of_its_name(toy: Context, tmp_path: Path) -> None:
    work = lesson(toy)
    work.rows = work.rows[:0]
    assert list(work.run(checkpoints.Checkpoints(tmp_path, ""))) == []
    assert work.judged() is None
    np.testing.assert_allclose(work.vector, named(toy.diffusion, "Nodule").numpy())


def test_images_are_sdedits_under_the_tokens_prompts(toy: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    denoise = Diffusion.denoise

    def spy(self, latents, prompts, *args):
        asked.extend(prompts)
        return denoise(self, latents, prompts, *args)

    monkeypatch.setattr(Diffusion, "denoise", spy)
    ours = images(DaFusion.toy(), toy)
    of_tokens, asked[:] = list(asked), []
    plain = images(Sdedit.toy(), toy)
    tokens = {"fracture": "<learned-0>", "nodule": "<learned-1>"}
    for name, token in tokens.items():
        asked = [text.replace(name, token) for text in asked]
    assert of_tokens == asked
    assert not np.array_equal(ours, plain)
    np.testing.assert_array_equal(images(DaFusion.toy().model_copy(update={"denoise_steps": 0}), toy),
                                  images(Sdedit.toy().model_copy(update={"denoise_steps": 0}), toy))  # fmt: skip


def test_the_record_tells_the_budget_and_variants_share_the_training(store: Store, task: Task) -> None:
    few, more = (DaFusion(denoise_steps=d, inversion=InversionSettings(steps=2, batch_size=2)) for d in (1, 5))
    stage = few.inputs(task)["tokens"]
    assert isinstance(stage, LearnedTokens)
    assert stage.key == more.inputs(task)["tokens"].key != DaFusion().inputs(task)["tokens"].key
    assert store.get(stage).shape == (2, 16)
    record = json.loads((store.folder(stage) / "inversion.json").read_text())
    assert (record["steps"], record["batch_size"], record["learning_rate"]) == (2, 2, 5e-3)
    assert list(record["classes"]) == ["Fracture", "Nodule"]
    assert all(c["images"] > 0 and c["loss_of_name"] > 0 for c in record["classes"].values())


def test_a_tokenizer_that_has_the_token_is_refused(toy: Context) -> None:
    once = with_tokens(toy.diffusion, ["Nodule"], named(toy.diffusion, "Nodule")[None])
    with pytest.raises(ConfigError, match="the tokenizer has one of"):
        with_tokens(once, ["Nodule"], torch.zeros(1, 16))


@pytest.mark.parametrize("bad", [{"steps": 0}, {"learning_rate": 0}, {"batch_size": 0}, {"epochs": 3}])
def test_bad_settings_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(bad))):
        DaFusion(inversion=bad)
