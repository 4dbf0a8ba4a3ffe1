"""Runs a method under its contract: resolves the plan, checks every batch, streams the samples to disk."""

from __future__ import annotations

import contextlib
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import SerializeAsAny

from bench import seeds
from bench.contract import AugmentedBatch, Context, DiffusionModel, Method, Plan, Task
from bench.errors import ContractError
from bench.labelling import CLAIMED_CLASS, PARENT_SHARE
from bench.split import Train, train_set
from bench.stage import Resources, Stage
from bench.types import AugmentedSet, TrainSet

_SHARE = f"extras/{PARENT_SHARE}"


class Augmented(Stage):
    """The synthetic samples of one method: images, labels, parents, target classes."""

    resources: ClassVar[Resources] = Resources(gpu=True)

    method: SerializeAsAny[Method]
    train: Train
    plan: Plan
    seed: int
    needs: dict[str, SerializeAsAny[Stage]] = {}
    diffusion: DiffusionModel | None = None

    @classmethod
    def of(cls, method: Method, task: Task) -> Augmented:
        """Return the stage for a method in a cell. The seed is derived without the method's name."""
        method = method.model_copy(update={"labels": "own"})  # other policies relabel these images
        if not method.makes_images:
            return cls(method=method, train=task.train, plan=Plan(per_class=0), seed=0)
        return cls(
            method=method,
            train=task.train,
            plan=task.plan,
            seed=task.seed,
            needs=method.inputs(task),
            diffusion=task.diffusion if method.uses_diffusion else None,
        )

    def context(self, work: Any) -> Context:
        """Return what the method is given."""
        train = train_set(work, self.train)
        plan = self.plan.resolve(train)
        samples = [train.class_names.index(name) for name, n in plan.items() for _ in range(n)]
        return Context(
            train=train,
            plan=plan,
            samples=np.array(samples, dtype=np.int64),
            inputs={name: work.get(stage) for name, stage in self.needs.items()},
            seed=seeds.derive(self.seed, "augment"),
            device=work.device,
            progress=lambda done: work.progress(done, len(samples), "samples"),
            diffusion_model=self.diffusion,
        )

    def compute(self, work: Any) -> None:
        """Write images, labels, parents, target_class and extras as npy; or the reason of a skip.

        Batches are kept in `work.ckpt` as they come, so that a killed computation goes on behind the last one.
        """
        ctx = self.context(work)
        reason = self.method.skip(ctx.train) if len(ctx.samples) else None
        if reason:
            ctx = replace(ctx, samples=ctx.samples[:0])
        kept = KeptBatches(work.ckpt)
        for batch in checked(self.method, replace(ctx, start=kept.n)):
            kept.add(batch)
        kept.write(work.out, ctx)
        (work.out / "plan.json").write_text(json.dumps({"plan": ctx.plan, "skip": reason}), encoding="utf-8")

    def open(self, folder: Path) -> AugmentedSet:
        """Return the set, memory-mapped."""
        names = ("images", "labels", "parents", "target_class")
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in names}
        extras = {p.stem: np.load(p, mmap_mode="r") for p in sorted((folder / "extras").glob("*.npy"))}
        return AugmentedSet(**arrays, extras=extras)

    def skip_reason(self, folder: Path) -> str | None:
        """Return why the method declined the data set, or None."""
        return json.loads((folder / "plan.json").read_text(encoding="utf-8"))["skip"]


def checked(method: Method, ctx: Context) -> Iterator[AugmentedBatch]:
    """Yield the method's batches, each held against the contract.

    Raises:
        ContractError: naming the method, the rule and what was seen.
    """
    made = ctx.start
    if made < len(ctx.samples):
        for batch in method.augment(ctx):
            for rule, fault in _faults(batch, ctx.train):
                raise ContractError(method.label, rule, f"samples {made} to {made + len(batch.labels)}: {fault}")
            made += len(batch.labels)
            yield batch
    if made != len(ctx.samples):
        raise ContractError(method.label, "counts equal the plan", f"made {made}, the plan asks for {len(ctx.samples)}")


def _faults(batch: AugmentedBatch, train: TrainSet) -> Iterator[tuple[str, str]]:
    """Yield (rule, what is wrong) for a batch."""
    n, px = len(batch.labels), train.images.image_px
    if batch.images.dtype != np.uint8 or batch.images.shape != (n, px, px):
        yield "images uint8 [b, H, W]", f"got {batch.images.dtype} {list(batch.images.shape)}, want uint8 {[n, px, px]}"
    elif batch.labels.dtype != np.float32 or batch.labels.shape[1:] != (len(train.class_names),):
        yield "labels float32 [b, C]", f"got {batch.labels.dtype} {list(batch.labels.shape)}"
    elif np.isinf(batch.labels).any() or (batch.labels < 0).any() or (batch.labels > 1).any():
        yield "labels in [0, 1] or NaN", f"got {np.nanmin(batch.labels)} to {np.nanmax(batch.labels)}"
    elif batch.parents.ndim != 2 or len(batch.parents) != n or not np.issubdtype(batch.parents.dtype, np.integer):
        yield "parents int64 [b, p]", f"got {batch.parents.dtype} {list(batch.parents.shape)}"
    elif (batch.parents < -1).any() or (batch.parents >= len(train)).any():
        yield "parents are train rows or -1", f"got {batch.parents.min()} to {batch.parents.max()} of {len(train)} rows"
    else:
        yield from _evidence_faults(batch, len(train.class_names))


def _evidence_faults(batch: AugmentedBatch, n_classes: int) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the extras that label policies read."""
    share: Any = batch.extras.get(PARENT_SHARE)
    claimed: Any = batch.extras.get(CLAIMED_CLASS)
    if share is not None and share.shape != batch.parents.shape:
        yield f"extras.{PARENT_SHARE} float32 [b, p], as parents", f"got {list(share.shape)}"
    elif share is not None:
        there = batch.parents >= 0
        sums = np.where(there, share, 0).sum(axis=1)
        wrong = (share < 0).any(axis=1) | (np.any(there, axis=1) & ~(np.abs(sums - 1) < 1e-3))  # `~`: NaN is wrong too
        if wrong.any():
            yield f"extras.{PARENT_SHARE} at least 0, 1 in all over the parents", f"got {share[wrong][0].tolist()}"
    if claimed is not None and (claimed.shape != (len(batch.labels),) or claimed.dtype.kind != "i"):
        yield f"extras.{CLAIMED_CLASS} int64 [b]", f"got {claimed.dtype} {list(claimed.shape)}"
    elif claimed is not None and ((claimed < -1).any() or (claimed >= n_classes).any()):
        yield f"extras.{CLAIMED_CLASS} a class or -1", f"got {claimed.min()} to {claimed.max()} of {n_classes} classes"


class KeptBatches:
    """Batches on disk, `<first sample>.npz` each, written by a rename; what a kill left half-written is not seen."""

    def __init__(self, folder: Path) -> None:
        """Find the batches that an earlier attempt left, up to the first damaged one; `n` samples are there."""
        self.folder, self.n = folder, 0
        self.paths: list[Path] = []
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            while True:
                path = folder / f"{self.n}.npz"
                self.n += len(_read(path)["labels"])
                self.paths.append(path)

    def add(self, batch: AugmentedBatch) -> None:
        """Keep the next batch."""
        if not len(batch.labels):
            return
        path = self.folder / f"{self.n}.npz"
        part = path.with_suffix(".part")
        with open(part, "wb") as handle:
            arrays: dict[str, Any] = {f"extras/{name}": array for name, array in batch.extras.items()}
            arrays |= {"images": batch.images, "labels": batch.labels, "parents": batch.parents}
            np.savez(handle, **arrays)
            handle.flush()
            os.fsync(handle.fileno())
        os.replace(part, path)
        self.paths.append(path)
        self.n += len(batch.labels)

    def write(self, out: Path, ctx: Context) -> None:
        """Write whole arrays, batch by batch through memory maps; parents are padded with -1 to the widest."""
        px, n_classes = ctx.train.images.image_px, len(ctx.train.class_names)
        first = _read(self.paths[0]) if self.paths else {}
        width = max((_read(path)["parents"].shape[1] for path in self.paths), default=1)
        kinds: dict[str, tuple[tuple[int, ...], Any]] = {
            "images": ((px, px), np.uint8),
            "labels": ((n_classes,), np.float32),
            "parents": ((width,), np.int64),
        }
        kinds |= {name: (a.shape[1:], a.dtype) for name, a in first.items() if name.startswith("extras/")}
        if _SHARE in kinds:
            kinds[_SHARE] = (width,), np.float32
        (out / "extras").mkdir()
        arrays = {
            name: _created(out / f"{name}.npy", (self.n, *shape), dtype) for name, (shape, dtype) in kinds.items()
        }
        at = 0
        for path in self.paths:
            batch = _read(path)
            rows = slice(at, at + len(batch["labels"]))
            missing = ((0, 0), (0, width - batch["parents"].shape[1]))
            batch["parents"] = np.pad(batch["parents"], missing, constant_values=-1)
            if _SHARE in batch:
                batch[_SHARE] = np.pad(batch[_SHARE], missing)
            for name, array in arrays.items():
                array[rows] = batch[name]
            at = rows.stop
        np.save(out / "target_class.npy", ctx.samples)


def _created(path: Path, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return a new npy file as a writable memory map (nothing can be mapped of an empty one)."""
    if shape[0]:
        return np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
    empty = np.zeros(shape, dtype)
    np.save(path, empty)
    return empty


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)
