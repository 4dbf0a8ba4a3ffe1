"""Samples a pipeline for the training's own checks: the grid of samples and label fidelity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.pretrain.networks import Pipeline
from bench.pretrain.unet import tokenize
from bench.seeds import derive


def sample_images(
    pipeline: Pipeline,
    prompts: Sequence[str],
    image_px: int,
    num_inference_steps: int,
    guidance_scale: float,
    seed: int,
    batch_size: int = 32,
) -> NDArray[np.uint8]:
    """Return uint8 images `[n, R, R]`; image i depends on the seed, i and its prompt alone."""
    side, channels = image_px // pipeline.vae_scale_factor, pipeline.unet.config.in_channels
    out = []
    for first in range(0, len(prompts), batch_size):
        batch = list(prompts[first : first + batch_size])
        seeds = [derive(seed, "sample", first + i) for i in range(len(batch))]
        noise = [torch.randn(channels, side, side, generator=torch.Generator().manual_seed(s)) for s in seeds]
        latents = denoise(pipeline, torch.stack(noise), batch, num_inference_steps, guidance_scale)
        out.append(_decode(pipeline, latents))
    return np.concatenate(out)


@torch.inference_mode()
def denoise(
    pipeline: Pipeline, noise: Tensor, prompts: Sequence[str], num_inference_steps: int, guidance: float
) -> Tensor:
    """Return latents sampled from noise with classifier-free guidance."""
    scheduler = pipeline.scheduler
    scheduler.set_timesteps(num_inference_steps)
    tokens = tokenize(pipeline.tokenizer, [*[""] * len(prompts), *prompts])
    text = pipeline.text_encoder(tokens)[0]
    latents = noise * scheduler.init_noise_sigma
    for timestep in scheduler.timesteps:
        both = scheduler.scale_model_input(torch.cat([latents] * 2), timestep)
        without, named = pipeline.unet(both, timestep, encoder_hidden_states=text).sample.chunk(2)
        latents = scheduler.step(without + guidance * (named - without), timestep, latents).prev_sample
    return latents


@torch.inference_mode()
def _decode(pipeline: Pipeline, latents: Tensor) -> NDArray[np.uint8]:
    grey = pipeline.vae.decode(latents / pipeline.vae.config.scaling_factor).sample.mean(1)
    return ((grey + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).numpy()


def save_grid(images: NDArray[np.uint8], columns: int, path: Path) -> None:
    """Write images `[n, R, R]` as a PNG of `columns` columns, row by row."""
    from PIL import Image

    rows = [np.concatenate(images[i : i + columns], axis=1) for i in range(0, len(images), columns)]
    rows = [np.pad(r, ((0, 0), (0, rows[0].shape[1] - r.shape[1]))) for r in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows, axis=0)).save(path, optimize=True)
