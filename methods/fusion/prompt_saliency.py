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

from bench.contract import (
    DiffusionModel,
    Float32,
    Int64,
    Latents,
    Resources,
    Settings,
    Stage,
    Train,
    TrainSet,
    Work,
    new_array,
    seeds,
    train_set,
    write_strict_json,
)
from methods.fusion.saliency_table import NO_CLASS, SaliencyTable

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

    An anchor has a map for each tail class that it has. Maps of partners are made only if `of_partners` is set, since
    not every way to pair and to fuse looks at them: one for each image without a tail class, of all its head findings
    together.
    """

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=30)

    latents: Latents
    train: Train
    diffusion: DiffusionModel
    settings: PromptSaliencySettings = PromptSaliencySettings()
    of_partners: bool = False
    seed: int

    def compute(self, work: Work) -> None:
        """Write `cams.npy`, `rows.npy`, `classes.npy` and `saliency.json`."""
        train, table = train_set(work, self.train), work.get(self.latents)
        rows, classes = prompt_targets(train)
        cams = new_array(work.out / "cams.npy", (len(rows), *table.shape[1:]), np.float32)
        wanted = np.flatnonzero(np.isin(classes, train.tail_index) | (self.of_partners & (classes != NO_CLASS)))
        if not self.of_partners:
            classes[~np.isin(classes, train.tail_index)] = NO_CLASS
        for start in range(0, len(wanted), _BATCH):
            part = wanted[start : start + _BATCH]
            cams[part] = self._maps(work, train, rows[part], classes[part])
            work.progress(min(start + _BATCH, len(wanted)), len(wanted), "maps")
        cams.flush()
        np.save(work.out / "rows.npy", rows)
        np.save(work.out / "classes.npy", classes)
        empty = [not cams[i].any() for i in wanted]
        record = {"maps": len(wanted), "empty_share": float(np.mean(empty)) if empty else None}
        write_strict_json(work.out / "saliency.json", record)

    def open(self, folder: Path) -> SaliencyTable:
        """Return the maps, memory-mapped."""
        return SaliencyTable.open(folder)

    def _maps(self, work: Work, train: TrainSet, rows: Int64, classes: Int64) -> Float32:
        """Return the maps of train rows for their classes, `float32 [b, h, w]` in [0, 1]."""
        table, diffusion = work.get(self.latents), self.diffusion.load(work.device)
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


def prompt_targets(train: TrainSet) -> tuple[Int64, Int64]:
    """Return the maps to make as (rows, classes), `int64 [m]` each, sorted by row.

    An image with tail classes has one map for each. Every other image has one map, for its first head class; the class
    is `NO_CLASS` if it has none.
    """
    rows: list[int] = []
    classes: list[int] = []
    for row, labels in enumerate(train.labels):
        own = [c for c in train.tail_index if labels[c] == 1]
        own = own or [c for c in train.head_index if labels[c] == 1][:1] or [NO_CLASS]
        rows += [row] * len(own)
        classes += own
    return np.array(rows, dtype=np.int64), np.array(classes, dtype=np.int64)


def contrasted(train: TrainSet, rows: Int64, classes: Int64, contrast: str) -> tuple[Float32, Float32]:
    """Return the labels to name in the two prompts of each map, `float32 [m, C]` each; unknown labels are not named.

    The findings of a map are its tail class, or all head classes of an image without tail classes.
    """
    labels = np.nan_to_num(train.labels[rows]).astype(np.float32)
    finding = np.zeros_like(labels, dtype=bool)
    finding[np.arange(len(rows)), classes] = True
    of_head = ~np.isin(classes, train.tail_index)
    finding[of_head] = labels[of_head] == 1
    with_it = np.where(finding, 1, labels if contrast == "without" else 0).astype(np.float32)
    return with_it, np.where(finding, 0, with_it).astype(np.float32)


def smoothed(difference: Float32, sigma: float) -> Float32:
    """Return maps `float32 [b, h, w]`, smoothed and divided by their maximum; a map of zeros stays zero."""
    from scipy.ndimage import gaussian_filter

    maps = gaussian_filter(difference, sigma=(0, sigma, sigma))
    highest = maps.max(axis=(1, 2), keepdims=True)
    return np.where(highest > 0, maps / np.maximum(highest, np.finfo(np.float32).tiny), 0).astype(np.float32)
