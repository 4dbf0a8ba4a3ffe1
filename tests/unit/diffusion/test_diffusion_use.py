"""How a model is used: presets, words, guidance, precision, and memory that is short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.augment.augmented import Augmented
from bench.augment.latents import Latents
from bench.config.validation import build
from bench.diffusion.model import PRESETS, DiffusionModel
from bench.diffusion.pipeline import Diffusion
from bench.diffusion.prompts import PromptTemplate, prompt_for
from bench.errors import ConfigError, StageError
from bench.store.store import Store
from bench.testing.toy import CLASS_NAMES, tiny_pipeline, toy_task
from methods.roentgen import Roentgen
from methods.sdedit import Sdedit

torch.set_num_threads(1)
TINY = str(tiny_pipeline())
PROMPTS = [f"chest radiograph, {name.lower()}" for name in (*CLASS_NAMES, "no finding")]


def gaussian(n: int = 5) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 4, 8, 8)).astype(np.float32)


# --- presets


@pytest.mark.parametrize("name", sorted(p.stem for p in PRESETS.glob("*.yaml")))
def test_a_preset_is_a_model_and_survives_its_own_record(name: str) -> None:
    model = DiffusionModel(preset=name, folder="mine")
    assert model.folder == "mine"
    assert DiffusionModel.model_validate(model.model_dump(mode="json")) == model


def test_presets_say_what_the_makers_say() -> None:
    v2 = DiffusionModel(preset="roentgen-v2")
    assert (v2.folder, v2.guidance_scale, v2.precision) == ("stanfordmimi/RoentGen-v2", 3.0, "float16")
    assert DiffusionModel(preset="roentgen-v1", folder="f").guidance_scale == 4.0
    assert DiffusionModel(preset="tiny") == DiffusionModel().model_copy(update={"preset": "tiny"})


def test_what_is_given_wins_over_the_preset_field_by_field() -> None:
    given = {"preset": "roentgen-v1", "folder": "f", "precision": "float32", "prompt": {"nothing": "normal"}}
    model = DiffusionModel.model_validate(given)
    assert (model.precision, model.guidance_scale) == ("float32", 4.0)
    assert (model.prompt.template, model.prompt.nothing) == ("{findings}", "normal")


def test_the_name_of_a_preset_is_no_part_of_a_key() -> None:
    task = toy_task()
    named = DiffusionModel(preset="tiny", folder=TINY)
    assert Latents(train=task.train, diffusion=named).key == task.latents.key


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"preset": "roentgen-v3"}, r"no preset 'roentgen-v3'; did you mean 'roentgen-v[12]'\?"),
        ({"preset": "roentgen-v1"}, "preset 'roentgen-v1' cannot know where your weights are; give diffusion.folder"),
        ({"prompt": {"template": "a radiograph"}}, "want {findings} in it once, got 'a radiograph'"),
        ({"guidance_scale": -1}, "guidance_scale: want 1 or more, got -1"),
    ],
)
def test_bad_settings_are_one_line(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as caught:
        build(DiffusionModel, given, "m.yaml.diffusion")
    assert str(caught.value).startswith("m.yaml.diffusion")
    assert "\n" not in str(caught.value)


# --- words and guidance


def test_words_follow_the_template() -> None:
    names, labels = ("Lung Opacity", "Fracture", "Nodule"), (1, 0.9, float("nan"))
    assert prompt_for(names, labels) == PromptTemplate().of(names, labels) == "chest radiograph, lung opacity, fracture"
    template = PromptTemplate(
        template="X-ray showing {findings}.", separator=" and ", case="as_is", words={"Fracture": "a broken rib"}
    )
    assert template.of(names, labels) == "X-ray showing Lung Opacity and a broken rib."
    assert template.model_copy(update={"nothing": "normal"}).of(names, (0, 0, 0)) == "X-ray showing normal."


@pytest.mark.parametrize("case", ["lower", "as_is"])
def test_underscores_of_a_class_name_are_no_words(case: str) -> None:
    said = PromptTemplate(case=case).of(("Pleural_Thickening", "No__Finding ", "a_b"), (1, 1, 1))
    assert said.lower() == "chest radiograph, pleural thickening, no finding, a b"
    assert ("Pleural" in said) == (case == "as_is")
    assert PromptTemplate(words={"a_b": "a_b"}).of(("a_b",), (1,)) == "chest radiograph, a_b"


def test_words_for_a_class_that_is_not_there_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"diffusion\.prompt\.words: no class 'Fractur'.*did you mean 'Fracture'"):
        PromptTemplate(words={"Fractur": "x"}).of(("Fracture",), (1,))


@pytest.mark.parametrize("method", [Roentgen(num_inference_steps=1), Sdedit(denoise_steps=1, num_inference_steps=2)])
def test_methods_speak_in_the_models_words_and_latents_do_not_change_with_them(
    method: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    run = Diffusion._run

    def spied(self: Diffusion, start: Any, prompts: Any, *rest: Any) -> Any:
        said.extend(prompts)
        return run(self, start, prompts, *rest)

    monkeypatch.setattr(Diffusion, "_run", spied)
    task = toy_task()
    words = PromptTemplate(template="X {findings}")
    other = task.diffusion.model_copy(update={"prompt": words, "guidance_scale": 2.0})
    latents = Latents(train=task.train, diffusion=other)
    assert latents.key == task.latents.key
    stage = Augmented.of(method, task.model_copy(update={"diffusion": other, "latents": latents}))
    assert stage.key != Augmented.of(method, task).key
    Store(tmp_path).get(stage)
    assert said
    assert all(text.startswith("X ") for text in said)


@pytest.mark.parametrize(("own", "expected"), [(None, 2.5), (1.5, 1.5)])
def test_roentgen_is_guided_as_the_models_makers_say_unless_it_is_told(
    own: float | None, expected: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []
    sample = Diffusion.sample

    def spied(self: Diffusion, prompts: Any, noise: Any, steps: int, guidance: float, *rest: Any) -> Any:
        used.append(guidance)
        return sample(self, prompts, noise, steps, guidance, *rest)

    monkeypatch.setattr(Diffusion, "sample", spied)
    task = toy_task()
    task = task.model_copy(update={"diffusion": task.diffusion.model_copy(update={"guidance_scale": 2.5})})
    Store(tmp_path).get(Augmented.of(Roentgen(num_inference_steps=1, guidance_scale=own), task))
    assert used == [expected] * len(used) != []


# --- precision and memory


@pytest.fixture
def model() -> Diffusion:
    from bench.diffusion import pipeline as diffusion

    diffusion.load_pipeline.cache_clear()  # what is found out of memory stays with the weights
    yield DiffusionModel(folder=TINY).load()
    diffusion.load_pipeline.cache_clear()


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_gives_nearly_the_same(precision: str) -> None:
    full, half = (DiffusionModel(folder=TINY, precision=p) for p in ("float32", precision))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    found = []
    for one in (full, half):
        loaded = one.load()
        sampled = loaded.sample(PROMPTS[:2], gaussian(2), 10, 2.0)
        found.append((sampled, loaded.encode(images)[0], loaded.decode(gaussian(2)).astype(float) / 255))
    assert loaded.pipeline.unet.dtype == getattr(torch, precision)
    for exact, rough in zip(*found, strict=True):
        assert rough.dtype == exact.dtype
        assert 0 < np.abs(rough - exact).max() < 0.05 * max(1, np.abs(exact).max())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_nearly_the_same() -> None:
    here, there = (DiffusionModel(folder=TINY).load(device) for device in ("cpu", "cuda"))
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    for one, other in zip(here.encode(images), there.encode(images), strict=True):
        np.testing.assert_allclose(one, other, atol=0.01)
    one, other = (m.denoise(gaussian(), PROMPTS, gaussian(), 4, 8, 2.0) for m in (here, there))
    np.testing.assert_allclose(one, other, atol=0.05)


class Short:
    """A network that has memory for so many rows, and counts."""

    def __init__(self, forward: Any, most: int) -> None:
        self.forward, self.most, self.tried = forward, most, []

    def __call__(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        self.tried.append(len(x))
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB.")
        return self.forward(x, *args, **kwargs)


def test_what_does_not_fit_is_halved_and_gives_the_same(model: Diffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32), dtype=np.uint8)
    told: list[float] = []

    def everything() -> list[np.ndarray]:
        sampled = model.sample(PROMPTS, gaussian(), 3, 2.0, told.append)
        return [sampled, *model.encode(images), model.decode(gaussian()).astype(np.float32) / 255]

    whole = everything()
    assert told == [1, 2, 3]
    told.clear()
    unet = Short(model.pipeline.unet.forward, 4)  # two images: each is there with its words and without
    encoder, decoder = (Short(getattr(model.pipeline.vae, n).forward, 2) for n in ("encoder", "decoder"))
    monkeypatch.setattr(model.pipeline.unet, "forward", unet)
    monkeypatch.setattr(model.pipeline.vae.encoder, "forward", encoder)
    monkeypatch.setattr(model.pipeline.vae.decoder, "forward", decoder)
    for one, other in zip(everything(), whole, strict=True):
        np.testing.assert_allclose(one, other, atol=1 / 255 + 1e-3)
    assert unet.tried == [10, *[4] * 6, *[2] * 3]
    assert encoder.tried == decoder.tried == [5, 2, 2, 1]
    assert told == sorted(told)
    assert told[-1] == pytest.approx(3)
    again = DiffusionModel(folder=TINY).load()
    again.decode(gaussian())
    assert decoder.tried[4:] == [2, 2, 1]  # what fits is known from then on


def test_one_image_that_does_not_fit_has_its_attention_sliced_and_then_fails(
    model: Diffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = model.sample(PROMPTS[:1], gaussian(1), 2, 2.0)
    unet = Short(model.pipeline.unet.forward, 1)
    with monkeypatch.context() as patch:
        patch.setattr(model.pipeline.unet, "forward", unet)
        with pytest.raises(
            StageError, match=r"denoising one image takes more memory .*set diffusion\.precision=float16"
        ):
            model.sample(PROMPTS, gaussian(), 2, 2.0)
    assert unet.tried == [10, 4, 2, 2]
    sliced = [type(p).__name__ for p in model.pipeline.unet.attn_processors.values()]
    assert set(sliced) == {"SlicedAttnProcessor"}
    np.testing.assert_allclose(model.sample(PROMPTS[:1], gaussian(1), 2, 2.0), whole, atol=1e-4)
