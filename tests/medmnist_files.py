"""Files of the layout that the package `medmnist` documents, with generated images."""

from pathlib import Path

import numpy as np


def medmnist_file(
    folder: Path,
    flag="chestmnist",
    image_px=64,
    n=(200, 80, 90),
    n_classes=14,
    compressed=False,
    colour=False,
    **arrays,
) -> Path:
    """Write a file with `n` train, val and test images; `arrays` replace or add arrays. Images of a class are brighter."""
    draw, content = np.random.default_rng(0), {}
    for part, count in zip(("train", "val", "test"), n, strict=True):
        if flag == "chestmnist":
            labels = draw.random((count, n_classes)) < np.linspace(0.5, 0.2, n_classes)
        else:
            labels = draw.integers(0, n_classes, (count, 1))
        images = draw.integers(0, 200, (count, image_px, image_px, 3)) + 50 * (labels[:, :1, None, None] > 0)
        images = images if colour else images[..., 0]
        content[f"{part}_images"], content[f"{part}_labels"] = images.astype(np.uint8), labels.astype(np.uint8)
    content = {name: array for name, array in (content | arrays).items() if array is not None}
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / (f"{flag}.npz" if image_px == 28 else f"{flag}_{image_px}.npz")
    (np.savez_compressed if compressed else np.savez)(file, **content)
    return file
