"""SDEdit on real tail images: against the images themselves and the diffusion model's own calls."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.augment.augmented import Augmented, checked
from bench.contract import Plan
from bench.diffusion.pipeline import Diffusion
from bench.diffusion.prompts import prompt_for
from bench.errors import ConfigError
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.testing.toy import toy_task
from methods.duplicate import Duplicate
from methods.sdedit import Sdedit


@pytest.fixture(scope="module")
def context(tmp_path_factory):
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("stages")
    stage = Augmented.of(Sdedit(), toy_task(plan=Plan(per_class=6)))
    return stage.context(Work(Store(root), stage, root / "unused" / "out", root / "unused" / "ckpt", Execution()))


def made(method, ctx):
    batches = list(checked(method, ctx))
    return [np.concatenate([getattr(b, name) for b in batches]) for name in ("images", "labels", "parents")]


def short(**settings):
    return Sdedit(**({"denoise_steps": 1, "num_inference_steps": 2} | settings))


def test_without_steps_the_parents_detail_gives_the_parent_back(context):
    images, labels, parents = made(short(denoise_steps=0), context)
    assert np.array_equal(images, context.train.images[parents[:, 0]])
    np.testing.assert_array_equal(labels, context.train.labels[parents[:, 0]])


def test_parents_are_the_rows_that_duplicate_copies(context):
    np.testing.assert_array_equal(made(short(), context)[2], made(Duplicate(), context)[2])


def test_a_sample_is_its_parents_latent_noised_and_denoised_under_the_parents_labels(context, monkeypatch):
    asked = []
    denoise = Diffusion.denoise

    def spy(self, latents, prompts, noise, steps, of, guidance):
        asked.append((latents, prompts, noise, steps, of, guidance))
        return denoise(self, latents, prompts, noise, steps, of, guidance)

    monkeypatch.setattr(Diffusion, "denoise", spy)
    images, labels, parents = made(short(detail="none", guidance_scale=1.5), context)
    latents, prompts, noise, *numbers = asked[0]
    np.testing.assert_array_equal(latents, context.inputs["latents"].mean[parents[: len(latents), 0]])
    assert prompts == [prompt_for(context.train.class_names, row) for row in labels[: len(latents)]]
    assert noise.std() == pytest.approx(1, abs=0.05)
    assert numbers == [1, 2, 1.5]
    decoded = context.diffusion.decode(denoise(context.diffusion, latents, prompts, noise, 1, 2, 1.5))
    assert np.abs(images[: len(latents)].astype(int) - decoded).max() <= 1


def test_detail_is_what_the_vae_loses_and_stays_in_the_range_of_pixels(context):
    plain, _, parents = made(short(detail="none"), context)
    detailed = made(short(), context)[0]
    x = context.train.images[parents[:, 0]].astype(int)
    lost = x - context.diffusion.decode(context.inputs["latents"].mean[parents[:, 0]])
    np.testing.assert_allclose(detailed, np.clip(plain + lost, 0, 255), atol=1)


def test_random_detail_is_of_any_train_image(context):
    plain, detailed = (made(short(detail=d), context)[0].astype(int) for d in ("none", "random"))
    x = context.train.images[:].astype(int)
    lost = x - context.diffusion.decode(np.array(context.inputs["latents"].mean))
    donors = [
        int(np.abs(np.clip(image + lost, 0, 255) - seen).reshape(len(x), -1).max(1).argmin())
        for image, seen in zip(plain, detailed, strict=True)
    ]
    assert len(set(donors)) > len(donors) / 2
    np.testing.assert_allclose(detailed, np.clip(plain + lost[donors], 0, 255), atol=1)


def test_classes_that_the_model_cannot_draw_get_copies_and_the_others_stay(context):
    whole, (images, _, parents) = made(short(), context)[0], made(short(copies=["Nodule"]), context)
    copied = context.samples == context.train.class_names.index("Nodule")
    assert np.array_equal(images[copied], context.train.images[parents[copied, 0]])
    np.testing.assert_allclose(images[~copied], whole[~copied], atol=1)
    assert not np.array_equal(images[~copied], context.train.images[parents[~copied, 0]])


def test_an_unknown_class_is_refused_with_the_nearest_one(context):
    with pytest.raises(ConfigError, match=r"sdedit.copies: no class 'Nodul'.*Nodule"):
        made(short(copies=["Nodul"]), replace(context))


def test_more_steps_than_the_schedule_has_are_refused():
    with pytest.raises(ValidationError, match="denoise_steps: 26 is more than num_inference_steps = 25"):
        Sdedit(denoise_steps=26)
