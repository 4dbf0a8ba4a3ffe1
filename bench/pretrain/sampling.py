"""Samples of a pipeline that has just been trained: the grid of images, and those that label fidelity judges."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bench.diffusion.batch_fit import BatchFit
from bench.diffusion.pipeline import Diffusion
from bench.diffusion.prompts import PromptTemplate
from bench.pixels import mosaic
from bench.pretrain.networks import Pipeline
from bench.seeds import derive
from bench.tables import UInt8


def sample_images(
    pipeline: Pipeline,
    prompts: Sequence[str],
    image_px: int,
    num_inference_steps: int,
    guidance_scale: float,
    seed: int,
    batch_size: int = 32,
    colour: bool = False,
) -> UInt8:
    """Return images of side `image_px`, with `colour` or grey; image i depends on the seed, i and its prompt alone."""
    diffusion = Diffusion(pipeline, str(pipeline.device), PromptTemplate(), guidance_scale, BatchFit(), colour)
    shape = diffusion.latent_shape(image_px)
    images = []
    for first in range(0, len(prompts), batch_size):
        batch = list(prompts[first : first + batch_size])
        seeds = [derive(seed, "sample", first + i) for i in range(len(batch))]
        noise = np.stack([torch.randn(shape, generator=torch.Generator().manual_seed(s)).numpy() for s in seeds])
        images.append(diffusion.decode(diffusion.sample(batch, noise, num_inference_steps, guidance_scale)))
    return np.concatenate(images)


def save_grid(images: UInt8, columns: int, path: Path) -> None:
    """Write images as a PNG of `columns` columns, row by row."""
    from PIL import Image

    rows = [images[i : i + columns] for i in range(0, len(images), columns)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mosaic(rows, len(rows[0]))).save(path, optimize=True)
