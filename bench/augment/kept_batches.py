"""Keeps a method's batches on disk as they are yielded, so that a killed computation resumes after the last one.

A resumed run must store the same samples as an uninterrupted one. That works because each sample has its own
generator (`Context.rng`), which does not depend on how many samples were made before it. A method that drew from one
running generator would continue with the wrong draws.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.augment.batch_checks import SHARE
from bench.augment.method import Context
from bench.files import new_array
from bench.tables import AugmentedBatch


class KeptBatches:
    """The batches that are on disk, each in a file `<number of its first sample>.npz`.

    A batch is written to a `.part` file and then renamed. If a kill leaves a half-written file, it keeps its `.part`
    name and is ignored.
    """

    def __init__(self, folder: Path) -> None:
        """Find the batches that an earlier attempt left; `n` is the number of samples in them."""
        self.folder, self.n = folder, 0
        self.paths: list[Path] = []
        # File names give the position of a batch, so the chain ends at the first batch that is missing or damaged.
        # Later files cannot be used: the samples between would be missing from the result.
        with contextlib.suppress(OSError, ValueError, KeyError, zipfile.BadZipFile):
            while True:
                path = folder / f"{self.n}.npz"
                self.n += len(_read(path)["labels"])
                self.paths.append(path)

    def add(self, batch: AugmentedBatch) -> None:
        """Write the next batch to disk."""
        if not len(batch.labels):
            return
        path = self.folder / f"{self.n}.npz"
        part = path.with_suffix(".part")
        with open(part, "wb") as handle:
            arrays: dict[str, Any] = {f"extras/{name}": array for name, array in batch.extras.items()}
            arrays |= {"images": batch.images, "labels": batch.labels, "parents": batch.parents}
            np.savez(handle, **arrays)
            handle.flush()
            os.fsync(handle.fileno())  # Without it the rename can reach the disk before the data does.
        os.replace(part, path)
        self.paths.append(path)
        self.n += len(batch.labels)

    def forget(self) -> None:
        """Remove all batches."""
        for path in self.paths:
            path.unlink(missing_ok=True)
        self.paths, self.n = [], 0

    def write(self, out: Path, ctx: Context) -> None:
        """Write the arrays of all batches to `out`, and the target class of every sample.

        The arrays are filled batch by batch through memory maps, so that the whole set is never in memory. Parents are
        padded with -1 to the largest number of parents in any batch, and their shares with 0.
        """
        n_classes = len(ctx.train.class_names)
        first = _read(self.paths[0]) if self.paths else {}
        width = max((_read(path)["parents"].shape[1] for path in self.paths), default=1)
        kinds: dict[str, tuple[tuple[int, ...], npt.DTypeLike]] = {
            "images": (ctx.train.images.image_shape, np.uint8),
            "labels": ((n_classes,), np.float32),
            "parents": ((width,), np.int64),
        }
        kinds |= {name: (a.shape[1:], a.dtype) for name, a in first.items() if name.startswith("extras/")}
        if SHARE in kinds:
            kinds[SHARE] = (width,), np.float32
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
            if SHARE in batch:
                batch[SHARE] = np.pad(batch[SHARE], missing)
            for name, array in arrays.items():
                array[rows] = batch[name]
            at = rows.stop
        np.save(out / "target_class.npy", ctx.samples)


def _created(path: Path, shape: tuple[int, ...], dtype: npt.DTypeLike) -> np.ndarray:
    """Return a new npy file as a writable memory map, or as a plain array if it is empty (which cannot be mapped)."""
    if shape[0]:
        return new_array(path, shape, dtype)
    empty = np.zeros(shape, dtype)
    np.save(path, empty)
    return empty


def _read(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)
