"""SMOTE (Chawla et al. 2002): interpolate between a tail image and one of its nearest neighbours.

imbalanced-learn does not accept multi-label targets. So each tail class is a problem of its own: neighbours are
searched among the images that have the class. Neighbours and interpolation are those of imbalanced-learn, except that
no image is its own neighbour; there, one of two equal images can be. The random draws (base image, neighbour, step)
come from the sample's generator. imbalanced-learn with a fixed seed would give every class the same draws, and it does
not tell the parents.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from bench.contract import (
    PARENT_SHARE,
    AugmentedBatch,
    Context,
    Float32,
    Int64,
    Latents,
    LatentTable,
    Method,
    Resources,
    Stage,
    Task,
    Train,
    TrainSet,
    UInt8,
    Work,
    lost_detail,
    over_images,
    train_set,
    union,
    with_detail,
)
from bench.metrics import neighbours

BATCH = 64
_BLOCK_BYTES = 256 << 20  # of images or latents in memory at a time, on either side of a search

Vectors = npt.NDArray[np.uint8 | np.float32]
Read = Callable[[Int64], Vectors]  # Train rows → their vectors, [len(rows), d].


class SmoteNeighbours(Stage):
    """The nearest neighbours of the images of each tail class, within the class. No seed is in it: all seeds share it.

    Whatever the size of a class, two blocks of its images are in memory. What was found for a block is kept if a run is
    killed.
    """

    resources: ClassVar[Resources] = Resources(memory_gb=2.0, minutes=10)

    train: Train
    k_neighbors: int
    latents: Latents | None = None  # Compare the means of latents; None: pixels.
    also: tuple[str, ...] = ()  # Classes beside the tail.

    def compute(self, work: Work) -> None:
        """Write `<column>.npy` for each class: positions within the class, as `nearest` returns them."""
        train = train_set(work, self.train)
        read = reader(train, work.get(self.latents) if self.latents else None)
        columns = [i for i, name in enumerate(train.class_names) if name in {*train.tail, *self.also}]
        rows_of = {column: train.rows_with(column) for column in columns}
        total, done = sum(map(len, rows_of.values())), 0
        for column, rows in rows_of.items():
            parts = []
            for part in blocks(read, rows):
                kept = work.ckpt / f"{column}-{part.start}.npy"
                if not kept.exists():
                    written = kept.with_suffix(".new.npy")
                    np.save(written, nearest(read, rows, self.k_neighbors, part))
                    written.replace(kept)
                parts.append(np.load(kept))
                done += len(parts[-1])
                work.progress(done, total, "images have their neighbours")
            if parts:
                np.save(work.out / f"{column}.npy", np.concatenate(parts))

    def open(self, folder: Path) -> dict[int, Int64]:
        """Return column → positions of each image's nearest neighbours within the class, `int64 [n, k]`."""
        return {int(path.stem): np.load(path) for path in folder.glob("*.npy")}


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
        """Return the neighbours, and the latents of the train images if the space needs them."""
        latents = task.latents if self.space == "latent" else None
        also = tuple(sorted(name for name, count in task.plan.counts.items() if count))
        search = SmoteNeighbours(train=task.train, k_neighbors=self.k_neighbors, latents=latents, also=also)
        return {"neighbours": search} | ({"latents": latents} if latents else {})

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the samples with parents [base, neighbour] and the extra `step` (0 = base, 1 = neighbour)."""
        # `near` holds positions within the class, `rows_of` turns them into train rows.
        near: dict[int, Int64] = ctx.inputs["neighbours"]
        rows_of = {target: ctx.train.rows_with(target) for target in near}
        read = reader(ctx.train, ctx.inputs.get("latents"))
        for index in ctx.batches(BATCH):
            targets = ctx.samples[index].tolist()
            draws = [draw(ctx.rng(i), near[t]) for i, t in zip(index, targets, strict=True)]
            step = np.array([d[2] for d in draws], dtype=np.float32)
            parents = np.array([rows_of[t][list(d[:2])] for t, d in zip(targets, draws, strict=True)])
            base, neighbour = (read(rows).astype(np.float32) for rows in parents.T)
            mixed = interpolate(base, neighbour, step)
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

    def _images(self, ctx: Context, vectors: Float32) -> UInt8:
        """Return the images of interpolated vectors."""
        if self.space == "latent":
            return ctx.diffusion.decode(vectors.reshape(-1, *ctx.inputs["latents"].shape))
        return np.rint(vectors).astype(np.uint8).reshape(-1, *ctx.train.images.image_shape)


def reader(train: TrainSet, latents: LatentTable | None) -> Read:
    """Return what reads the vectors of train rows, `[m, d]`: `uint8` pixels, or `float32` means of latents."""

    def read(rows: Int64) -> Vectors:
        found: Vectors = train.images[rows] if latents is None else np.asarray(latents.mean[rows])
        return found.reshape(len(rows), -1)

    return read


def blocks(read: Read, rows: Int64) -> Iterator[slice]:
    """Yield the positions of `rows`, in blocks whose vectors take `_BLOCK_BYTES`."""
    size = max(1, _BLOCK_BYTES // read(rows[:1]).nbytes) if len(rows) else 1
    for start in range(0, len(rows), size):
        yield slice(start, min(start + size, len(rows)))


def nearest(read: Read, rows: Int64, k_neighbors: int, part: slice) -> Int64:
    """Return the positions in `rows` of the nearest neighbours of `rows[part]`, `int64 [len(rows[part]), k]`.

    They come nearest first, and of two at the same distance the earlier comes first. k is `k_neighbors` or n - 1,
    whichever is less. A single image is its own neighbour.
    """
    if len(rows) == 1:
        return np.zeros((1, 1), dtype=np.int64)
    k = min(k_neighbors, len(rows) - 1)
    _, found = neighbours.nearest(read(rows[part]), (read(rows[block]) for block in blocks(read, rows)), k + 1)
    # A vector is the nearest to itself, but behind earlier vectors that are equal to it. If these are more than k, it
    # is not found at all, and the last is one too many.
    others = found != np.arange(part.start, part.stop)[:, None]
    others[others.all(axis=1), -1] = False
    return found[others].reshape(len(found), k)


def draw(rng: np.random.Generator, near: Int64) -> tuple[int, int, float]:
    """Return SMOTE's three random draws: base and neighbour (positions within the class), and the step in [0, 1)."""
    base = int(rng.integers(len(near)))
    return base, int(rng.choice(near[base])), float(rng.random())


def interpolate(base: Float32, neighbour: Float32, step: Float32) -> Float32:
    """Return `base + step * (neighbour - base)`, row by row, as imbalanced-learn's SMOTE computes it."""
    from imblearn.over_sampling import SMOTE

    rows = np.arange(len(base))
    return SMOTE()._generate_samples(base, neighbour, rows[:, None], rows, np.zeros_like(rows), step[:, None])
