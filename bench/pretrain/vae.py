"""Trains the autoencoder of a small Stable Diffusion pipeline."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.pipeline.checkpoints import Checkpoints
from bench.pipeline.settings import Settings
from bench.pixels import from_vae, has_colour, to_vae
from bench.pretrain.loop import batch_at, noise_at, train_steps
from bench.pretrain.networks import Autoencoder, ModelSettings, build_vae, scale_of
from bench.pretrain.record import Progress
from bench.seeds import derive

_MOST_STEPS = 1_000_000


class VaeSettings(Settings):
    """How the autoencoder is trained."""

    steps: int = Field(default=1_200, ge=1)
    batch_size: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=2e-3, gt=0)
    kl_weight: float = Field(default=5e-4, ge=0, description="per latent element")
    edge_weight: float = Field(default=1.0, ge=0, description="of the multi-scale gradient loss")
    checkpoint_every: int = Field(default=100, ge=1)


def to_pixels(images: NDArray[np.uint8]) -> Tensor:
    """Return images as three channels in [-1, 1]."""
    return to_vae(images).contiguous(memory_format=torch.channels_last)


def edge_loss(drawn: Tensor, real: Tensor, scales: int = 3) -> Tensor:
    """Return the L1 distance of image gradients at full, half and quarter size.

    Blurring removes noise faster than thin lines, so the coarse scales reward keeping the lines.
    """
    loss = drawn.new_zeros(())
    for _ in range(scales):
        for axis in (2, 3):
            loss = loss + (drawn.diff(dim=axis) - real.diff(dim=axis)).abs().mean() / (2 * scales)
        drawn, real = functional.avg_pool2d(drawn, 2), functional.avg_pool2d(real, 2)
    return loss


def train_vae(
    images: NDArray[np.uint8],
    seed: int,
    model: ModelSettings,
    settings: VaeSettings,
    checkpoints: Checkpoints,
    seconds: float | None = None,
) -> Iterator[tuple[Progress, Autoencoder]]:
    """Yield progress and the autoencoder every few seconds; resumes by itself."""
    torch.manual_seed(derive(seed, "vae weights"))
    vae = build_vae(model, images.shape[1]).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(vae.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=settings.steps + 1, pct_start=0.1
    )

    def do_step(step: int) -> float:
        real = to_pixels(images[batch_at(len(images), settings.batch_size, seed, "vae", step)])
        posterior = vae.encode(real).latent_dist
        latents = posterior.sample(generator=noise_at(seed, "vae", step))
        drawn = vae.decode(latents).sample
        fit = functional.l1_loss(drawn, real)
        loss = fit + settings.edge_weight * edge_loss(drawn, real)
        loss = loss + settings.kl_weight * posterior.kl().mean() / latents[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        return float(fit.detach())

    parts: dict[str, Any] = {"model": vae, "optimizer": optimizer, "schedule": schedule}
    for progress in train_steps("vae", parts, settings.steps, do_step, checkpoints, settings.checkpoint_every, seconds):
        yield progress, vae


def steps_in(images: NDArray[np.uint8], seconds: float, model: ModelSettings, settings: VaeSettings) -> int:
    """Return how many steps of the autoencoder take `seconds` here, measured on one that is thrown away.

    The number must be known before the training, because the learning rate of a step depends on it.
    """
    with tempfile.TemporaryDirectory() as folder:
        trial = settings.model_copy(update={"steps": _MOST_STEPS, "checkpoint_every": _MOST_STEPS})
        checkpoints = Checkpoints(Path(folder), "trial")
        *_, (told, _) = train_vae(images, 0, model, trial, checkpoints, min(5.0, seconds / 5))
    return max(10, int(seconds * told["step"] / told["spent"][0]))


def encode_moments(vae: Autoencoder, images: NDArray[np.uint8], batch_size: int = 64) -> tuple[Tensor, Tensor]:
    """Return unscaled mean and std of the latents of all images, each `[n, c, h, w]`."""
    vae.eval()
    means, stds = [], []
    with torch.inference_mode():
        for i in range(0, len(images), batch_size):
            posterior = vae.encode(to_pixels(images[i : i + batch_size])).latent_dist
            means.append(posterior.mean.contiguous())
            stds.append(posterior.std.contiguous())
    return torch.cat(means).clone(), torch.cat(stds).clone()


def set_scale(vae: Autoencoder, moments: tuple[Tensor, Tensor]) -> float:
    """Set and return the scaling factor that gives sampled latents unit variance."""
    mean, std = moments
    variance = float(mean.var()) + float((std**2).mean())
    factor = scale_of(variance**0.5)
    vae.register_to_config(scaling_factor=factor)
    return factor


def reconstruct(vae: Autoencoder, images: NDArray[np.uint8], batch_size: int = 64) -> NDArray[np.uint8]:
    """Return the images after the autoencoder, from the mean latent."""
    vae.eval()
    out = []
    with torch.inference_mode():
        for i in range(0, len(images), batch_size):
            latents = vae.encode(to_pixels(images[i : i + batch_size])).latent_dist.mean
            out.append(from_vae(vae.decode(latents).sample, has_colour(images)))
    return np.concatenate(out)
