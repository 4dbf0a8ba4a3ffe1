"""The latents of the train split: their mean and std are stored, and samples are drawn later (Karras et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import field_validator

from bench import seeds
from bench.data.split import Train, train_set
from bench.diffusion.model import DiffusionModel
from bench.files import new_array
from bench.pipeline.stage import Stage, Work
from bench.tables import Float32


@dataclass(frozen=True)
class LatentTable:
    """Mean and std of the latents of the train rows, memory-mapped.

    Both are multiplied by the VAE's scaling factor, so that latents have about unit variance.

    Attributes:
        mean: `float32 [n, c, h, w]`.
        std: `float32 [n, c, h, w]`.
    """

    mean: Float32
    std: Float32

    def __len__(self) -> int:
        """Return the number of train images."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Return `(c, h, w)` of one latent."""
        c, h, w = self.mean.shape[1:]
        return c, h, w

    def sample(self, rows: np.ndarray, seed: int) -> Float32:
        """Return latents drawn for `rows`, `float32 [len(rows), c, h, w]`.

        The noise of row r depends on (seed, r) only, so that a row's latent is the same in any batch.
        """
        noise = np.stack(
            [seeds.rng(seed, "latent", int(r)).standard_normal(self.shape, dtype=np.float32) for r in rows]
        )
        return self.mean[rows] + self.std[rows] * noise


class Latents(Stage):
    """Mean and std of the latent of every train image, from the diffusion model's VAE."""

    train: Train
    diffusion: DiffusionModel

    @field_validator("diffusion")
    @classmethod
    def _as_far_as_it_encodes(cls, model: DiffusionModel) -> DiffusionModel:
        """Remove prompt and guidance from the model's settings.

        Latents do not depend on them. If they were in this stage's key, a new prompt would encode all images again and
        retrain every network that is trained on latents.
        """
        return model.for_encoding()

    def compute(self, work: Work) -> None:
        """Write `mean.npy` and `std.npy`, `float32 [n, c, h, w]`, batch by batch through memory maps."""
        images = train_set(work, self.train).images
        pipeline = self.diffusion.load(work.device)
        c, h, w = pipeline.latent_shape(images.image_px)
        outputs = [new_array(work.out / f"{name}.npy", (len(images), c, h, w), np.float32) for name in ("mean", "std")]
        for start in range(0, len(images), pipeline.batch_size):
            rows = slice(start, start + pipeline.batch_size)
            outputs[0][rows], outputs[1][rows] = pipeline.encode(images[rows])
            work.progress(min(rows.stop, len(images)), len(images), "encode")
        for output in outputs:
            output.flush()

    def open(self, folder: Path) -> LatentTable:
        """Return the table, memory-mapped."""
        return LatentTable(np.load(folder / "mean.npy", mmap_mode="r"), np.load(folder / "std.npy", mmap_mode="r"))
