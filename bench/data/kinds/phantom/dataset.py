"""The phantom as a data set: it is rendered once into the memory-mapped table, with the true labels beside it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from bench.data.dataset import Dataset, DatasetSize, TableWriter
from bench.data.kinds.phantom.labels import official_split
from bench.data.kinds.phantom.render import render
from bench.data.kinds.phantom.settings import CLASS_NAMES, HEAD, TAIL, PhantomSetSettings
from bench.pipeline.stage import Work
from bench.tables import Int64


class Phantom(PhantomSetSettings, Dataset):
    """`n_images` phantom radiographs. Image i does not depend on `n_images`."""

    kind: ClassVar[str] = "phantom"
    sharing: ClassVar[Literal["open", "credentialed"]] = "open"
    known_to_shipped_models: ClassVar[bool] = True
    beside_published: ClassVar[bool] = True

    n_images: int = Field(default=3000, ge=8, le=1_000_000, description="images in all parts together")

    @model_validator(mode="after")
    def _something_is_left_to_train_on(self) -> Self:
        """Refuse settings that leave no image to train on, before any image is drawn."""
        official_split(self, self.n_images)
        return self

    def known_classes(self) -> tuple[str, ...]:
        """Return the names of the ten findings."""
        return CLASS_NAMES

    def known_size(self) -> DatasetSize:
        """Return the size of the data set, which the settings fix."""
        splits = official_split(self, self.n_images)
        n_train = None if splits is None else int(np.count_nonzero(splits == 0))
        return DatasetSize(self.n_images, n_train, TAIL)

    def pilot_settings(self) -> dict[str, Any]:
        """Return settings for at most 500 images."""
        return {"n_images": min(500, self.n_images)}

    def compute(self, work: Work) -> None:
        """Render every image (about 1.5 ms each at 64 px) and write it with its observed and true labels."""
        writer = TableWriter(work.out, self.n_images, self.image_px)
        labels = np.zeros((self.n_images, len(CLASS_NAMES)), dtype=np.float32)
        true_labels, patients = labels.copy(), np.zeros(self.n_images, dtype=np.int64)
        for i in range(self.n_images):
            drawn = render(self, i)
            writer.images[i] = drawn.image
            labels[i], true_labels[i], patients[i] = drawn.observed_labels, drawn.true_labels, drawn.patient
            work.progress(i + 1, self.n_images, "render")
        writer.finish(labels, patients, CLASS_NAMES, HEAD, TAIL, true_labels, official_split(self, self.n_images))

    def true_masks(self, rows: Int64, side: int) -> npt.NDArray[np.bool_]:
        """Return where each finding was drawn, `bool [len(rows), C, side, side]`; empty if it is not in the image.

        A pixel is in a mask if the finding changes it by more than 0.35 of the finding's largest change. A site is in
        the mask if any of its pixels is. If half of them were needed, a fracture or a widened mediastinum, which are
        only a few pixels thin, would often have no site. On a coarser grid, thin findings look larger, and chance hits
        become more likely.

        Args:
            rows: `int64 [n]`, rows of the table.
            side: the number of sites along an edge, 1 to `image_px`; pixel p belongs to site `p * side // image_px`.

        Raises:
            ValueError: if there are more sites than pixels.
        """
        if not 1 <= side <= self.image_px:
            raise ValueError(f"side: want 1 to image_px = {self.image_px}, got {side}")
        starts = -(-np.arange(side) * self.image_px // side)  # the first pixel of each site
        out = np.zeros((len(rows), len(CLASS_NAMES), side, side), dtype=bool)
        for i, row in enumerate(rows):
            masks = np.asarray(render(self, int(row), masks=True).masks)
            out[i] = np.logical_or.reduceat(np.logical_or.reduceat(masks, starts, axis=1), starts, axis=2)
        return out
