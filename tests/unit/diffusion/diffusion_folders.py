"""Folders of the shape of real Stable Diffusion releases, at tiny width and with random weights.

What decides how a folder is used is as in the releases: latents of an eighth of the side in four channels, 77 tokens,
scheduler and prediction type in a file, the old spellings of the parts that are not used.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer
from transformers.utils import logging

from bench.pretrain.tokenizer import build_tokenizer
from bench.testing.toy import CLASS_NAMES

NOISE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}
SHAPES: dict[str, dict[str, Any]] = {
    "sd15": {
        "unet": {"attention_head_dim": 2, "cross_attention_dim": 12},
        "text": {"hidden_size": 12, "hidden_act": "quick_gelu"},
        "scheduler": PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **NOISE),
    },
    "sd21-base": {
        "unet": {"attention_head_dim": [1, 2, 4, 4], "cross_attention_dim": 16, "use_linear_projection": True},
        "text": {"hidden_size": 16, "hidden_act": "gelu"},
        "scheduler": PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, **NOISE),
    },
    "sd21": {
        "unet": {
            "attention_head_dim": [1, 2, 4, 4], "cross_attention_dim": 16, "use_linear_projection": True,
            "upcast_attention": True,
        },
        "text": {"hidden_size": 16, "hidden_act": "gelu"},
        "scheduler": DDIMScheduler(
            clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction", **NOISE
        ),
    },
}  # fmt: skip


def build_folder(
    folder: Path, shape: str, seed: int = 0, safe: bool = True, scheduler: Any = None, **save: Any
) -> Path:
    """Save a random pipeline of the shape of a release, with its scheduler or another, and return the folder."""
    sizes = SHAPES[shape]
    logging.disable_progress_bar()
    build_tokenizer(CLASS_NAMES, folder / "words")
    tokenizer = CLIPTokenizer.from_pretrained(str(folder / "words"), model_max_length=77)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline: Any = StableDiffusionPipeline(
            vae=AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
                block_out_channels=(4, 4, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
                sample_size=512, scaling_factor=0.18215,
            ),
            unet=UNet2DConditionModel(
                sample_size=64, layers_per_block=1, block_out_channels=(8, 8, 16, 16), norm_num_groups=4,
                **sizes["unet"],
            ),
            tokenizer=tokenizer,
            text_encoder=CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer), intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
                    max_position_embeddings=77, bos_token_id=tokenizer.bos_token_id,
                    eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, **sizes["text"],
                )
            ),
            scheduler=scheduler or sizes["scheduler"], safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip
    pipeline.save_pretrained(str(folder), safe_serialization=safe, **save)
    return folder


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None takes one away."""
    found = json.loads(path.read_text(encoding="utf-8")) | changes
    path.write_text(json.dumps({k: v for k, v in found.items() if v is not None}), encoding="utf-8")
