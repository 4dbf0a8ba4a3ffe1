"""The phantom as a data set: rendered once into the memory-mapped table, its truth beside it."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from bench.datasets.base import Dataset, TableWriter
from bench.datasets.phantom.render import render
from bench.datasets.phantom.settings import CLASS_NAMES, HEAD, TAIL, PhantomSettings


class Phantom(PhantomSettings, Dataset):
    """`n_images` phantom radiographs; image i is the same whatever `n_images` is."""

    kind: ClassVar[str] = "phantom"

    n_images: int = Field(default=3000, ge=8, le=1_000_000, description="images in all parts together")

    def known_classes(self) -> tuple[str, ...]:
        """Return the ten findings."""
        return CLASS_NAMES

    def compute(self, work: Any) -> None:
        """Render every image (about 1.5 ms each at 64 px) with its observed and true labels."""
        writer = TableWriter(work.out, self.n_images, self.image_px)
        labels = np.zeros((self.n_images, len(CLASS_NAMES)), dtype=np.float32)
        true_labels, patients = labels.copy(), np.zeros(self.n_images, dtype=np.int64)
        for i in range(self.n_images):
            drawn = render(self, i)
            writer.images[i] = drawn.image
            labels[i], true_labels[i], patients[i] = drawn.observed_labels, drawn.true_labels, drawn.patient
            work.progress(i + 1, self.n_images, "render")
        writer.finish(labels, patients, CLASS_NAMES, HEAD, TAIL, true_labels)
