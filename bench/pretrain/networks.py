"""The parts of a small Stable Diffusion pipeline, untrained, and how they become a folder."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
from pydantic import Field

from bench.diffusion.pipeline import silence_libraries
from bench.pipeline.settings import Settings
from bench.pretrain.tokenizer import build_tokenizer

# diffusers' classes carry no types to check against.
Autoencoder: TypeAlias = Any
Unet: TypeAlias = Any
Scheduler: TypeAlias = Any
Pipeline: TypeAlias = Any

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer


class ModelSettings(Settings):
    """Sizes of the three networks."""

    vae_channels: tuple[int, ...] = Field(
        default=(16, 32, 64), min_length=1, description="one level each; all but the last halve the side"
    )
    vae_layers: int = Field(default=1, ge=1)
    latent_channels: int = Field(default=4, ge=1)
    unet_channels: tuple[int, ...] = (48, 64, 96)
    unet_attention: tuple[bool, ...] = (False, True, True)
    unet_layers: int = Field(default=1, ge=1)
    heads: int = 4
    text_width: int = 64
    text_layers: int = 2
    train_timesteps: int = 1000
    prediction: Literal["epsilon", "v_prediction"] = "v_prediction"

    @property
    def downsampling(self) -> int:
        """Return how many image pixels a latent pixel spans."""
        return int(2 ** (len(self.vae_channels) - 1))


def build_vae(settings: ModelSettings, image_px: int) -> Autoencoder:
    """Return an untrained autoencoder; its scaling factor is set after training."""
    from diffusers import AutoencoderKL

    levels = len(settings.vae_channels)
    return AutoencoderKL(
        in_channels=3, out_channels=3, sample_size=image_px, latent_channels=settings.latent_channels,
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=settings.vae_channels, layers_per_block=settings.vae_layers, norm_num_groups=8,
        scaling_factor=1.0, force_upcast=False,
    )  # fmt: skip


def build_unet(settings: ModelSettings, latent_px: int) -> Unet:
    """Return an untrained denoiser."""
    from diffusers import UNet2DConditionModel

    cross = settings.unet_attention
    return UNet2DConditionModel(
        sample_size=latent_px, in_channels=settings.latent_channels, out_channels=settings.latent_channels,
        layers_per_block=settings.unet_layers, block_out_channels=settings.unet_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in cross),
        up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(cross)),
        cross_attention_dim=settings.text_width, attention_head_dim=settings.heads, norm_num_groups=8,
    )  # fmt: skip


def build_text(settings: ModelSettings, class_names: Sequence[str]) -> tuple[CLIPTokenizer, CLIPTextModel]:
    """Return the tokenizer of these classes' prompts and an untrained text encoder for it."""
    from transformers import CLIPTextConfig, CLIPTextModel

    with tempfile.TemporaryDirectory() as folder:
        tokenizer = build_tokenizer(class_names, Path(folder))
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=settings.text_width, intermediate_size=2 * settings.text_width,
        projection_dim=settings.text_width, num_hidden_layers=settings.text_layers, num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    return tokenizer, CLIPTextModel(config)


def build_scheduler(settings: ModelSettings) -> Scheduler:
    """Return the noise schedule, shared by training and sampling."""
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        **scheduler_settings(settings), beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear",
        prediction_type=settings.prediction, clip_sample=False, set_alpha_to_one=False,
    )  # fmt: skip


def scheduler_settings(settings: ModelSettings) -> dict[str, Any]:
    """Return what decides the timesteps of a schedule, as in a scheduler's configuration file."""
    return {"num_train_timesteps": settings.train_timesteps, "steps_offset": 1, "timestep_spacing": "leading"}


def assemble(vae: Autoencoder, unet: Unet, text: tuple[CLIPTokenizer, CLIPTextModel], scheduler: Scheduler) -> Pipeline:
    """Return the pipeline of these parts."""
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline(
        vae=vae, unet=unet, tokenizer=text[0], text_encoder=text[1], scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def save_pipeline(pipeline: Pipeline, folder: Path) -> None:
    """Save the pipeline in float16 safetensors; the modules in memory keep their precision."""
    import copy

    silence_libraries()
    modules = {n: m for n, m in pipeline.components.items() if isinstance(m, torch.nn.Module)}
    halves: dict[str, Any] = {n: copy.deepcopy(m).to(torch.float16) for n, m in modules.items()}
    half = assemble(
        halves["vae"], halves["unet"], (pipeline.tokenizer, halves["text_encoder"]), pipeline.scheduler
    )  # fmt: skip
    half.save_pretrained(str(folder), safe_serialization=True)


def scale_of(latent_std: float) -> float:
    """Return the scaling factor that gives latents unit variance."""
    if not math.isfinite(latent_std) or latent_std <= 0:
        raise ValueError(f"latent std must be positive and finite, got {latent_std}")
    return float(1 / latent_std)
