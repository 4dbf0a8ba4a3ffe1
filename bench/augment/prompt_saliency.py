"""Saliency by prompts: where the diffusion model changes its mind when a finding leaves the prompt.

A latent is noised lightly, and the network predicts the noise twice: with the finding in the prompt and without it. The
two predictions differ where the model sees the finding. This is the mask of DiffEdit (Couairon et al. 2022, section
3.2, step 1). It needs no codec and no classifier, but `2 * n_draws` evaluations of the U-Net for each map.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from bench import seeds
from bench.augment.latents import Latents, LatentTable
from bench.augment.saliency_table import NO_CLASS, SaliencyTable
from bench.data.split import Train, train_set
from bench.diffusion.model import DiffusionModel
from bench.diffusion.pipeline import Diffusion
from bench.files import new_array, write_strict_json
from bench.pipeline.settings import Settings
from bench.pipeline.stage import Resources, Stage, Work
from bench.tables import Float32, Int64, TrainSet

_BATCH = 32  # Fixed, so that maps do not depend on the machine.


class PromptSaliencySettings(Settings):
    """How the difference between two prompts becomes a map.

    There is no setting for guidance. The unconditional prediction is the same for both prompts and cancels, so guidance
    multiplies the whole map, which is normalised afterwards.
    """

    contrast: Literal["without", "nothing"] = Field(
        "without",
        description="without: all labels of the image against all but the finding; nothing: the finding alone "
        "against no finding",
    )
    noise_level: float = Field(
        0.1, gt=0, lt=1, description="timestep at which the latent is noised, as a share of the training timesteps"
    )
    n_draws: int = Field(3, ge=1, le=256, description="draws of noise that a map is averaged over")
    smoothing: float = Field(0.8, ge=0, le=16, description="standard deviation of a Gaussian, in sites of the latent")


class PromptSaliency(Stage):
    """The maps of the train images by prompts.

    `wanted` says which maps are made:

    - `tail`: those of images with tail classes, one for each tail class.
    - `tail_and_partners`: also one for each other image, of all its head findings together. Not every way to pair and
      to fuse looks at these.
    - `head`: those of images with tail classes, one for each head class that they have.
    """

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=30)

    latents: Latents
    train: Train
    diffusion: DiffusionModel
    settings: PromptSaliencySettings = PromptSaliencySettings()
    wanted: Literal["tail", "tail_and_partners", "head"] = "tail"
    seed: int

    def compute(self, work: Work) -> None:
        """Write `cams.npy`, `rows.npy`, `classes.npy` and `saliency.json`."""
        train, table = train_set(work, self.train), work.get(self.latents)
        rows, classes = prompt_targets(train, self.wanted)
        cams = new_array(work.out / "cams.npy", (len(rows), *table.shape[1:]), np.float32)
        made, diffusion = np.flatnonzero(classes != NO_CLASS), self.diffusion.load(work.device)
        for start in range(0, len(made), _BATCH):
            part = made[start : start + _BATCH]
            cams[part] = self._maps(diffusion, table, train, rows[part], classes[part])
            work.progress(min(start + _BATCH, len(made)), len(made), "maps")
        cams.flush()
        np.save(work.out / "rows.npy", rows)
        np.save(work.out / "classes.npy", classes)
        empty = [not cams[i].any() for i in made]
        record = {"maps": len(made), "empty_share": float(np.mean(empty)) if empty else None}
        write_strict_json(work.out / "saliency.json", record)

    def open(self, folder: Path) -> SaliencyTable:
        """Return the maps, memory-mapped."""
        return SaliencyTable.open(folder)

    def _maps(self, diffusion: Diffusion, table: LatentTable, train: TrainSet, rows: Int64, classes: Int64) -> Float32:
        """Return the maps of train rows for their classes, `float32 [b, h, w]` in [0, 1]."""
        with_it, without_it = contrasted(train, rows, classes, self.settings.contrast)
        seed = seeds.derive(self.seed, "prompt-saliency")
        noise = np.stack(
            [
                seeds.rng(seed, int(row)).standard_normal((self.settings.n_draws, *table.shape), dtype=np.float32)
                for row in rows
            ]
        )
        difference = diffusion.prompt_difference(
            np.asarray(table.mean[rows]),
            [diffusion.prompt(train.class_names, labels) for labels in with_it],
            [diffusion.prompt(train.class_names, labels) for labels in without_it],
            noise,
            self.settings.noise_level,
        )
        return smoothed(difference, self.settings.smoothing)


def prompt_targets(train: TrainSet, wanted: str) -> tuple[Int64, Int64]:
    """Return the entries of the table as (rows, classes), `int64 [m]` each, sorted by row; see `PromptSaliency.wanted`.

    An image that gets no map has one entry with the class `NO_CLASS`. An entry for all head findings of an image has
    its first head class.
    """
    rows: list[int] = []
    classes: list[int] = []
    for row, labels in enumerate(train.labels):
        tail, head = ([c for c in of if labels[c] == 1] for of in (train.tail_index, train.head_index))
        own = tail
        if wanted == "head":
            own = head if tail else []
        elif wanted == "tail_and_partners" and not tail:
            own = head[:1]
        rows += [row] * max(1, len(own))
        classes += own or [NO_CLASS]
    return np.array(rows, dtype=np.int64), np.array(classes, dtype=np.int64)


def contrasted(train: TrainSet, rows: Int64, classes: Int64, contrast: str) -> tuple[Float32, Float32]:
    """Return the labels to name in the two prompts of each map, `float32 [m, C]` each; unknown labels are not named.

    The finding of a map is its class; that of an image without tail classes is all of its head classes.
    """
    labels = np.nan_to_num(train.labels[rows]).astype(np.float32)
    finding = np.zeros_like(labels, dtype=bool)
    finding[np.arange(len(rows)), classes] = True
    together = ~(labels[:, train.tail_index] == 1).any(axis=1)
    finding[together] = labels[together] == 1
    with_it = np.where(finding, 1, labels if contrast == "without" else 0).astype(np.float32)
    return with_it, np.where(finding, 0, with_it).astype(np.float32)


def smoothed(difference: Float32, sigma: float) -> Float32:
    """Return maps `float32 [b, h, w]`, smoothed and divided by their maximum; a map of zeros stays zero."""
    from scipy.ndimage import gaussian_filter

    maps = gaussian_filter(difference, sigma=(0, sigma, sigma))
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.where(highest > 0, maps / np.maximum(highest, np.finfo(np.float32).tiny), 0).astype(np.float32)


def soft_mask(cam: Float32, start: float, end: float) -> Float32:
    """Return how far each site of a map counts, `float32 [h, w]`: 0 up to `start`, rising evenly to 1 at `end`."""
    return np.clip((cam - start) / (end - start), 0, 1).astype(np.float32)
