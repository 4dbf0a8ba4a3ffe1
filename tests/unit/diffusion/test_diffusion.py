"""The diffusion model against diffusers' own pipeline and against a loop of ten lines."""

import inspect
import json
import shutil

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    DPMSolverSinglestepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    KDPM2DiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)

from bench.diffusion import folder as diffusion_folder
from bench.diffusion.model import DiffusionModel
from bench.diffusion.pipeline import Diffusion
from bench.errors import ConfigError
from bench.testing.toy import build_pipeline, tiny_pipeline

PROMPTS = ["chest radiograph, fracture", "chest radiograph, no finding", "chest radiograph, opacity"]
BASE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SCHEDULERS = {
    "ddim": (DDIMScheduler, {"clip_sample": False, "set_alpha_to_one": False}),
    "pndm": (PNDMScheduler, {"skip_prk_steps": True, "set_alpha_to_one": False}),
    "euler": (EulerDiscreteScheduler, {}),
    "ancestral": (EulerAncestralDiscreteScheduler, {}),
    "heun": (HeunDiscreteScheduler, {}),
    "dpm++": (DPMSolverMultistepScheduler, {"algorithm_type": "dpmsolver++"}),
    "dpm++sde": (DPMSolverMultistepScheduler, {"algorithm_type": "sde-dpmsolver++"}),
    "unipc": (UniPCMultistepScheduler, {}),
    "ddpm": (DDPMScheduler, {"clip_sample": False}),
    "deis": (DEISMultistepScheduler, {}),
    "dpm++single": (DPMSolverSinglestepScheduler, {}),
    "kdpm2": (KDPM2DiscreteScheduler, {}),
}
DETERMINISTIC = ["ddim", "pndm", "euler", "heun", "dpm++", "unipc", "deis", "dpm++single", "kdpm2"]
TWICE_A_STEP = ["pndm", "heun", "kdpm2"]


def test_schedulers_that_are_let_pass_are_those_that_are_tried_here():
    assert {cls.__name__ for cls, _ in SCHEDULERS.values()} == set(diffusion_folder.SCHEDULERS)


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def model():
    loaded = DiffusionModel(folder=str(tiny_pipeline())).load()
    kept = loaded.pipeline.scheduler
    yield loaded
    loaded.pipeline.scheduler = kept


def use(model: Diffusion, name: str, prediction: str = "epsilon") -> None:
    cls, settings = SCHEDULERS[name]
    base = {k: v for k, v in BASE.items() if k in inspect.signature(cls).parameters}
    model.pipeline.scheduler = cls(**base, prediction_type=prediction, **settings)


def gaussian(n=3, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 4, 8, 8)).astype(np.float32)


def by_pipeline(model: Diffusion, noise, steps, guidance):
    """The independent reference: diffusers' StableDiffusionPipeline.__call__ itself."""
    model.pipeline.set_progress_bar_config(disable=True)
    return model.pipeline(
        prompt=PROMPTS, latents=torch.from_numpy(noise), num_inference_steps=steps, guidance_scale=guidance,
        output_type="latent",
    ).images.numpy()  # fmt: skip


def test_encode_gives_scaled_moments(model):
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32), dtype=np.uint8)
    mean, std = model.encode(images)
    pixels = torch.from_numpy(images / 127.5 - 1).float()[:, None].repeat(1, 3, 1, 1)
    with torch.no_grad():
        posterior = model.pipeline.vae.encode(pixels).latent_dist
    assert mean.shape == std.shape == (3, *model.latent_shape(32)) == (3, 4, 8, 8)
    np.testing.assert_allclose(mean, posterior.mean * model.scale, atol=1e-5)
    np.testing.assert_allclose(std, posterior.std * model.scale, atol=1e-5)


def test_scaling_factor_is_read_from_the_folder(tmp_path):
    folder = shutil.copytree(tiny_pipeline(), tmp_path / "scaled")
    config = folder / "vae" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"scaling_factor": 0.25}))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    plain, scaled = (DiffusionModel(folder=str(f)).load() for f in (tiny_pipeline(), folder))
    (mean, std), (quarter, quarter_std) = plain.encode(images), scaled.encode(images)
    np.testing.assert_allclose(quarter, mean * 0.25 / plain.scale, rtol=1e-5)
    np.testing.assert_allclose(quarter_std, std * 0.25 / plain.scale, rtol=1e-5)
    assert np.array_equal(scaled.decode(mean * np.float32(0.25 / plain.scale)), plain.decode(mean))


def test_decode_is_the_pipelines_image_in_grey(model):
    latents = gaussian() * 2
    with torch.no_grad():
        raw = model.pipeline.vae.decode(torch.from_numpy(latents) / model.scale).sample.mean(1)
    expected = ((raw / 2 + 0.5).clamp(0, 1) * 255).round().numpy()
    images = model.decode(latents)
    assert images.shape == (3, 32, 32)
    assert images.dtype == np.uint8
    assert np.abs(images - expected).max() <= 1
    assert images.std() > 0


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", DETERMINISTIC)
def test_sample_is_what_the_pipeline_samples(model, name, prediction, guidance):
    use(model, name, prediction)
    expected = by_pipeline(model, gaussian(), 7, guidance)
    np.testing.assert_allclose(model.sample(PROMPTS, gaussian(), 7, guidance), expected, atol=2e-4, rtol=1e-4)


def test_sample_depends_on_noise_prompt_and_guidance(model):
    base = model.sample(PROMPTS, gaussian(), 3, 4.0)
    assert np.array_equal(base, model.sample(PROMPTS, gaussian(), 3, 4.0))
    assert not np.allclose(base, model.sample(PROMPTS, gaussian(seed=1), 3, 4.0))
    assert not np.allclose(base, model.sample(PROMPTS[::-1], gaussian(), 3, 4.0))
    assert not np.allclose(base, model.sample(PROMPTS, gaussian(), 3, 1.0))


@pytest.mark.parametrize("name", SCHEDULERS)
def test_denoising_all_steps_of_pure_noise_is_sampling(model, name):
    use(model, name)
    start = gaussian() * float(_ready(model, 6).init_noise_sigma)
    sampled = model.sample(PROMPTS, gaussian(), 6, 3.5)
    assert np.isfinite(sampled).all()
    assert np.array_equal(model.denoise(start, PROMPTS, None, 6, 6, 3.5), sampled)


def _ready(model, steps):
    model.pipeline.scheduler.set_timesteps(steps)
    return model.pipeline.scheduler


def test_no_step_changes_nothing(model):
    latents = gaussian()
    assert np.array_equal(model.denoise(latents, PROMPTS, gaussian(seed=1), 0, 75, 3.5), latents)


def ddim_by_hand(model: Diffusion, latents, noise, last, steps, guidance):
    """Song et al. 2021, eq. 12 with sigma = 0, over the last `last` of `steps` evenly spaced timesteps."""
    alphas = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2, 0)
    stride = 1000 // steps
    times = [stride * i + 1 for i in range(last)][::-1]
    x = torch.from_numpy(latents)
    if noise is not None:
        x = alphas[times[0]].sqrt() * x + (1 - alphas[times[0]]).sqrt() * torch.from_numpy(noise)
    tokenizer, encoder = model.pipeline.tokenizer, model.pipeline.text_encoder
    with torch.no_grad():
        ids = tokenizer(["", *PROMPTS], padding="max_length", return_tensors="pt").input_ids
        texts = encoder(ids)[0]
        for t in times:
            conditional = model.pipeline.unet(x, t, texts[1:]).sample
            empty = model.pipeline.unet(x, t, texts[:1].expand(len(x), -1, -1)).sample
            eps = empty + guidance * (conditional - empty)
            before = alphas[t - stride] if t > stride else alphas[0]
            clean = (x - (1 - alphas[t]).sqrt() * eps) / alphas[t].sqrt()
            x = before.sqrt() * clean + (1 - before).sqrt() * eps
    return x.numpy()


@pytest.mark.parametrize("last", [1, 5, 25])
@pytest.mark.parametrize("noised", [True, False])
def test_last_steps_of_ddim_by_hand(model, last, noised):
    use(model, "ddim")
    noise = gaussian(seed=1) if noised else None
    expected = ddim_by_hand(model, gaussian(), noise, last, 25, 3.5)
    np.testing.assert_allclose(model.denoise(gaussian(), PROMPTS, noise, last, 25, 3.5), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("last", [1, 2, 5])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_runs_its_last_steps_to_the_clean_end(model, name, last):
    """With a denoiser that is right, SDEdit gives the clean latent back, whatever the solver.

    A deterministic solver is told the very noise that was added, so a step left out would leave its share of it;
    a stochastic one is told the noise that is in the sample, since it adds its own.
    """
    use(model, name)
    clean, noise = gaussian(), gaussian(seed=1)
    told = noise if name in DETERMINISTIC else None
    unet, model.pipeline.unet = model.pipeline.unet, _Right(_ready(model, 75).alphas_cumprod, clean, told)
    try:
        out = model.denoise(clean, PROMPTS, noise, last, 75, 1.0)
        asked = model.pipeline.unet.asked
    finally:
        model.pipeline.unet = unet
    assert np.abs(out - clean).mean() < 0.04
    assert asked == sorted(asked, reverse=True)
    if name not in TWICE_A_STEP:
        assert len(asked) == last


class _Right:
    """Stands for the UNet: predicts the noise that was added, or the noise that is in the sample."""

    def __init__(self, alphas, clean, noise):
        self.alphas, self.clean, self.noise, self.asked = alphas, torch.from_numpy(clean), noise, []

    def __call__(self, x, timestep, encoder_hidden_states):
        self.asked.append(int(timestep))
        alpha = self.alphas[int(timestep)]
        inside = (x - alpha.sqrt() * self.clean) / (1 - alpha).sqrt()
        return type("Output", (), {"sample": inside if self.noise is None else torch.from_numpy(self.noise)})


def test_pndm_entered_in_the_middle_warms_up_as_at_its_start(model):
    use(model, "pndm")
    assert model._last_steps(1, 75).tolist() == [1]
    assert model._last_steps(4, 75).tolist() == [40, 27, 27, 14, 1]
    assert len(model._last_steps(75, 75)) == 76


def test_pndm_with_a_runge_kutta_start_is_refused_in_the_middle(model):
    model.pipeline.scheduler = PNDMScheduler(**BASE)
    assert np.isfinite(model.sample(PROMPTS, gaussian(), 20, 1.0)).all()
    with pytest.raises(ConfigError, match="skip_prk_steps"):
        model.denoise(gaussian(), PROMPTS, None, 5, 20, 1.0)


def test_more_steps_than_the_schedule_has_are_refused(model):
    with pytest.raises(ConfigError, match="allowed 0 to num_inference_steps = 4"):
        model.denoise(gaussian(), PROMPTS, None, 5, 4, 1.0)


@pytest.mark.parametrize("name", ["ddim", "ancestral", "dpm++sde"])
def test_a_sample_does_not_depend_on_its_batch_and_leaves_global_generators_alone(model, name):
    use(model, name)
    before = torch.random.get_rng_state()
    whole = model.sample(PROMPTS, gaussian(), 4, 4.0)
    single = np.concatenate([model.sample([p], gaussian()[i : i + 1], 4, 4.0) for i, p in enumerate(PROMPTS)])
    assert torch.equal(torch.random.get_rng_state(), before)
    np.testing.assert_allclose(whole, single, atol=2e-4)
    assert np.abs(model.decode(whole).astype(int) - model.decode(single)).max() <= 1


def test_progress_counts_evaluations(model):
    told = []
    model.denoise(gaussian(), PROMPTS, None, 3, 10, 1.0, told.append)
    assert told == [1, 2, 3]


def test_digest_follows_the_weights_not_the_place(tmp_path):
    other = build_pipeline(tmp_path / "other", seed=1)
    moved = shutil.copytree(tiny_pipeline(), tmp_path / "moved")
    one, same, another = (DiffusionModel(folder=str(f)).content() for f in (tiny_pipeline(), moved, other))
    assert one == same
    assert one != another


def test_a_folder_that_is_no_pipeline_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no model_index\.json"):
        _ = DiffusionModel(folder=str(tmp_path)).path


def test_a_side_that_the_vae_cannot_halve_is_refused(model):
    with pytest.raises(ConfigError, match="image_px: 30 is no multiple of 4"):
        model.latent_shape(30)
