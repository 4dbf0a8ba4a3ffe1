"""Pipelines of the shapes of Stable Diffusion 1.5 and 2.1: last steps against loops by hand, one for each solver."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler, PNDMScheduler

from bench.diffusion.model import DiffusionModel
from bench.diffusion.pipeline import Diffusion
from tests.unit.diffusion.diffusion_folders import NOISE, SHAPES, build_folder

torch.set_num_threads(1)

PROMPTS = ["chest radiograph, fracture", "chest radiograph, no finding"]
SOLVERS: dict[str, Callable[[str], Any]] = {
    "ddim": lambda p: DDIMScheduler(clip_sample=False, set_alpha_to_one=False, prediction_type=p, **NOISE),
    "pndm": lambda p: PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, prediction_type=p, **NOISE),
    "euler": lambda p: EulerDiscreteScheduler(timestep_spacing="leading", prediction_type=p, **NOISE),
    "dpm++": lambda p: DPMSolverMultistepScheduler(timestep_spacing="leading", prediction_type=p, **NOISE),
}
ALPHAS = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
Network = Callable[[torch.Tensor, int], torch.Tensor]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("shapes")
    return {shape: build_folder(root / shape, shape) for shape in SHAPES}


def gaussian(n: int = 2, px: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 4, px, px)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_release_has_the_latents_the_words_and_the_schedule_of_its_folder(
    folders: dict[str, Path], shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = DiffusionModel(folder=str(folders[shape])).load()
    assert model.latent_shape(512) == (4, 64, 64)
    assert model.latent_shape(768) == (4, 96, 96)
    assert model.scale == 0.18215
    scheduler = model.pipeline.scheduler
    expected = SHAPES[shape]["scheduler"]
    assert type(scheduler) is type(expected)
    assert scheduler.config.prediction_type == ("v_prediction" if shape == "sd21" else "epsilon")
    read, encoder = [], model.pipeline.text_encoder.forward
    monkeypatch.setattr(
        model.pipeline.text_encoder, "forward", lambda ids, *a, **k: read.append(ids.shape) or encoder(ids, *a, **k)
    )
    found = model.sample(PROMPTS[:1], gaussian(1, 64), 2, 3.0)
    assert found.shape == (1, 4, 64, 64)
    assert read == [(2, 77)]
    assert model.decode(found[..., :8, :8]).shape == (1, 64, 64)


@pytest.mark.parametrize("shape", SHAPES)
def test_sampling_is_that_of_the_pipeline(folders: dict[str, Path], shape: str) -> None:
    model = DiffusionModel(folder=str(folders[shape])).load()
    model.pipeline.set_progress_bar_config(disable=True)
    expected = model.pipeline(
        prompt=PROMPTS, latents=torch.from_numpy(gaussian()), num_inference_steps=5, guidance_scale=3.0,
        output_type="latent",
    ).images.numpy()  # fmt: skip
    np.testing.assert_allclose(model.sample(PROMPTS, gaussian(), 5, 3.0), expected, atol=2e-4, rtol=1e-4)


def network_of(model: Diffusion, guidance: float) -> Network:
    """Return the guided prediction, from the pipeline's parts."""
    pipe = model.pipeline
    ids = pipe.tokenizer(["", *PROMPTS], padding="max_length", max_length=77, return_tensors="pt").input_ids
    with torch.no_grad():
        words = pipe.text_encoder(ids)[0]

    def predict(x: torch.Tensor, t: int) -> torch.Tensor:
        with torch.no_grad():
            empty, asked = (
                pipe.unet(x.float(), t, encoder_hidden_states=w).sample
                for w in (words[:1].expand(2, -1, -1), words[1:])
            )
        return (empty + guidance * (asked - empty)).double()

    return predict


def parts(x: torch.Tensor, said: torch.Tensor, t: int, prediction: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return (clean, noise) of x = sqrt(a) clean + sqrt(1 - a) noise by what the network says (Salimans & Ho 2022)."""
    a = ALPHAS[t]
    noise = said if prediction == "epsilon" else a.sqrt() * said + (1 - a).sqrt() * x
    return (x - (1 - a).sqrt() * noise) / a.sqrt(), noise


def ddim(x: torch.Tensor, network: Network, times: list[int], stride: int, prediction: str) -> torch.Tensor:
    for t in times:
        clean, noise = parts(x, network(x, t), t, prediction)
        before = ALPHAS[max(t - stride, 0)]
        x = before.sqrt() * clean + (1 - before).sqrt() * noise
    return x


def pndm(x: torch.Tensor, network: Network, times: list[int], stride: int, prediction: str) -> torch.Tensor:
    """Liu et al. 2022, eq. 11-12: a step by the mean of its two ends, then linear multistep of growing order."""

    def step(x: torch.Tensor, said: torch.Tensor, t: int) -> torch.Tensor:
        clean, noise = parts(x, said, t, prediction)
        before = ALPHAS[max(t - stride, 0)]
        return before.sqrt() * clean + (1 - before).sqrt() * noise

    said = [network(x, times[0])]
    end = network(step(x, said[0], times[0]), times[0] - stride) if len(times) > 1 else said[0]
    x = step(x, (said[0] + end) / 2, times[0])
    weights = [(), (), (3 / 2, -1 / 2), (23 / 12, -16 / 12, 5 / 12), (55 / 24, -59 / 24, 37 / 24, -9 / 24)]
    for t in times[1:]:
        said = [network(x, t), *said][:4]
        x = step(x, sum(w * s for w, s in zip(weights[len(said)], said, strict=True)), t)
    return x


def euler(x: torch.Tensor, network: Network, times: list[int], stride: int, prediction: str) -> torch.Tensor:
    """Karras et al. 2022, algorithm 1 without its correction, on y = clean + sigma noise."""
    sigmas = [((1 - ALPHAS[t]) / ALPHAS[t]).sqrt() for t in times] + [torch.tensor(0.0)]
    y = x / ALPHAS[times[0]].sqrt()
    for t, sigma, after in zip(times, sigmas, sigmas[1:], strict=False):
        x = y * ALPHAS[t].sqrt()
        _, noise = parts(x, network(x, t), t, prediction)
        y = y + (after - sigma) * noise
    return y


def dpm(x: torch.Tensor, network: Network, times: list[int], stride: int, prediction: str) -> torch.Tensor:
    """Lu et al. 2022, algorithm 2 (DPM-Solver++ 2M); the first step and the last are of first order."""
    half_log_snr = [0.5 * (ALPHAS[t] / (1 - ALPHAS[t])).log() for t in times]
    last_clean = torch.zeros_like(x)
    for i, t in enumerate(times):
        clean, _ = parts(x, network(x, t), t, prediction)
        if i + 1 == len(times):
            return clean
        h, used = half_log_snr[i + 1] - half_log_snr[i], clean
        if i:
            r = (half_log_snr[i] - half_log_snr[i - 1]) / h
            used = clean + (clean - last_clean) / (2 * r)
        a, b = ALPHAS[t], ALPHAS[times[i + 1]]
        x = ((1 - b) / (1 - a)).sqrt() * x - b.sqrt() * torch.expm1(-h) * used
        last_clean = clean
    raise AssertionError


BY_HAND = {"ddim": ddim, "pndm": pndm, "euler": euler, "dpm++": dpm}
STEPS = 20


@pytest.mark.parametrize("last", [1, 2, 5, STEPS])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_last_steps_of_every_solver_by_hand(
    folders: dict[str, Path], solver: str, prediction: str, last: int, tmp_path: Path
) -> None:
    SOLVERS[solver](prediction).save_pretrained(str(tmp_path))
    model = DiffusionModel(folder=str(folders["sd21" if prediction == "v_prediction" else "sd15"])).load()
    kept = model.pipeline.scheduler
    model.pipeline.scheduler = type(SOLVERS[solver](prediction)).from_pretrained(str(tmp_path))
    try:
        found = model.denoise(gaussian(), PROMPTS, gaussian(seed=1), last, STEPS, 3.5)
    finally:
        model.pipeline.scheduler = kept
    stride = 1000 // (STEPS + 1) if solver == "dpm++" else 1000 // STEPS
    first = 1 if solver == "dpm++" else 0
    times = [stride * (i + first) + 1 for i in range(last)][::-1]
    a = ALPHAS[times[0]]
    noised = a.sqrt() * torch.from_numpy(gaussian()) + (1 - a).sqrt() * torch.from_numpy(gaussian(seed=1))
    expected = BY_HAND[solver](noised, network_of(model, 3.5), times, stride, prediction)
    np.testing.assert_allclose(found, expected.numpy(), atol=5e-4, rtol=5e-4)
