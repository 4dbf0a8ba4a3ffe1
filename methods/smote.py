"""SMOTE (Chawla et al. 2002): interpolate between a tail image and one of its nearest neighbours.

imbalanced-learn does not accept multi-label targets. So each tail class is a problem of its own: neighbours are
searched among the images that have the class. Neighbours and interpolation are those of imbalanced-learn, except that
no image is its own neighbour; there, one of two equal images can be. The random draws (base image, neighbour, step)
come from the sample's generator. imbalanced-learn with a fixed seed would give every class the same draws, and it does
not tell the parents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.contract import (
    PARENT_SHARE,
    AugmentedBatch,
    Context,
    Float32,
    Int64,
    Method,
    Stage,
    Task,
    TrainSet,
    UInt8,
    lost_detail,
    over_images,
    union,
    with_detail,
)
from bench.metrics import neighbours

BATCH = 64


class Smote(Method):
    """Interpolate between a train image of the target class and one of its nearest neighbours in the class.

    A sample has the classes of both parents; with the label policy `area` it has their mean, weighted by the step.
    A class with a single train image has no neighbours: its samples are copies, with -1 as the second parent.
    """

    name: ClassVar[str] = "smote"

    k_neighbors: int = Field(5, ge=1, description="nearest neighbours to choose from; fewer if the class is smaller")
    space: Literal["pixel", "latent"] = Field("pixel", description="space of the distances and of the interpolation")
    detail: Literal["none", "parents"] = Field(
        "none", description="texture to add back in latent space: what the VAE loses of each parent, by its share"
    )

    @model_validator(mode="after")
    def _something_is_lost(self) -> Smote:
        if self.detail != "none" and self.space == "pixel":
            raise ValueError("detail: in space pixel no VAE loses any; set space to latent, or detail to none")
        return self

    @property
    def uses_diffusion(self) -> bool:  # type: ignore[override]
        """Return True if latents must be decoded. In pixel space the key does not depend on the model's weights."""
        return self.space == "latent"

    def inputs(self, task: Task) -> dict[str, Stage]:
        """Return the latents of the train images, if the space needs them."""
        return {"latents": task.latents} if self.space == "latent" else {}

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the samples with parents [base, neighbour] and the extra `step` (0 = base, 1 = neighbour)."""
        # `near` holds positions within the class, `rows_of` turns them into train rows.
        rows_of = {target: ctx.train.rows_with(target) for target in np.unique(ctx.samples).tolist()}
        near = {t: nearest(self._vectors(ctx, rows), self.k_neighbors) for t, rows in rows_of.items()}
        for index in ctx.batches(BATCH):
            targets = ctx.samples[index].tolist()
            draws = [draw(ctx.rng(i), near[t]) for i, t in zip(index, targets, strict=True)]
            step = np.array([d[2] for d in draws], dtype=np.float32)
            parents = np.array([rows_of[t][list(d[:2])] for t, d in zip(targets, draws, strict=True)])
            mixed = interpolate(self._vectors(ctx, parents[:, 0]), self._vectors(ctx, parents[:, 1]), step)
            around = [rows_of[t][[d[0], *near[t][d[0]]]] for t, d in zip(targets, draws, strict=True)]
            labels = self._labels(ctx.train, parents, around)
            alone = parents[:, 0] == parents[:, 1]
            parents[alone, 1] = -1
            of_neighbour = np.where(alone, np.float32(0), step)
            share = np.stack([1 - of_neighbour, of_neighbour], axis=1)
            images = self._images(ctx, mixed)
            if self.detail == "parents":
                images = with_detail(images, self._lost(ctx, parents, share))
            yield AugmentedBatch(images, labels, parents, {"step": step, PARENT_SHARE: share})

    def _lost(self, ctx: Context, parents: Int64, share: Float32) -> Float32:
        """Return what the VAE loses of both parents, weighted by their shares, in the shape of the images."""
        base, neighbour = (lost_detail(ctx, ctx.inputs["latents"], rows) for rows in parents.T)  # a -1 has no share
        return over_images(share[:, 0], base) * base + over_images(share[:, 1], base) * neighbour

    def _labels(self, train: TrainSet, parents: Int64, around: list[Int64]) -> Float32:
        """Return the labels of samples, `float32 [b, C]`: the classes of both parents.

        Args:
            train: the train split.
            parents: `int64 [b, 2]`, the train rows of base and neighbour.
            around: the train rows of each sample's base and of all its nearest neighbours; `Mlsmote` asks these.
        """
        return union(train.labels[parents], excludes=train.excludes)

    def _vectors(self, ctx: Context, rows: Int64) -> Float32:
        """Return the vectors of train rows, `float32 [len(rows), d]`: pixels in 0..255, or means of latents."""
        source = ctx.train.images[rows] if self.space == "pixel" else ctx.inputs["latents"].mean[rows]
        return source.reshape(len(rows), -1).astype(np.float32)

    def _images(self, ctx: Context, vectors: Float32) -> UInt8:
        """Return the images of interpolated vectors."""
        if self.space == "latent":
            return ctx.diffusion.decode(vectors.reshape(-1, *ctx.inputs["latents"].shape))
        return np.rint(vectors).astype(np.uint8).reshape(-1, *ctx.train.images.image_shape)


def nearest(vectors: Float32, k_neighbors: int) -> Int64:
    """Return the positions of the nearest neighbours of each vector, `int64 [n, k]`, nearest first.

    k is `k_neighbors` or n - 1, whichever is less. A single vector is its own neighbour. Of two neighbours at the same
    distance, the earlier comes first.
    """
    if len(vectors) == 1:
        return np.zeros((1, 1), dtype=np.int64)
    k = min(k_neighbors, len(vectors) - 1)
    _, found = neighbours.nearest(vectors, [vectors], k + 1)
    # A vector is the nearest to itself, but behind earlier vectors that are equal to it. If these are more than k, it
    # is not found at all, and the last is one too many.
    others = found != np.arange(len(vectors))[:, None]
    others[others.all(axis=1), -1] = False
    return found[others].reshape(len(vectors), k)


def draw(rng: np.random.Generator, near: Int64) -> tuple[int, int, float]:
    """Return SMOTE's three random draws: base and neighbour (positions within the class), and the step in [0, 1)."""
    base = int(rng.integers(len(near)))
    return base, int(rng.choice(near[base])), float(rng.random())


def interpolate(base: Float32, neighbour: Float32, step: Float32) -> Float32:
    """Return `base + step * (neighbour - base)`, row by row, as imbalanced-learn's SMOTE computes it."""
    from imblearn.over_sampling import SMOTE

    rows = np.arange(len(base))
    return SMOTE()._generate_samples(base, neighbour, rows[:, None], rows, np.zeros_like(rows), step[:, None])
