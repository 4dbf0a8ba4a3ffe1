"""Erase: what is kept is kept, what is redrawn loses its head finding, and the labels say so."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.augment.augmented import Augmented, checked
from bench.contract import Context, DiffusionModel, Latents, Plan, Task, Train
from bench.data.kinds.phantom.dataset import Phantom
from bench.data.split import Split, SplitSettings
from bench.diffusion.pipeline import Diffusion
from bench.evaluation.extractors import OracleExtractor
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.testing.toy import toy_task
from methods.duplicate import Duplicate
from methods.erase import Erase


def context_of(method: Erase, task: Task, store: Store) -> Context:
    stage = Augmented.of(method, task)
    return stage.context(Work(store, stage, store.root / "no" / "out", store.root / "no" / "ckpt", Execution()))


def made(method: Erase | Duplicate, ctx: Context) -> dict[str, np.ndarray]:
    batches = list(checked(method, ctx))
    found = {name: np.concatenate([getattr(b, name) for b in batches]) for name in ("images", "labels", "parents")}
    return found | {"mask": np.concatenate([b.extras["mask"] for b in batches if "mask" in b.extras] or [np.zeros(0)])}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def toy(store: Store) -> Context:
    return context_of(Erase.toy(), toy_task(plan=Plan(per_class=8)), store)


def test_head_findings_go_from_the_labels_and_all_else_stays(toy: Context) -> None:
    found = made(Erase.toy(), toy)
    np.testing.assert_array_equal(found["parents"], made(Duplicate(), toy)["parents"])
    was = toy.train.labels[found["parents"][:, 0]]
    assert (was[:, toy.train.head_index] == 1).any()
    np.testing.assert_array_equal(np.isnan(found["labels"]), np.isnan(was))
    assert not (found["labels"][:, toy.train.head_index] == 1).any()
    np.testing.assert_array_equal(found["labels"][:, toy.train.tail_index], was[:, toy.train.tail_index])


def test_a_parent_without_a_head_finding_is_copied(toy: Context) -> None:
    found = made(Erase.toy(), toy)
    parents = found["parents"][:, 0]
    bare = ~(toy.train.labels[parents][:, toy.train.head_index] == 1).any(axis=1)
    assert bare.any()
    assert not bare.all()
    np.testing.assert_array_equal(found["images"][bare], toy.train.images[parents[bare]])
    assert not found["mask"][bare].any()
    assert found["mask"][~bare].any(axis=(1, 2)).all()


@pytest.mark.parametrize("steps", [1, 3])
def test_sites_that_are_kept_have_their_latent_and_others_do_not(steps: int) -> None:
    model = DiffusionModel().load("cpu")
    rng = np.random.default_rng(0)
    latents, noise = rng.standard_normal((2, 2, *model.latent_shape(64)), dtype=np.float32)
    redraw = np.zeros((2, *latents.shape[2:]), np.float32)
    redraw[:, 3:9, 4:12] = 1
    prompts = ["chest radiograph, no finding"] * 2
    drawn = model.denoise(latents, prompts, noise, steps, 5, 2.0, redraw=redraw)
    kept = np.broadcast_to(redraw[:, None] == 0, latents.shape)
    np.testing.assert_allclose(drawn[kept], latents[kept], atol=1e-5)
    assert np.abs(drawn[~kept] - latents[~kept]).mean() > 0.01
    whole = model.denoise(latents, prompts, noise, steps, 5, 2.0, redraw=np.ones_like(redraw))
    np.testing.assert_allclose(whole, model.denoise(latents, prompts, noise, steps, 5, 2.0), atol=1e-5)


def test_each_step_starts_from_what_is_kept_at_its_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against a loop over the scheduler's own parts."""
    model = DiffusionModel().load("cpu")
    pipeline = model.pipeline
    rng = np.random.default_rng(1)
    latents, noise = rng.standard_normal((2, 1, *model.latent_shape(64)), dtype=np.float32)
    redraw = rng.random((1, *latents.shape[2:])).astype(np.float32)
    drawn = model.denoise(latents, ["a"], noise, 3, 5, 1.0, redraw=redraw)
    clean, eps, share = (torch.from_numpy(a) for a in (latents, noise, redraw[:, None]))
    text = pipeline.encode_prompt("a", "cpu", 1, do_classifier_free_guidance=False)[0]
    pipeline.scheduler.set_timesteps(5)
    times = pipeline.scheduler.timesteps[2:]
    now = pipeline.scheduler.add_noise(clean, eps, times[:1])
    for i, t in enumerate(times):
        with torch.no_grad():
            now = pipeline.scheduler.step(pipeline.unet(now, t, encoder_hidden_states=text).sample, t, now).prev_sample
        kept = clean if i == 2 else pipeline.scheduler.add_noise(clean, eps, times[i + 1 : i + 2])
        now = share * now + (1 - share) * kept
    np.testing.assert_allclose(drawn, now.numpy(), atol=1e-4)


def test_the_oracle_sees_fewer_head_findings_and_as_many_tail_findings(store: Store) -> None:
    dataset = Phantom(n_images=400, image_px=64, prevalence_floor=0.03)
    train = Train(split=Split(dataset=dataset, settings=SplitSettings(min_positives=1)))
    diffusion = DiffusionModel()
    latents = Latents(train=train, diffusion=diffusion)
    task = Task(train=train, latents=latents, diffusion=diffusion, plan=Plan(per_class=12), seed=0)
    ctx = context_of(Erase(), task, store)
    found = made(Erase(), ctx)
    parents = found["parents"][:, 0]
    extractor = OracleExtractor()
    judge = extractor.load(Work(store, train, store.root / "no", store.root / "no", Execution()))
    before, after = (judge(images).positives for images in (np.array(ctx.train.images[parents]), found["images"]))
    assert before is not None
    assert after is not None
    at = [extractor.class_names.index(name) for name in ctx.train.class_names]
    before, after = before[:, at], after[:, at]
    erased = (ctx.train.labels[parents] == 1) & np.isin(np.arange(len(at)), ctx.train.head_index) & before
    assert erased.sum() > 30
    assert after[erased].mean() < 0.6
    own = np.arange(len(parents)), ctx.samples
    assert after[own].mean() > before[own].mean() - 0.1


def test_bad_settings_are_one_line() -> None:
    with pytest.raises(ValidationError, match="denoise_steps: 26 is more than num_inference_steps = 25"):
        Erase(denoise_steps=26)
    with pytest.raises(ValidationError, match=r"soft_from: 0\.7 is not below soft_to = 0\.5"):
        Erase(soft_from=0.7)
    with pytest.raises(ValueError, match="redraw needs noise"):
        Diffusion.denoise(DiffusionModel().load("cpu"), np.zeros((1, 4, 16, 16), np.float32), [""], None, 1, 2, 1.0,
                          redraw=np.ones((1, 16, 16), np.float32))  # fmt: skip
