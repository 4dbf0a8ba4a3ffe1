"""One class over any diffusers `StableDiffusionPipeline` folder: encode, decode, sample, denoise.

Latent shape, scaling factor, scheduler and prediction type are read from the folder, never assumed, so the tiny
shipped model, RoentGen and any Stable Diffusion go through the same code. Latents are `float32 [n, c, h, w]`, always
multiplied by the VAE's scaling factor; images are `uint8 [n, H, W]`, grey.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.errors import ConfigError, StageError
from bench.stage import Settings, not_semantic
from bench.types import Float32, UInt8

SHIPPED = Path(__file__).parent / "assets" / "tiny-diffusion"
_WHOLE_FILE_LIMIT = 256 << 20


class DiffusionModel(Settings):
    """Which diffusion model: `tiny` (shipped), a folder in diffusers' layout, or a hub id already downloaded."""

    folder: str = not_semantic("tiny")
    precision: Literal["float32", "float16", "bfloat16"] = "float32"

    def content(self) -> dict[str, str]:
        """Return the digest of the weights and configuration: what enters keys instead of the path."""
        return {"digest": _digest(str(self.path))}

    @property
    def path(self) -> Path:
        """Return the local folder.

        Raises:
            ConfigError: if there is no such folder with a `model_index.json`.
        """
        path = SHIPPED if self.folder == "tiny" else Path(self.folder).expanduser()
        if not (path / "model_index.json").is_file():
            hub = _hub_snapshot(self.folder)
            if hub is None:
                raise ConfigError(
                    f"diffusion.folder: '{self.folder}' has no model_index.json; give a StableDiffusionPipeline "
                    "folder, "
                    "a hub id that is already downloaded, or 'tiny' (made by `bench pretrain diffusion`)"
                )
            return hub
        return path

    def load(self, device: str = "cpu") -> Diffusion:
        """Return the model on `device`, ready to run (loaded once a process)."""
        return _load(str(self.path), self.precision, device)


def _hub_snapshot(name: str) -> Path | None:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        return None
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None


@functools.cache
def _digest(path: str) -> str:
    """Digest every JSON, text and weight file below `path`; of files past 256 MiB their size and both ends."""
    digest = hashlib.sha256()
    suffixes = {".json", ".txt", ".safetensors", ".bin"}
    for file in sorted(
        p for p in Path(path).rglob("*") if p.suffix in suffixes and p.name not in ("record.json", "manifest.json")
    ):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path)}:{size}:".encode())
        with open(file, "rb") as handle:
            if size <= _WHOLE_FILE_LIMIT:
                digest.update(handle.read())
            else:
                digest.update(handle.read(1 << 20))
                handle.seek(-(1 << 20), 2)
                digest.update(handle.read())
    return digest.hexdigest()[:32]


@functools.lru_cache(maxsize=1)
def _load(path: str, precision: str, device: str) -> Diffusion:
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    for library in (logging, transformers_logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):  # layers are drawn at random before their weights are read
        try:
            pipeline = StableDiffusionPipeline.from_pretrained(
                path, safety_checker=None, requires_safety_checker=False, local_files_only=True
            )
        except Exception as error:  # diffusers has many errors for files that do not go together
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ConfigError(f"diffusion.folder: {path} cannot be loaded, download it again ({said})") from error
    return Diffusion(pipeline.to(device, getattr(torch, precision)), device)


class Diffusion:
    """A loaded pipeline."""

    batch_size = 32

    def __init__(self, pipeline: Any, device: str) -> None:
        """Wrap a diffusers pipeline that is already on `device`."""
        self.pipeline, self.device = pipeline, device
        self.scale = float(pipeline.vae.config.scaling_factor)
        self.dtype = pipeline.unet.dtype
        for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
            part.eval().requires_grad_(False)

    def latent_shape(self, image_px: int) -> tuple[int, int, int]:
        """Return `(c, h, w)` of the latent of an `image_px` square image.

        Raises:
            ConfigError: if the VAE cannot halve that side as often as it has to.
        """
        factor = int(self.pipeline.vae_scale_factor)
        if image_px % factor:
            raise ConfigError(f"image_px: {image_px} is no multiple of {factor}, which the diffusion model's VAE needs")
        return int(self.pipeline.vae.config.latent_channels), image_px // factor, image_px // factor

    def encode(self, images: UInt8) -> tuple[Float32, Float32]:
        """Return mean and std of the latents of `uint8 [n, H, W]` images, each `float32 [n, c, h, w]`, scaled."""
        import torch

        pixels = self._tensor(images)[:, None] / 127.5 - 1
        with torch.inference_mode():
            posterior = self.pipeline.vae.encode(pixels.expand(-1, 3, -1, -1)).latent_dist
        moments = (posterior.mean * self.scale, posterior.std * self.scale)
        mean, std = (_array(_finite(tensor, "latents")) for tensor in moments)
        return mean, std

    def decode(self, latents: Float32) -> UInt8:
        """Return `uint8 [n, H, W]` images of scaled latents (the mean of the three decoded channels)."""
        import torch

        with torch.inference_mode():
            pixels = self.pipeline.vae.decode(self._tensor(latents) / self.scale).sample.float().mean(dim=1)
        return ((_finite(pixels, "pixels") + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()

    def sample(
        self,
        prompts: Sequence[str],
        noise: Float32,
        num_inference_steps: int,
        guidance_scale: float,
        on_step: Callable[[int], None] = lambda done: None,
    ) -> Float32:
        """Return latents sampled from unit Gaussian `noise` by text with classifier-free guidance (Ho & Salimans 2022).

        Args:
            prompts: one for each latent.
            noise: `float32 [n, c, h, w]`.
            num_inference_steps: length of the schedule (PNDM's multistep start evaluates its second step twice).
            guidance_scale: 1 is the conditional prediction as it is.
            on_step: told the number of evaluations done.
        """
        timesteps = self._last_steps(num_inference_steps, num_inference_steps)
        start = noise * np.float32(self.pipeline.scheduler.init_noise_sigma)
        return self._run(start, prompts, timesteps, guidance_scale, on_step)

    def denoise(
        self,
        latents: Float32,
        prompts: Sequence[str],
        noise: Float32 | None,
        denoise_steps: int,
        num_inference_steps: int,
        guidance_scale: float,
        on_step: Callable[[int], None] = lambda done: None,
    ) -> Float32:
        """Return `latents` after the last `denoise_steps` of `num_inference_steps` scheduler steps.

        With `noise` (unit Gaussian, same shape) the latents are first noised to the level at which that part of the
        schedule starts, as SDEdit does (Meng et al. 2022); with None they enter as they are, as the paper's code does.

        Raises:
            ConfigError: if there are fewer steps than asked for, or the scheduler cannot be entered in the middle.
        """
        if denoise_steps == 0:
            return latents
        timesteps = self._last_steps(denoise_steps, num_inference_steps)
        if noise is not None:
            clean, added = self._tensor(latents).float(), self._tensor(noise).float()
            latents = _array(self.pipeline.scheduler.add_noise(clean, added, timesteps[:1].expand(len(latents))))
        return self._run(latents, prompts, timesteps, guidance_scale, on_step)

    def _last_steps(self, wanted: int, num_inference_steps: int) -> Any:
        """Set the scheduler to `num_inference_steps`, ready for its last `wanted`; return the timesteps to evaluate at.

        A schedule may hold several evaluations a step, and those of a step differ in kind with their place:
        second-order solvers (`order` 2) come in pairs; PNDM (Liu et al. 2022) starts its multistep rule by evaluating
        the second timestep twice, wherever it is started. Cutting its list in the middle would drop that second
        evaluation and leave the latent one step noisier than the schedule believes.
        """
        import torch

        scheduler = self.pipeline.scheduler
        if not 1 <= wanted <= num_inference_steps:
            raise ConfigError(f"denoise_steps: got {wanted}, allowed 0 to num_inference_steps = {num_inference_steps}")
        scheduler.set_timesteps(num_inference_steps, device=self.device)
        skipped = num_inference_steps - wanted
        if not hasattr(scheduler, "plms_timesteps"):
            first = skipped * int(scheduler.order)
            if hasattr(scheduler, "set_begin_index"):
                scheduler.set_begin_index(first)
            return scheduler.timesteps[first:]
        if not skipped:
            return scheduler.timesteps
        if not scheduler.config.skip_prk_steps:
            raise ConfigError(
                "diffusion.scheduler: PNDM with a Runge-Kutta start cannot be entered in the middle; "
                "set skip_prk_steps to true in scheduler_config.json, as Stable Diffusion does"
            )
        last = list(dict.fromkeys(scheduler.timesteps.tolist()))[skipped:]
        return torch.tensor([*last[:2], *last[1:]], device=self.device)

    def _run(
        self,
        start: Float32,
        prompts: Sequence[str],
        timesteps: Any,
        guidance_scale: float,
        on_step: Callable[[int], None],
    ) -> Float32:
        """Return `start` after the scheduler's steps at `timesteps`, with classifier-free guidance."""
        import torch

        scheduler, unet = self.pipeline.scheduler, self.pipeline.unet
        guided = guidance_scale != 1.0
        extra = _stochastic_step(scheduler, start)
        with torch.inference_mode():
            texts = self._embed([*([""] * len(prompts) if guided else []), *prompts])
            latents = self._tensor(start)
            for i, timestep in enumerate(timesteps):
                model_input = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
                predicted = unet(model_input, timestep, encoder_hidden_states=texts).sample
                if guided:
                    unconditional, conditional = predicted.chunk(2)
                    predicted = unconditional + guidance_scale * (conditional - unconditional)
                latents = scheduler.step(predicted, timestep, latents, **extra).prev_sample
                on_step(i + 1)
        return _array(_finite(latents, "latents"))

    def _tensor(self, array: np.ndarray) -> Any:
        """Return a copy of `array` on the device, in the model's precision."""
        import torch

        return torch.tensor(np.asarray(array), device=self.device).to(self.dtype)

    def _embed(self, prompts: Sequence[str]) -> Any:
        """Return `[n, tokens, width]` text embeddings; equal prompts are encoded once."""
        import torch

        tokenizer = self.pipeline.tokenizer
        unique = list(dict.fromkeys(prompts))
        tokens = tokenizer(
            unique, padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        embedded = self.pipeline.text_encoder(tokens.input_ids.to(self.device))[0]
        return embedded[torch.tensor([unique.index(p) for p in prompts], device=embedded.device)]


def _array(tensor: Any) -> Float32:
    return tensor.float().cpu().numpy()


def _finite(tensor: Any, what: str) -> Any:
    """Return a tensor of numbers; NaN would become black images, which nothing later could tell from dark ones.

    Raises:
        StageError: if there is NaN or infinity in it.
    """
    import torch

    if not torch.isfinite(tensor).all():
        raise StageError(
            f"diffusion: {what} are not finite numbers; the weights are damaged, or diffusion.precision is too narrow "
            "for them (try float32)"
        )
    return tensor


def _stochastic_step(scheduler: Any, start: Float32) -> dict[str, Any]:
    """Return the `generator` argument for schedulers that draw noise in `step`: one a sample, seeded by its start.

    So an ancestral sampler gives the same sample in any batch and leaves torch's global generator alone.
    """
    import torch

    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    digests = (hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in start)
    return {"generator": [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]}
