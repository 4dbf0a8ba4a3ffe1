"""One class over any diffusers `StableDiffusionPipeline` folder: encode, decode, sample, denoise.

Latent shape, scaling factor, scheduler and prediction type are read from the folder, never assumed, so the tiny
shipped model, RoentGen and any Stable Diffusion go through the same code. Latents are `float32 [n, c, h, w]`, always
multiplied by the VAE's scaling factor; images are `uint8 [n, H, W]`, grey.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.diffusion import folder as diffusion_folder
from bench.diffusion.batch_fit import BatchFit
from bench.diffusion.prompts import PromptTemplate
from bench.diffusion.schedule import last_steps, stochastic_step
from bench.errors import ConfigError, StageError
from bench.tables import Float32, UInt8

_LOG = logging.getLogger(__name__)

_TOLD: set[int] = set()  # lengths of which it was said that prompts were cut to them


@functools.lru_cache(maxsize=1)
def load_pipeline(path: str, precision: str, device: str) -> tuple[Any, BatchFit]:
    """Return the pipeline, and what is found out of how many images it can take at once."""
    import torch
    from diffusers import StableDiffusionPipeline
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity(library.CRITICAL)  # it reports as an error that it looks for a second kind of file
        library.disable_progress_bar()
    # a checker would blacken radiographs; it and what feeds it need not be there, nor known by their old names
    unused = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    with torch.random.fork_rng(devices=[]):  # layers are drawn at random before their weights are read
        try:
            pipeline: Any = StableDiffusionPipeline.from_pretrained(
                path,
                **unused,
                requires_safety_checker=False,
                local_files_only=True,
                variant=diffusion_folder.variant(Path(path)),
                dtype=getattr(torch, precision),
            )
        except Exception as error:  # diffusers has many errors for files that do not go together
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ConfigError(f"diffusion.folder: {path} cannot be loaded, download it again ({said})") from error
    pipeline = pipeline.to(device, getattr(torch, precision))
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    if device.startswith("cuda"):  # what tensor cores want; on a CPU it is no faster here
        for part in (pipeline.vae, pipeline.unet):
            part.to(memory_format=torch.channels_last)
    return pipeline, BatchFit()


class Diffusion:
    """A loaded pipeline, with the prompts and the classifier-free guidance that its makers recommend."""

    batch_size = 32

    def __init__(
        self, pipeline: Any, device: str, prompts: PromptTemplate, guidance_scale: float, fit: BatchFit
    ) -> None:
        """Wrap a diffusers pipeline that is already on `device`."""
        self.pipeline, self.device, self.prompts, self.guidance_scale = pipeline, device, prompts, guidance_scale
        self.scale = float(pipeline.vae.config.scaling_factor)
        self.dtype = pipeline.unet.dtype
        self._fit = fit

    def prompt(self, class_names: Sequence[str], labels: Iterable[float | bool]) -> str:
        """Return the sentence for `labels` in the words that the model is used with."""
        return self.prompts.of(class_names, labels)

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

        def encode(rows: slice) -> np.ndarray:
            pixels = self._tensor(images[rows])[:, None] / 127.5 - 1
            with torch.inference_mode():
                posterior = self.pipeline.vae.encode(pixels.expand(-1, 3, -1, -1).to(self.dtype)).latent_dist
            moments = (posterior.mean.float() * self.scale, posterior.std.float() * self.scale)
            return np.stack([_array(_finite(tensor, "latents")) for tensor in moments])

        mean, std = np.concatenate(self._fit.run("encoding", len(images), encode), axis=1)
        return mean, std

    def decode(self, latents: Float32) -> UInt8:
        """Return `uint8 [n, H, W]` images of scaled latents (the mean of the three decoded channels)."""
        import torch

        def decode(rows: slice) -> UInt8:
            unscaled = (self._tensor(latents[rows]) / self.scale).to(self.dtype)
            with torch.inference_mode():
                pixels = self.pipeline.vae.decode(unscaled).sample.float().mean(dim=1)
            return ((_finite(pixels, "pixels") + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()

        return np.concatenate(self._fit.run("decoding", len(latents), decode))

    def sample(
        self,
        prompts: Sequence[str],
        noise: Float32,
        num_inference_steps: int,
        guidance_scale: float,
        on_step: Callable[[float], None] = lambda done: None,
    ) -> Float32:
        """Return latents sampled from unit Gaussian `noise` by text with classifier-free guidance (Ho & Salimans 2022).

        Args:
            prompts: one for each latent.
            noise: `float32 [n, c, h, w]`.
            num_inference_steps: length of the schedule (PNDM's multistep start evaluates its second step twice).
            guidance_scale: 1 is the conditional prediction as it is.
            on_step: told the number of evaluations done (fractions, where the latents go in pieces).
        """
        steps = (num_inference_steps, num_inference_steps)
        self._last_steps(*steps)
        start = noise * np.float32(self.pipeline.scheduler.init_noise_sigma)
        return self._in_pieces(start, prompts, steps, guidance_scale, on_step)

    def denoise(
        self,
        latents: Float32,
        prompts: Sequence[str],
        noise: Float32 | None,
        denoise_steps: int,
        num_inference_steps: int,
        guidance_scale: float,
        on_step: Callable[[float], None] = lambda done: None,
    ) -> Float32:
        """Return `latents` after the last `denoise_steps` of `num_inference_steps` scheduler steps.

        With `noise` (unit Gaussian, same shape) the latents are first noised to the level at which that part of the
        schedule starts, as SDEdit does (Meng et al. 2022); with None they enter as they are, as the paper's code does.

        Raises:
            ConfigError: if there are fewer steps than asked for, or the scheduler cannot be entered in the middle.
        """
        if denoise_steps == 0:
            return latents
        steps = (denoise_steps, num_inference_steps)
        timesteps = self._last_steps(*steps)
        if noise is not None:
            clean, added = self._tensor(latents), self._tensor(noise)
            latents = _array(self.pipeline.scheduler.add_noise(clean, added, timesteps[:1].expand(len(latents))))
        return self._in_pieces(latents, prompts, steps, guidance_scale, on_step)

    def _last_steps(self, wanted: int, num_inference_steps: int) -> Any:
        return last_steps(self.pipeline.scheduler, wanted, num_inference_steps, self.device)

    def _in_pieces(
        self,
        start: Float32,
        prompts: Sequence[str],
        steps: tuple[int, int],
        guidance_scale: float,
        on_step: Callable[[float], None],
    ) -> Float32:
        """Return `start` after the scheduler's `steps` (how many, of how many), as many at once as memory takes."""

        def run(rows: slice) -> Float32:
            before, share = rows.start / len(start), (rows.stop - rows.start) / len(start)

            def tell(done: int, of: int) -> None:
                on_step(before * of + share * done)

            return self._run(start[rows], prompts[rows], self._last_steps(*steps), guidance_scale, tell)

        def relieve() -> None:
            self.pipeline.unet.set_attention_slice("max")

        return np.concatenate(self._fit.run("denoising", len(start), run, relieve))

    def _run(
        self,
        start: Float32,
        prompts: Sequence[str],
        timesteps: Any,
        guidance_scale: float,
        tell: Callable[[int, int], None],
    ) -> Float32:
        """Return `start` after the scheduler's steps at `timesteps`, with classifier-free guidance.

        Latents stay in float32 between the steps, whatever the network computes in: rounding would add up.
        """
        import torch

        scheduler, unet = self.pipeline.scheduler, self.pipeline.unet
        guided = guidance_scale != 1.0
        extra = stochastic_step(scheduler, start)
        with torch.inference_mode():
            texts = self._embed([*([""] * len(prompts) if guided else []), *prompts])
            latents = self._tensor(start)
            for i, timestep in enumerate(timesteps):
                model_input = scheduler.scale_model_input(torch.cat([latents] * 2) if guided else latents, timestep)
                predicted = unet(model_input.to(self.dtype), timestep, encoder_hidden_states=texts).sample.float()
                if guided:
                    unconditional, conditional = predicted.chunk(2)
                    predicted = unconditional + guidance_scale * (conditional - unconditional)
                latents = scheduler.step(predicted, timestep, latents, **extra).prev_sample
                tell(i + 1, len(timesteps))
        return _array(_finite(latents, "latents"))

    def _tensor(self, array: np.ndarray) -> Any:
        """Return a float32 copy of `array` on the device."""
        import torch

        return torch.tensor(np.asarray(array), device=self.device).float()

    def _embed(self, prompts: Sequence[str]) -> Any:
        """Return `[n, tokens, width]` text embeddings; equal prompts are encoded once."""
        import torch

        tokenizer = self.pipeline.tokenizer
        unique = list(dict.fromkeys(prompts))
        # old folders do not say how long a text may be, and then any length is right to the tokenizer
        length = min(tokenizer.model_max_length, self.pipeline.text_encoder.config.max_position_embeddings)
        tokens = tokenizer(unique, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        if cut := [p for p, ids in zip(unique, tokenizer(unique).input_ids, strict=True) if len(ids) > length]:
            _tell_of_cut(length, cut)
        embedded = self.pipeline.text_encoder(tokens.input_ids.to(self.device))[0]
        return embedded[torch.tensor([unique.index(p) for p in prompts], device=embedded.device)]


def _tell_of_cut(length: int, prompts: Sequence[str]) -> None:
    """Say that words are lost: once a process, for a night's work asks in thousands of batches."""
    if length not in _TOLD:
        _TOLD.add(length)
        _LOG.warning("prompts longer than %d tokens lose their end, shorten diffusion.prompt: %.200r", length, prompts)


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
