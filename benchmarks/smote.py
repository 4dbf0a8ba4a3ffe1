"""Does SMOTE's search in pixels stay small as a class grows? Peak memory and CPU seconds, at the paper's image size.

The peer is the same search with the whole class in memory as float32, as a method would write it at first. Both run in
fresh processes over a memory-mapped array of random images, and find the same neighbours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from benchmarks import common
from benchmarks.common import Figure
from benchmarks.memory import peak_rss_anon

K = 5
GROWTH_MIB = 64.0  # largest growth of the peak between the two sizes; the images themselves grow by four times as much


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, nargs=2, default=(2_000, 3_000), metavar=("FEW", "MANY"))
    parser.add_argument("--image-px", type=int, default=512)
    parser.add_argument("--peer-images", type=int, default=1_000, help="for the comparison: the peer needs the memory")
    parser.add_argument("--folder", type=Path, help="where the images go [a temporary one]")
    given = parser.parse_args()
    figures = []
    with common.folder(given.folder, "bench-smote-") as place:
        write_images(place / "images.npy", max(*given.images, given.peer_images), given.image_px)
        peaks = [measured(place, search, n) for n in given.images]
        for n, (peak, seconds) in zip(given.images, peaks, strict=True):
            figures.append(Figure.of(f"{n} images: peak memory", "MiB", [peak]))
            figures.append(Figure.of(f"{n} images: CPU", "s", [seconds]))
        figures.append(Figure.of("growth of the peak", "MiB", [peaks[1][0] - peaks[0][0]], GROWTH_MIB))
        found = []
        for name, work in (("ours", search), ("whole class", search_at_once)):
            peak, seconds = measured(place, work, given.peer_images)
            figures.append(Figure.of(f"{given.peer_images} images, {name}: peak memory", "MiB", [peak]))
            figures.append(Figure.of(f"{given.peer_images} images, {name}: CPU", "s", [seconds]))
            found.append(np.load(place / "found.npy"))
        figures.append(Figure.of("share of other neighbours", "", [float((found[0] != found[1]).mean())], 0.0))
    return common.report(figures, given.json, image_px=given.image_px, k=K)


def write_images(path: Path, n: int, image_px: int) -> None:
    """Write random grey images, `uint8 [n, image_px, image_px]`."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, "w+", np.uint8, (n, image_px, image_px))
    for i in range(n):
        images[i] = rng.integers(0, 256, (image_px, image_px), dtype=np.uint8)


def measured(place: Path, work: Callable[[Path, int], None], n: int) -> tuple[float, float]:
    """Return the peak memory in MiB and the CPU seconds of a search among the first n images."""
    peak = peak_rss_anon(work.__name__, work, place, n)
    return peak, float(np.load(place / "seconds.npy"))


def search(place: Path, n: int) -> None:
    """Search as the stage does, and write what was found."""
    from bench.tables import ImageRows, TrainSet
    from methods.smote import blocks, nearest, reader

    images = ImageRows(np.load(place / "images.npy", mmap_mode="r"), np.arange(n))
    read = reader(TrainSet(images, np.ones((n, 1), np.float32), ("a",), (), ("a",)), None)
    rows = np.arange(n)
    timed(place, lambda: np.concatenate([nearest(read, rows, K, part) for part in blocks(read, rows)]))


def search_at_once(place: Path, n: int) -> None:
    """Search with all images in memory as float32, and write what was found."""
    from bench.metrics.neighbours import nearest

    whole = np.load(place / "images.npy", mmap_mode="r")[:n].reshape(n, -1).astype(np.float32)
    timed(place, lambda: nearest(whole, [whole], K + 1)[1][:, 1:])  # the first is the image itself: no two are equal


def timed(place: Path, work: Callable[[], np.ndarray]) -> None:
    """Write what a search finds and its CPU seconds on one thread."""
    from threadpoolctl import threadpool_limits

    threadpool_limits(1)
    started = time.process_time()
    np.save(place / "found.npy", work())
    np.save(place / "seconds.npy", time.process_time() - started)


if __name__ == "__main__":
    sys.exit(main())
