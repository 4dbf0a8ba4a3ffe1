"""A diffusion model in the shapes of Stable Diffusion 2.1 with random weights, and what `gpu` asks it to do."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch

from bench.augment.prompt_saliency import PromptSaliencySettings, smoothed
from bench.diffusion.batch_fit import BatchFit, T
from bench.diffusion.pipeline import Diffusion, silence_libraries
from bench.diffusion.prompts import PromptTemplate
from benchmarks.gpu_clock import LEAST, Row, Slice, measured, refuse_precision, repeated, seconds_of

Parts: TypeAlias = dict[str, dict[str, Any]]  # configurations of `unet`, `vae` and `text`

GUIDANCE = 7.5  # of Stable Diffusion 2.1
CLASSES = tuple(f"Finding {letter}" for letter in "ABCDEFGHIJKLMNOPQRS")  # 19, as MIMIC-CXR-LT has

# The configuration files of Stable Diffusion 2.1 base, where they differ from diffusers' defaults. A test counts the
# parameters.
STABLE_DIFFUSION: Parts = {
    "unet": {
        "sample_size": 64, "cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
    },
    "vae": {
        "block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "sample_size": 512,
        "down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4,
    },
    "text": {
        "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16,
        "hidden_act": "gelu", "projection_dim": 512,
    },
}  # fmt: skip
TINY_DIFFUSION: Parts = {
    "unet": {
        "sample_size": 8, "cross_attention_dim": 32, "attention_head_dim": 2, "block_out_channels": (32, 32),
        "layers_per_block": 1, "norm_num_groups": 8, "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    },
    "vae": {
        "block_out_channels": (16, 16), "norm_num_groups": 8, "sample_size": 16,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2,
    },
    "text": {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "projection_dim": 32,
    },
}  # fmt: skip


class SeenFit(BatchFit):
    """A `BatchFit` that remembers how many images of each kind of work went through at once, the last time."""

    def __init__(self) -> None:
        """Start without a limit."""
        super().__init__()
        self.pieces: dict[str, int] = {}
        self.relieved: set[str] = set()

    def run(
        self, what: str, n: int, compute: Callable[[slice], T], relieve: Callable[[], None] = lambda: None
    ) -> list[T]:
        """Do as `BatchFit` does, and remember the largest slice that was computed."""
        done: list[int] = []

        def noted(rows: slice) -> T:
            result = compute(rows)
            done.append(rows.stop - rows.start)
            return result

        def relieve_and_note() -> None:
            self.relieved.add(what)
            relieve()

        parts = super().run(what, n, noted, relieve_and_note)
        self.pieces[what] = max(done)
        return parts

    def remark(self, what: str, n: int) -> str:
        """Return how `n` images went through, or nothing if they went through at once."""
        pieces = self.pieces[what]
        said = [] if pieces == n else [f"{pieces} at once: {min(n, 2 * pieces)} do not fit into memory"]
        return "; ".join([*said, *(["attention is sliced to save memory"] if what in self.relieved else [])])


@dataclass
class RandomDiffusion:
    """A pipeline with random weights on a device."""

    pipeline: Any
    device: str
    fit: SeenFit = field(default_factory=SeenFit)

    def ready(self, precision: str) -> Diffusion:
        """Return the model in a precision, as `load_pipeline` makes it ready to run."""
        self.pipeline.to(self.device, getattr(torch, precision))
        for part in (self.pipeline.vae, self.pipeline.unet, self.pipeline.text_encoder):
            part.eval().requires_grad_(False)
        if self.device.startswith("cuda"):
            for part in (self.pipeline.vae, self.pipeline.unet):
                part.to(memory_format=torch.channels_last)
        return Diffusion(self.pipeline, self.device, PromptTemplate(), GUIDANCE, self.fit)


def random_diffusion(parts: Parts, device: str) -> RandomDiffusion:
    """Return the model of these parts."""
    from diffusers import AutoencoderKL, PNDMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from bench.pretrain.networks import assemble
    from bench.pretrain.tokenizer import build_tokenizer

    silence_libraries()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer(CLASSES, Path(folder))
    text = CLIPTextConfig(**parts["text"])
    tokenizer.model_max_length = text.max_position_embeddings
    torch.manual_seed(0)
    with torch.device(device):  # A GPU draws a billion weights in a second, a CPU in half a minute.
        unet, vae = UNet2DConditionModel(**parts["unet"]), AutoencoderKL(**parts["vae"])
        encoder = CLIPTextModel(text)
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True,
        set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    return RandomDiffusion(assemble(vae, unet, (tokenizer, encoder), scheduler), device)


@dataclass
class Asked:
    """What a model is asked to do in one precision, and its rows.

    Attributes:
        n: images at once.
        denoise_steps: each d that is measured; a longer one is foretold from the shortest.
        schedule: steps of the whole schedule.
        per_step: seconds an image of one step, once it is known.
    """

    model: RandomDiffusion
    precision: str
    n: int
    latent_px: int
    denoise_steps: tuple[int, int]
    schedule: int
    per_step: float | None = None

    def __post_init__(self) -> None:
        """Draw latents and noise, and choose prompts."""
        shape = (2, self.n, 4, self.latent_px, self.latent_px)
        self.latents, self.noise = np.random.default_rng(0).standard_normal(shape, dtype=np.float32)
        prompt = PromptTemplate().of
        self.prompts = [prompt(CLASSES, np.eye(len(CLASSES))[i % len(CLASSES)]) for i in range(self.n)]

    def rows(self, whole: Slice) -> Iterator[Row]:
        """Yield the seconds an image of denoising and decoding, and the images/s of saliency by prompt."""
        device, parts = self.model.device, whole.parts([1.0, 5.0, 1.0, 1.0])
        px = self.latent_px * self.model.pipeline.vae_scale_factor
        about = f"{px} px, batch {self.n}, {self.precision}"
        for steps in self.denoise_steps:
            name = f"denoising, d = {steps} of {self.schedule}, with guidance, {about}"
            yield measured(name, "s/image", device, partial(self.denoising, steps, next(parts)))
        yield measured(f"decoding, {about}", "s/image", device, partial(self.decoding, next(parts)))
        yield measured(f"saliency by prompt, {about}", "images/s", device, partial(self.saliency, next(parts)))

    def ready(self) -> Diffusion:
        """Return the model in the precision.

        Raises:
            LeftOut: if the card lacks it.
        """
        refuse_precision(self.precision, self.model.device)
        return self.model.ready(self.precision)

    def denoise(self, model: Diffusion, batch: int, steps: int) -> None:
        """Denoise a batch of latents from the noise at which the last `steps` start."""
        latents, noise = self.latents[:batch], self.noise[:batch]
        model.denoise(latents, self.prompts[:batch], noise, steps, self.schedule, GUIDANCE)

    def denoising(self, steps: int, part: Slice) -> tuple[list[float], str]:
        """Return the seconds an image; the batch is halved until three runs fit into the time."""
        part.check()
        model, batch, device = self.ready(), self.n, self.model.device
        if self.per_step is None:
            self.denoise(model, batch, 1)  # finds how many fit into memory, and builds the kernels
            self.per_step = seconds_of(partial(self.denoise, model, batch, 1), device) / batch
        expected = (steps + 1) * self.per_step  # PNDM evaluates one step twice
        while batch > 1 and LEAST * expected * batch > part.left:
            batch //= 2
        late = ""
        if batch < self.n:
            late = f"a batch of {batch}: {LEAST} runs with {2 * batch} do not fit into the time"
            self.denoise(model, batch, 1)
        taken = repeated(partial(self.denoise, model, batch, steps), device, part, expected=expected * batch)
        remarks = [late, self.model.fit.remark("denoising", batch)]
        return [s / batch for s in taken], "; ".join(filter(None, remarks))

    def decoding(self, part: Slice) -> tuple[list[float], str]:
        """Return the seconds an image of decoding latents."""
        taken = repeated(partial(self.ready().decode, self.latents), self.model.device, part)
        return [s / self.n for s in taken], self.model.fit.remark("decoding", self.n)

    def saliency(self, part: Slice) -> tuple[list[float], str]:
        """Return the maps per second of saliency by prompt, as its stage makes them."""
        model, settings = self.ready(), PromptSaliencySettings()
        shape = (self.n, settings.n_draws, *self.latents.shape[1:])
        noise = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
        others = [model.prompt(CLASSES, np.zeros(len(CLASSES)))] * self.n

        def maps() -> None:
            found = model.prompt_difference(self.latents, self.prompts, others, noise, settings.noise_level)
            smoothed(found, settings.smoothing)

        taken = repeated(maps, self.model.device, part)
        remarks = [f"{settings.n_draws} draws of noise", self.model.fit.remark("comparing", self.n)]
        return [self.n / s for s in taken], "; ".join(filter(None, remarks))
