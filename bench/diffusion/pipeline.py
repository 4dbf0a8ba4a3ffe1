"""Runs any diffusers `StableDiffusionPipeline` folder: encode, decode, sample, denoise.

Latent shape, scaling factor, scheduler and prediction type are read from the folder and never assumed. So the tiny
shipped model, RoentGen and any Stable Diffusion 1 or 2 use the same code. Latents are `float32 [n, c, h, w]`, always
multiplied by the VAE's scaling factor. Images are those of `bench.pixels`:
grey or with colour.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.diffusion.batch_fit import BatchFit
from bench.diffusion.folder import view_of_files_read
from bench.diffusion.prompts import PromptTemplate
from bench.diffusion.schedule import check_guidance, last_steps, stochastic_step
from bench.errors import ConfigError, StageError
from bench.pixels import from_vae, to_vae
from bench.tables import Float32, UInt8

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_LOG = logging.getLogger(__name__)

_WARNED: set[int] = set()  # Token limits for which the warning about cut prompts was already given.


@functools.lru_cache(maxsize=1)
def load_pipeline(path: str, precision: str, device: str) -> tuple[Any, BatchFit]:
    """Return the pipeline on `device`, and the `BatchFit` that learns how many images it can take at once.

    Only the last pipeline is kept, so that two are never in memory. Its `BatchFit` is cached with it, so that the next
    stage need not find the limits again.

    Raises:
        ConfigError: if the folder cannot be loaded.
    """
    import torch
    from diffusers import StableDiffusionPipeline

    silence_libraries()
    # The safety checker would blacken radiographs. It and its inputs are switched off, so their files may be missing.
    unused = dict.fromkeys(("safety_checker", "feature_extractor", "image_encoder"))
    with torch.random.fork_rng(devices=[]):  # Building the layers draws random weights before the real ones are read.
        try:
            with view_of_files_read(Path(path)) as view:
                pipeline: Any = StableDiffusionPipeline.from_pretrained(
                    view,
                    **unused,
                    requires_safety_checker=False,
                    local_files_only=True,
                    dtype=getattr(torch, precision),
                )
        except Exception as error:  # Diffusers raises many kinds of errors for files that do not fit together.
            said = " ".join(f"{type(error).__name__}: {error}".split())[:300]
            raise ConfigError(f"diffusion.folder: {path} cannot be loaded, download it again ({said})") from error
    pipeline = pipeline.to(device, getattr(torch, precision))
    for part in (pipeline.vae, pipeline.unet, pipeline.text_encoder):
        part.eval().requires_grad_(False)
    if device.startswith("cuda"):  # Tensor cores are faster with this layout. On a CPU it makes no difference here.
        for part in (pipeline.vae, pipeline.unet):
            part.to(memory_format=torch.channels_last)
    return pipeline, BatchFit()


def silence_libraries() -> None:
    """Keep the bars and remarks of diffusers and transformers off stderr."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    for library in (diffusers_logging, transformers_logging):
        library.set_verbosity(library.CRITICAL)  # Below this, looking for a second file format is logged as an error.
        library.disable_progress_bar()


class Diffusion:
    """A loaded pipeline, with the prompts and the classifier-free guidance that its makers recommend."""

    batch_size = 32

    def __init__(
        self,
        pipeline: Any,
        device: str,
        prompts: PromptTemplate,
        guidance_scale: float,
        fit: BatchFit,
        colour: bool = False,
    ) -> None:
        """Wrap a diffusers pipeline that is already on `device`; with `colour` it decodes images with colour."""
        self.pipeline, self.device, self.prompts, self.guidance_scale = pipeline, device, prompts, guidance_scale
        self.scale = float(pipeline.vae.config.scaling_factor)
        self.dtype = pipeline.unet.dtype
        self._fit, self._colour = fit, colour

    def prompt(self, class_names: Sequence[str], labels: Iterable[float | bool]) -> str:
        """Return the prompt for `labels`, in the words that this model understands."""
        return self.prompts.of(class_names, labels)

    def latent_shape(self, image_px: int) -> tuple[int, int, int]:
        """Return the shape `(c, h, w)` of the latent of a square image of side `image_px`.

        Raises:
            ConfigError: if the side is not a multiple of the VAE's downsampling factor.
        """
        factor = int(self.pipeline.vae_scale_factor)
        if image_px % factor:
            raise ConfigError(f"image_px: {image_px} is no multiple of {factor}, which the diffusion model's VAE needs")
        return int(self.pipeline.vae.config.latent_channels), image_px // factor, image_px // factor

    def encode(self, images: UInt8) -> tuple[Float32, Float32]:
        """Return mean and std of the scaled latents of images, each `float32 [n, c, h, w]`."""
        import torch

        def encode(rows: slice) -> np.ndarray:
            with torch.inference_mode():
                pixels = to_vae(images[rows], self.device).to(self.dtype)
                posterior = self.pipeline.vae.encode(pixels).latent_dist
            moments = (posterior.mean.float() * self.scale, posterior.std.float() * self.scale)
            return np.stack([_array(_finite(tensor, "latents", self.dtype)) for tensor in moments])

        mean, std = np.concatenate(self._fit.run("encoding", len(images), encode), axis=1)
        return mean, std

    def decode(self, latents: Float32) -> UInt8:
        """Return the images of scaled latents, with colour, or grey: the mean of the three decoded channels."""
        import torch

        def decode(rows: slice) -> UInt8:
            unscaled = (self._tensor(latents[rows]) / self.scale).to(self.dtype)
            with torch.inference_mode():
                decoded = self.pipeline.vae.decode(unscaled).sample.float()
            return from_vae(_finite(decoded, "pixels", self.dtype), self._colour)

        return np.concatenate(self._fit.run("decoding", len(latents), decode))

    def sample(
        self,
        prompts: Sequence[str],
        noise: Float32,
        num_inference_steps: int,
        guidance_scale: float,
        on_step: Callable[[float], None] = lambda done: None,
    ) -> Float32:
        """Return latents sampled from noise and prompts, with classifier-free guidance (Ho & Salimans 2022).

        Args:
            prompts: one per latent.
            noise: unit Gaussian, `float32 [n, c, h, w]`.
            num_inference_steps: length of the schedule. PNDM needs one evaluation more than that.
            guidance_scale: 1 uses the conditional prediction alone; less is refused.
            on_step: called with the number of evaluations done. It is a fraction if the latents are run in pieces.
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
        redraw: Float32 | None = None,
    ) -> Float32:
        """Return `latents` after the last `denoise_steps` of `num_inference_steps` scheduler steps.

        With `noise` (unit Gaussian, same shape) the latents are first noised to the level at which the last steps
        start, as in SDEdit (Meng et al. 2022). Without noise they enter unchanged, as in the paper's released code.

        With `redraw`, `float32 [n, h, w]` in [0, 1], only a part of each site is redrawn: 0 keeps it. After each step,
        what is kept is put back at the noise of that step (Couairon et al. 2022, section 3.2, step 3), so that what is
        drawn fits to it.

        Raises:
            ValueError: for `redraw` without `noise`.
            ConfigError: if the schedule has fewer steps, or the scheduler cannot be entered in the middle.
        """
        if denoise_steps == 0:
            return latents
        steps = (denoise_steps, num_inference_steps)
        timesteps = self._last_steps(*steps)
        if noise is not None:
            clean, added = self._tensor(latents), self._tensor(noise)
            start = _array(self.pipeline.scheduler.add_noise(clean, added, timesteps[:1].expand(len(latents))))
        if redraw is None:
            return self._in_pieces(latents if noise is None else start, prompts, steps, guidance_scale, on_step)
        if noise is None:
            raise ValueError("redraw needs noise: what is kept is put back at the noise of each step")
        return self._in_pieces(start, prompts, steps, guidance_scale, on_step, (latents, noise, redraw))

    def prompt_difference(
        self, latents: Float32, prompts: Sequence[str], others: Sequence[str], noise: Float32, level: float
    ) -> Float32:
        """Return how much the network's predictions differ between two prompts at each site, `float32 [n, h, w]`.

        It is the absolute difference, averaged over channels and draws of noise (Couairon et al. 2022, section 3.2).
        Both predictions are for the same noisy latent. So it does not matter, but for a constant factor, whether the
        network predicts the noise, v or the clean latent.

        Args:
            latents: clean latents, `float32 [n, c, h, w]`.
            prompts: one per latent.
            others: the prompts to compare with, one per latent.
            noise: unit Gaussian, `float32 [n, k, c, h, w]`, k draws per latent.
            level: the timestep at which the latents are noised, as a share (0 to 1) of the training timesteps.
        """
        import torch

        # The noisy latent is made from the training schedule. A sampler's own `add_noise` may scale it differently.
        kept = self.pipeline.scheduler.alphas_cumprod
        step = min(round(level * len(kept)), len(kept) - 1)
        signal, spread = float(kept[step]) ** 0.5, float(1 - kept[step]) ** 0.5

        def compare(rows: slice) -> Float32:
            clean, draws = self._tensor(latents[rows]), self._tensor(noise[rows])
            with torch.inference_mode():
                texts = self._embed([*prompts[rows], *others[rows]])
                found = torch.zeros_like(clean[:, 0])
                for draw in draws.unbind(1):
                    noisy = torch.cat([signal * clean + spread * draw] * 2).to(self.dtype)
                    predicted = self.pipeline.unet(noisy, step, encoder_hidden_states=texts).sample.float()
                    one, other = predicted.chunk(2)
                    found += (one - other).abs().mean(dim=1)
            return _array(_finite(found / draws.shape[1], "predictions", self.dtype))

        return np.concatenate(self._fit.run("comparing", len(latents), compare))

    def _last_steps(self, wanted: int, num_inference_steps: int) -> Tensor:
        return last_steps(self.pipeline.scheduler, wanted, num_inference_steps, self.device)

    def _in_pieces(
        self,
        start: Float32,
        prompts: Sequence[str],
        steps: tuple[int, int],
        guidance_scale: float,
        on_step: Callable[[float], None],
        kept: tuple[Float32, Float32, Float32] | None = None,
    ) -> Float32:
        """Return `start` denoised, in pieces that fit into memory; `steps` is (steps to run, schedule length).

        `kept` has clean latents, their noise and the share of each site that is redrawn, see `denoise`.
        """
        try:
            check_guidance(guidance_scale)
        except ValueError as error:
            raise ConfigError(f"guidance_scale: {error}") from error

        def run(rows: slice) -> Float32:
            # Every piece sets the scheduler anew. A multistep solver keeps past predictions and its position, which
            # belong to the piece before, or to one that ran out of memory half-way.
            before, share = rows.start / len(start), (rows.stop - rows.start) / len(start)

            def tell(done: int, of: int) -> None:
                on_step(before * of + share * done)

            timesteps = self._last_steps(*steps)
            put_back = None
            if kept is not None:
                latents, noise, redraw = (part[rows] for part in kept)
                put_back = self._putting_back(latents, noise, redraw, timesteps)
            return self._run(start[rows], prompts[rows], timesteps, guidance_scale, tell, put_back)

        def relieve() -> None:
            self.pipeline.unet.set_attention_slice("max")

        return np.concatenate(self._fit.run("denoising", len(start), run, relieve))

    def _putting_back(
        self, latents: Float32, noise: Float32, redraw: Float32, timesteps: Tensor
    ) -> Callable[[Tensor, int], Tensor]:
        """Return a function of (latents, step): the latents after a step, with what is kept put back."""
        clean, added, share = self._tensor(latents), self._tensor(noise), self._tensor(redraw)[:, None]

        def put_back(drawn: Tensor, step: int) -> Tensor:
            after = timesteps[step + 1 : step + 2]
            kept = clean
            if len(after):
                kept = self.pipeline.scheduler.add_noise(clean, added, after.expand(len(clean)))
            return share * drawn + (1 - share) * kept

        return put_back

    def _run(
        self,
        start: Float32,
        prompts: Sequence[str],
        timesteps: Tensor,
        guidance_scale: float,
        tell: Callable[[int, int], None],
        put_back: Callable[[Tensor, int], Tensor] | None = None,
    ) -> Float32:
        """Return `start` after the scheduler's steps at `timesteps`, with classifier-free guidance.

        Latents stay in float32 between the steps, even if the network computes in half precision. A step changes a
        latent little, and rounding it to 16 bits after each step would add up over the schedule.
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
                if put_back:
                    latents = put_back(latents, i)
                tell(i + 1, len(timesteps))
        return _array(_finite(latents, "latents", self.dtype))

    def _tensor(self, array: np.ndarray) -> Tensor:
        """Return a float32 copy of `array` on the device."""
        import torch

        return torch.tensor(np.asarray(array), device=self.device).float()

    def _embed(self, prompts: Sequence[str]) -> Tensor:
        """Return text embeddings `[n, tokens, width]`; equal prompts are encoded once."""
        import torch

        tokenizer = self.pipeline.tokenizer
        unique = list(dict.fromkeys(prompts))
        # Old folders do not give the longest text, and the tokenizer then allows any length. The encoder does not.
        length = min(tokenizer.model_max_length, self.pipeline.text_encoder.config.max_position_embeddings)
        tokens = tokenizer(unique, padding="max_length", max_length=length, truncation=True, return_tensors="pt")
        if cut := [p for p, ids in zip(unique, tokenizer(unique).input_ids, strict=True) if len(ids) > length]:
            _warn_of_cut(length, cut)
        embedded = self.pipeline.text_encoder(tokens.input_ids.to(self.device))[0]
        return embedded[torch.tensor([unique.index(p) for p in prompts], device=embedded.device)]


def _warn_of_cut(length: int, prompts: Sequence[str]) -> None:
    """Warn that the ends of prompts are lost, once per process and not in each of thousands of batches."""
    if length not in _WARNED:
        _WARNED.add(length)
        _LOG.warning("prompts longer than %d tokens lose their end, shorten diffusion.prompt: %.200r", length, prompts)


def _array(tensor: Tensor) -> Float32:
    return tensor.float().cpu().numpy()


def _finite(tensor: Tensor, what: str, computed_in: torch.dtype) -> Tensor:
    """Return `tensor` if all its values are finite.

    NaN becomes black when it is rounded to `uint8`, and no later check can tell such an image from a dark one.

    Raises:
        StageError: if a value is NaN or infinite.
    """
    import torch

    if not torch.isfinite(tensor).all():
        precision = str(computed_in).removeprefix("torch.")
        narrow = "" if precision == "float32" else f", or too large for {precision}: set diffusion.precision: float32"
        raise StageError(f"diffusion: {what} are not finite numbers; the weights are damaged{narrow}")
    return tensor
