"""A toy data set, a tiny random-weight diffusion pipeline and a task over both, for the tests of `methods.fusion`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.contract import DiffusionModel, Latents, Plan, Task
from bench.data.dataset import Dataset, TableWriter
from bench.data.split import Split, SplitSettings, Train
from bench.pipeline.stage import Work
from bench.tables import ImageRows, TrainSet
from methods.fusion import Fusion
from methods.fusion.settings import CodecSettings

CLASS_NAMES = ("Round", "Wide", "Spot", "Bar")
HEAD, TAIL = CLASS_NAMES[:2], CLASS_NAMES[2:]
TINY_CODEC = CodecSettings(
    vocab_size=8, width=8, downsamplings=2, generations=2, interaction_epochs=2, imitation_epochs=2, batch_size=16,
    temperature=0.5, learning_rate=3e-3,
)  # fmt: skip


class Toy(Dataset):
    """Grey images of four shapes; the two tail classes are a bright spot (left) and a bar (right)."""

    kind: ClassVar[str] = "toy"

    n_images: int = 72
    image_px: int = 32

    def compute(self, work: Work) -> None:
        """Draw the images; each is its own patient."""
        writer = TableWriter(work.out, self.n_images, self.image_px)
        labels = toy_labels(self.n_images)
        writer.images[:] = toy_images(labels, self.image_px)
        writer.finish(labels, np.arange(self.n_images), CLASS_NAMES, HEAD, TAIL)


def toy_labels(n: int) -> np.ndarray:
    """Return labels `float32 [n, 4]`: about half have each head class, one in five each tail class; a few NaN."""
    rng = np.random.default_rng(0)
    labels = (rng.random((n, 4)) < [0.5, 0.5, 0.2, 0.2]).astype(np.float32)
    labels[::11, 0] = np.nan
    return labels


def toy_images(labels: np.ndarray, px: int) -> np.ndarray:
    """Return `uint8 [n, px, px]`, every class at its own place."""
    rng = np.random.default_rng(1)
    images = 60 + 20 * rng.standard_normal((len(labels), px, px))
    places = ((slice(0, px // 3), slice(0, px)), (slice(-px // 3, None), slice(0, px)),
              (slice(px // 3, px // 2), slice(0, px // 4)), (slice(px // 4, -px // 4), slice(-px // 5, None)))  # fmt: skip
    for image, row in zip(images, labels, strict=True):
        for place, label in zip(places, row, strict=True):
            image[place] += 90 * (label == 1)
    return images.clip(0, 255).astype(np.uint8)


def toy_train(n: int = 40, seed: int = 0) -> TrainSet:
    """Return a train set in memory, rows shuffled by `seed` so that subset positions never equal rows."""
    labels = toy_labels(n)[np.random.default_rng(seed).permutation(n)]
    return TrainSet(ImageRows(toy_images(labels, 16)), labels, CLASS_NAMES, HEAD, TAIL)


def tiny_pipeline(folder: Path) -> Path:
    """Save a random-weight `StableDiffusionPipeline` (latents: 4 channels, an eighth of the side) below `folder`."""
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    letters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    words = [*letters, *(f"{c}</w>" for c in [*letters, ","]), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
            block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=4, scaling_factor=1.0,
        )  # fmt: skip
        unet = UNet2DConditionModel(
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, cross_attention_dim=16,
            attention_head_dim=8, sample_size=8,
        )  # fmt: skip
        text = CLIPTextModel(
            CLIPTextConfig(
                vocab_size=len(words),
                hidden_size=16,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                max_position_embeddings=24,
                eos_token_id=len(words) - 1,
                bos_token_id=len(words) - 2,
                pad_token_id=0,
            )
        )
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)
    pipeline = StableDiffusionPipeline(
        vae, text, tokenizer, unet, DDIMScheduler(prediction_type="v_prediction", clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder / "pipeline")
    return folder / "pipeline"


def toy_task(pipeline: Path, per_class: int = 5, seed: int = 3) -> Task:
    """Return a task over the toy data set."""
    split = Split(dataset=Toy(), settings=SplitSettings(min_positives=1, val=0.1, test=0.1))
    train, diffusion = Train(split=split), DiffusionModel(folder=str(pipeline))
    latents = Latents(train=train, diffusion=diffusion)
    return Task(train=train, latents=latents, diffusion=diffusion, plan=Plan(per_class=per_class), seed=seed)


def ours(**settings: Any) -> Fusion:
    """Return the method with a codec small enough for tests and a schedule of 10 steps."""
    return Fusion(**({"codec": TINY_CODEC, "num_inference_steps": 10} | settings))
