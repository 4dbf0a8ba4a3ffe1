"""Trains denoiser and text encoder of a small Stable Diffusion pipeline on encoded images."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from bench.pipeline.checkpoints import Checkpoints
from bench.pipeline.settings import Settings
from bench.pretrain.loop import batch_at, noise_at, train_steps
from bench.pretrain.networks import ModelSettings, Scheduler, build_scheduler, build_unet
from bench.pretrain.record import Progress
from bench.seeds import derive

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


class UnetSettings(Settings):
    """How the denoiser and the text encoder are trained."""

    steps: int = Field(default=8_000, ge=1, description="optimizer steps")
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=8e-4, gt=0, description="constant after the warm-up")
    warmup_steps: int = Field(default=100, ge=1)
    empty_prompt_share: float = Field(default=0.1, ge=0, lt=1, description="for guidance without a classifier")
    ema_decay: float = Field(default=0.999, ge=0, lt=1)
    checkpoint_every: int = Field(default=125, ge=1)


class Average(nn.Module):
    """Exponential moving average of a module's weights, warmed up as (1 + t) / (10 + t)."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        """Start from a copy of the module."""
        super().__init__()
        self.module, self.decay = copy.deepcopy(module).requires_grad_(False), decay

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Move the average towards `module`."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        mine, theirs = ([p.detach() for p in m.parameters()] for m in (self.module, module))
        torch._foreach_lerp_(mine, theirs, weight)


class Denoiser(nn.Module):
    """U-Net and text encoder, trained together from scratch."""

    def __init__(self, unet: Any, text_encoder: Any) -> None:
        """Hold both."""
        super().__init__()
        self.unet, self.text_encoder = unet, text_encoder

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        """Return the prediction; equal prompts are encoded once."""
        unique, where = torch.unique(tokens, dim=0, return_inverse=True)
        text = self.text_encoder(unique)[0][where]
        return self.unet(latents, timesteps, encoder_hidden_states=text).sample


def tokenize(tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> Tensor:
    """Return token ids `[n, length]`, padded."""
    length = tokenizer.model_max_length
    ids = tokenizer(list(prompts), padding="max_length", max_length=length, truncation=True, return_tensors="pt")
    return ids.input_ids


def train_unet(
    moments: tuple[Tensor, Tensor],
    prompts: Sequence[str],
    text: tuple[CLIPTokenizer, CLIPTextModel],
    seed: int,
    model: ModelSettings,
    settings: UnetSettings,
    checkpoints: Checkpoints,
    seconds: float | None = None,
) -> Iterator[tuple[Progress, Denoiser]]:
    """Yield progress and the averaged denoiser every few seconds; resumes by itself.

    Args:
        moments: Mean and std of the latents, already scaled to unit variance.
        prompts: The prompt of every image.
        text: Tokenizer and untrained text encoder.
        seed: Root of weights, order and noise.
        model: Sizes of the networks.
        settings: How to train.
        checkpoints: Where to save and resume.
        seconds: How long to train, instead of the number of steps in the settings.
    """
    torch.manual_seed(derive(seed, "unet weights"))
    unet = build_unet(model, moments[0].shape[-1]).to(memory_format=torch.channels_last)
    denoiser = Denoiser(unet, text[1]).train()
    average = Average(denoiser, settings.ema_decay)
    rate = settings.learning_rate
    optimizer = torch.optim.AdamW(denoiser.parameters(), rate, betas=(0.9, 0.99), weight_decay=1e-2)
    # Constant, with averaged weights: the run does not depend on `steps`, so that it can be extended.
    warm_up = settings.warmup_steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warm_up))
    ids, empty = tokenize(text[0], prompts), tokenize(text[0], [""])
    scheduler = build_scheduler(model)

    def do_step(step: int) -> float:
        batch = torch.from_numpy(batch_at(len(ids), settings.batch_size, seed, "unet", step))
        noise = noise_at(seed, "unet", step)
        loss = _loss(denoiser, scheduler, (moments[0][batch], moments[1][batch]), ids[batch], empty, settings, noise)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        average.update(denoiser, step)
        return float(loss.detach())

    parts: dict[str, Any] = {"model": denoiser, "average": average, "optimizer": optimizer, "schedule": schedule}
    total = settings.steps if seconds is None else sys.maxsize
    for progress in train_steps("unet", parts, total, do_step, checkpoints, settings.checkpoint_every, seconds):
        yield progress, cast(Denoiser, average.module)


def _loss(
    denoiser: Denoiser,
    scheduler: Scheduler,
    moments: tuple[Tensor, Tensor],
    tokens: Tensor,
    empty: Tensor,
    settings: UnetSettings,
    noise: torch.Generator,
) -> Tensor:
    """Return the mean squared error of the noise or velocity at random timesteps."""
    mean, std = moments
    clean = mean + std * torch.randn(mean.shape, generator=noise)
    added = torch.randn(mean.shape, generator=noise)
    n = len(clean)
    # One timestep in each of n equal parts of the schedule: less variance than independent draws.
    spread = (torch.arange(n) + torch.rand(n, generator=noise)) / n
    timesteps = (spread * scheduler.config.num_train_timesteps).long()[torch.randperm(n, generator=noise)]
    dropped = torch.rand(n, generator=noise) < settings.empty_prompt_share
    tokens = torch.where(dropped[:, None], empty, tokens)
    noisy = scheduler.add_noise(clean, added, timesteps).contiguous(memory_format=torch.channels_last)
    velocity = scheduler.config.prediction_type == "v_prediction"
    target = scheduler.get_velocity(clean, added, timesteps) if velocity else added
    return functional.mse_loss(denoiser(noisy, timesteps, tokens), target)
