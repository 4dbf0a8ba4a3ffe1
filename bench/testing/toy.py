"""Small inputs for tests: a diffusion pipeline with random weights, a data set of 60 images, and tasks with both."""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench import seeds
from bench.augment.latents import Latents
from bench.augment.method import Plan, Task
from bench.data.dataset import Dataset, TableWriter
from bench.data.split import Split, SplitSettings, Train
from bench.diffusion.model import DiffusionModel
from bench.pipeline.stage import Work
from bench.pixels import image_shape
from bench.tables import Float32, Int64, UInt8

CLASS_NAMES = ("Opacity", "Effusion", "Fracture", "Nodule")
SHARES = (0.5, 0.3, 0.2, 0.15)


class ToyDataset(Dataset):
    """Noise images with a bright corner for each finding: two head classes, two tail classes, a few unknown labels.

    Every patient has two images. The official split keeps patients whole and has every class in every part.
    """

    kind: ClassVar[str] = "toy"
    sharing: ClassVar[Literal["open", "credentialed"]] = "open"

    n_images: int = Field(60, ge=30, description="three fifths train, one fifth val, one fifth test")
    image_px: int = Field(32, ge=8, multiple_of=4)
    seed: int = 0
    held_out_seed: int = Field(0, description="seed of val and test only: a method's images must not depend on it")
    colour: bool = Field(False, description="red, green and blue noise, with corners brighter in red")
    lonely: bool = Field(False, description="give the last class only one positive in each part")

    def compute(self, work: Work) -> None:
        """Draw the labels and images of each part; train, val and test have separate seeds."""
        patients = np.arange(self.n_images, dtype=np.int64) // 2
        splits = np.array([0, 0, 0, 1, 2])[patients % 5]
        labels = np.zeros((self.n_images, len(CLASS_NAMES)), np.float32)
        writer = TableWriter(work.out, self.n_images, self.image_px, self.colour)
        for part in range(3):
            rows = np.flatnonzero(splits == part)
            draw = seeds.rng(self.held_out_seed if part else self.seed, "toy", part)
            self._label(labels, rows, draw)
            for row in rows:
                writer.images[row] = self._image(labels[row], draw)
            labels[draw.choice(rows[labels[rows, 0] == 0], 1), 0] = np.nan
            work.progress(part + 1, 3, "parts")
        writer.finish(labels, patients, CLASS_NAMES, CLASS_NAMES[:2], CLASS_NAMES[2:], splits=splits)

    def _label(self, labels: Float32, rows: Int64, draw: np.random.Generator) -> None:
        for column, share in enumerate(SHARES):
            wanted = 1 if self.lonely and column == len(SHARES) - 1 else max(1, round(share * len(rows)))
            labels[draw.permutation(rows)[:wanted], column] = 1

    def _image(self, labels: Float32, draw: np.random.Generator) -> UInt8:
        half = self.image_px // 2
        image = draw.integers(0, 120, image_shape(self.image_px, self.colour), dtype=np.uint8)
        for column in np.flatnonzero(labels).tolist():
            y, x = column // 2 * half, column % 2 * half
            image[y : y + half, x : x + half] += np.array([120, 60, 0], np.uint8)[: image[0, 0].size]
        return image


def build_pipeline(folder: Path, class_names: Sequence[str] = CLASS_NAMES, seed: int = 0, **settings: Any) -> Path:
    """Save a `StableDiffusionPipeline` with random weights to `folder`, and return the folder.

    The VAE reduces the side by 4 and has four latent channels.

    Args:
        folder: created if it does not exist.
        class_names: names that the tokenizer knows as whole words.
        seed: seed of the weights; torch's global generator is not touched.
        settings: further fields of `bench.pretrain.networks.ModelSettings`.
    """
    import torch
    from transformers.utils import logging

    from bench.pretrain import networks as parts

    small = {
        "vae_channels": (8, 8, 16), "unet_channels": (16, 24), "unet_attention": (True, False),
        "text_width": 16, "heads": 2, "text_layers": 1,
    }  # fmt: skip
    sizes = parts.ModelSettings(**(small | settings))
    logging.disable_progress_bar()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipeline: Any = parts.assemble(
            parts.build_vae(sizes, 32), parts.build_unet(sizes, 8), parts.build_text(sizes, class_names),
            parts.build_scheduler(sizes),
        )  # fmt: skip
    pipeline.save_pretrained(str(folder), safe_serialization=True)
    return folder


@functools.cache
def tiny_pipeline() -> Path:
    """Return the folder of a pipeline with random weights; it is built once per process and removed at its end."""
    folder = Path(tempfile.mkdtemp(prefix="bench-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return build_pipeline(folder)


def toy_task(dataset: Dataset | None = None, plan: Plan | None = None, seed: int = 0) -> Task:
    """Return a task with the toy data set (or `dataset`) and the pipeline with random weights."""
    split = Split(dataset=dataset or ToyDataset(), settings=SplitSettings(min_positives=1))
    train = Train(split=split)
    diffusion = DiffusionModel(folder=str(tiny_pipeline()))
    return Task(
        train=train,
        latents=Latents(train=train, diffusion=diffusion),
        diffusion=diffusion,
        plan=plan or Plan(per_class=5),
        seed=seed,
    )
