"""Arrays of phantom images to train assets on: another seed than any benchmark's, rare findings lifted."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.data.kinds.phantom import CLASS_NAMES, TAIL, PhantomSettings, facts, render
from bench.seeds import derive

ASSET_SEED = 770_077  # the benchmark's phantoms use small seeds, so that the two never share an image
NOTE = (
    "half of the images have their natural findings; the other half have them too, plus each tail "
    "finding with probability 0.16 and each head finding dropped with probability 0.4"
)


class Arrays(NamedTuple):
    """Images and what is on them."""

    images: NDArray[np.uint8]  # [n, R, R]
    labels: NDArray[np.float32]  # [n, C], true


def lifted_labels(settings: PhantomSettings, index: int) -> NDArray[np.bool_]:
    """Return the findings to draw on image `index` of a training set of an asset."""
    labels = facts(settings, index).true_labels.copy()
    if index % 2 == 0:
        return labels
    rng = np.random.default_rng(derive(settings.seed, "lifted", index))
    tail = np.array([name in TAIL for name in CLASS_NAMES])
    draw = rng.random(len(CLASS_NAMES))
    return np.where(tail, labels | (draw < 0.16), labels & (draw >= 0.4))


def lifted(settings: PhantomSettings, n_images: int, first: int = 0) -> Arrays:
    """Render images `first` … `first + n_images` with half of them lifted."""
    indices = range(first, first + n_images)
    labels = np.stack([lifted_labels(settings, i) for i in indices])
    images = [render(settings, i, lab).image for i, lab in zip(indices, labels, strict=True)]
    return Arrays(np.stack(images), labels.astype(np.float32))


def natural(settings: PhantomSettings, n_images: int, first: int = 0) -> Arrays:
    """Render images with their own findings, labelled with the truth."""
    drawn = [render(settings, i) for i in range(first, first + n_images)]
    labels = np.stack([d.true_labels for d in drawn]).astype(np.float32)
    return Arrays(np.stack([d.image for d in drawn]), labels)
