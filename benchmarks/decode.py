"""What is the table of decoded pictures worth? Compare epochs over it with epochs that decode the JPEGs again.

The pictures are phantoms of 2,500 x 3,000 px in a folder tree like MIMIC-CXR-LT's. Both kinds of epoch read in random
order, in batches of 32, and give grey images of the same side. The table is read from the page cache, and then,
repeated up to 256 MB, with its pages dropped before every epoch. The time to make the table is measured too.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from bench.data.images import read_image
from bench.data.kinds.cxr_lt.dataset import MimicCxrLt
from bench.store.store import Store
from bench.tables import ImageRows
from benchmarks import common
from benchmarks.common import Figure
from tests.cxr_lt_trees import Tree, mimic_tree

SIZE_PX = (2500, 3000)
BATCH = 32
SHARE_BOUND = 0.05  # the table must be twenty times as fast
_COLD_BYTES = 256 << 20


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--patients", type=int, default=10, help="of four pictures each")
    parser.add_argument("--image-px", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--repeats", type=int, default=5, help="epochs")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="that decode")
    given = parser.parse_args()
    with common.folder(None, "bench-decode-") as place:
        tree = mimic_tree(place / "tree", n_patients=given.patients, size=SIZE_PX)
        paths = [tree.root / "files" / row["rest"] for row in tree.rows]
        common.say(f"{len(paths)} pictures of {sum(p.stat().st_size for p in paths) / len(paths) / 1e6:.2f} MB written")
        figures = [f for px in given.image_px for f in figures_of(tree, paths, px, given.threads, given.repeats, place)]
    return common.report(figures, given.json, pictures={"n": len(paths), "threads": given.threads})


def figures_of(tree: Tree, paths: list[Path], px: int, threads: int, repeats: int, place: Path) -> Iterator[Figure]:
    """Yield the figures for one image side in pixels. Shares are of the median epoch that decodes every pixel."""
    for jpeg in ("draft", "full"):
        dataset = MimicCxrLt(**tree.settings(image_px=px, jpeg=jpeg, workers=threads))
        started = time.perf_counter()
        table = Store(place / f"store-{px}-{jpeg}").get(dataset)
        yield Figure.of(
            f"{px} px: making the table, {jpeg}", "images/s", [len(paths) / (time.perf_counter() - started)]
        )
    for draft in (True, False):
        decoding = [decoded(paths, px, draft, threads) for _ in range(repeats)]
        name = f"{px} px: decoding each epoch, {'draft' if draft else 'full'}"
        yield Figure.of(name, "images/s", [len(paths) / s for s in decoding])
    an_image = float(np.median(decoding)) / len(paths)
    warm = [read(ImageRows(table.images), seed) for seed in range(repeats + 1)][1:]
    yield from told(f"{px} px: table, in the page cache", warm, an_image)
    wide = tiled(table.images, place / f"wide-{px}.npy")
    cold = [dropped(wide) or read(ImageRows(np.load(wide, mmap_mode="r")), seed) for seed in range(repeats)]
    yield from told(f"{px} px: table, from the disk", cold, an_image)
    wide.unlink()


def told(name: str, seconds_an_image: list[float], decoding: float) -> Iterator[Figure]:
    """Yield images per second, and the time for an image as a share of the time to decode it."""
    yield Figure.of(name, "images/s", [1 / s for s in seconds_an_image])
    yield Figure.of(f"{name}: share of decoding", "", [s / decoding for s in seconds_an_image], SHARE_BOUND)


def decoded(paths: list[Path], px: int, draft: bool, threads: int) -> float:
    """Return the seconds of an epoch that decodes every picture."""
    started = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda path: read_image(path, px, "pad", "window", draft), paths))
    return time.perf_counter() - started


def read(images: ImageRows, seed: int) -> float:
    """Return the seconds for one image in an epoch over the table, in random order."""
    order = np.random.default_rng(seed).permutation(len(images))
    started = time.perf_counter()
    for start in range(0, len(order), BATCH):
        images[order[start : start + BATCH]]
    return (time.perf_counter() - started) / len(order)


def tiled(images: np.ndarray, path: Path) -> Path:
    """Write the table repeatedly into one file until it has 256 MB, and return the file."""
    wide = np.lib.format.open_memmap(path, "w+", np.uint8, (_COLD_BYTES // images[0].size, *images.shape[1:]))
    for start in range(0, len(wide), len(images)):
        wide[start : start + len(images)] = images[: len(wide) - start]
    wide.flush()
    return path


def dropped(path: Path) -> None:
    """Make the kernel drop a file's pages from its cache."""
    with open(path, "rb") as handle:
        os.fsync(handle.fileno())
        os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    sys.exit(main())
