"""Does memory stay flat as a data set grows ten-fold? Peak anonymous memory of every stage, each in a fresh process.

The data set is a folder of PNG files. Only images of a head class are added, so that the labels of the tail, the number
of synthetic images and the number of training steps stay the same. Anonymous memory (`RssAnon`) leaves out the pages of
files, which the kernel can take back at any time, so memory-mapped images do not count.
"""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common
from benchmarks.common import Figure

if TYPE_CHECKING:
    from bench.pipeline.stage import Stage

GROWTH_MIB = 32.0  # largest growth of the peak: a third of the added images, 27,000 x 64 x 64 B = 105 MiB
_POLL_S = 0.004
_DRAWN = 3000  # number of different phantoms; further pictures are hard links to these


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--images", type=int, default=3000, help="of the smaller data set")
    parser.add_argument("--times", type=int, default=10, help="how many times as large the other is")
    parser.add_argument("--image-px", type=int, default=64)
    parser.add_argument("--folder", type=Path, help="where data and stores go, kept [a temporary one]")
    parser.add_argument("--phantom", action="store_true", help="measure the phantom's own stage too (slow to draw)")
    given = parser.parse_args()
    from bench.data.kinds.phantom import Phantom

    with common.folder(given.folder, "bench-memory-") as place:
        sizes = (given.images, given.images * given.times)
        peaks: list[dict[str, float]] = []
        for n in sizes:
            data = write_pictures(place / "data", n, given.images, given.image_px)
            stages = stages_over(data, given.image_px)
            if given.phantom:
                stages.append(Phantom(n_images=n, image_px=given.image_px))
            peaks.append(dict(measured(stages, place / f"store-{n}")))
        figures = [
            Figure(name, "MiB", peaks[1][name] - peaks[0][name], peaks[0][name], peaks[1][name], 1, GROWTH_MIB)
            for name in peaks[0]
        ]
        return report(figures, sizes, given.json)


def report(figures: list[Figure], sizes: tuple[int, int], as_json: bool) -> int:
    """Print the peak of every stage at both sizes, and its growth. Return 1 if a growth breaks the bound, else 0."""
    if as_json:
        return common.report(figures, True, images=sizes)
    for f in figures:
        print(f"{f.name:24s} {f.low:8.1f} {f.high:8.1f}  {f.value:+7.1f} MiB  {'' if f.kept else 'BROKEN'}")
    print(f"peak RssAnon at {sizes[0]} and {sizes[1]} images, and the growth (bound {GROWTH_MIB:g} MiB)")
    print(common.machine())
    return 0 if all(f.kept for f in figures) else 1


def write_pictures(folder: Path, n: int, n_labelled: int, image_px: int) -> Path:
    """Write `n` PNG files and their CSV file, and return its path. Rows after `n_labelled` have one head class only."""
    from PIL import Image

    from bench.data.kinds.phantom import CLASS_NAMES, HEAD, Phantom, render

    pictures = folder / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    phantom = Phantom(n_images=max(n_labelled, 8), image_px=image_px, prevalence_floor=0.03)
    path = folder / f"labels-{n}.csv"
    known = folder / "drawn.json"
    labels: list[list[int]] = json.loads(known.read_text()) if known.is_file() else []
    for i in range(len(labels), min(n_labelled, _DRAWN)):
        drawn = render(phantom, i)
        Image.fromarray(drawn.image).save(pictures / f"{i}.png")
        labels.append([int(v) for v in drawn.observed_labels])
    known.write_text(json.dumps(labels))
    with open(path, "w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["path", "patient", *CLASS_NAMES])
        for i in range(n):
            picture = pictures / f"{i}.png"
            if not picture.exists():
                os.link(pictures / f"{i % len(labels)}.png", picture)
            row = labels[i % len(labels)] if i < n_labelled else [int(name == HEAD[0]) for name in CLASS_NAMES]
            writer.writerow([f"pictures/{i}.png", f"p{i // 2}", *row])
    return path


def stages_over(data: Path, image_px: int) -> list[Stage]:
    """Return stages of every kind over a data set, inputs first. Numbers of steps and samples are fixed."""
    from bench.data.kinds.phantom import TAIL
    from bench.matrix.build import build_matrix
    from bench.pipeline.stage import walk

    folder = {"kind": "folder", "csv": str(data), "patient_column": "patient", "tail": list(TAIL), "image_px": image_px}
    codec = {"generations": 1, "interaction_epochs": 1}
    raw = {
        "name": "memory",
        "datasets": [folder],
        "split": {"min_positives": 1},
        "augment": {"per_class": 8},
        "methods": ["baseline", "duplicate", "smote", "roentgen@2", "ours@1", "sdedit@1"],
        "settings": {"ours": {"num_inference_steps": 2, "labels": "teacher", "codec": codec}},
        "classifier": {"architecture": "resnet18", "steps": 2, "batch_size": 16, "n_validations": 1},
    }
    cells = build_matrix(raw, "benchmarks.memory").cells
    chosen = [c for c in cells if c.method.name in ("ours", "smote")]  # of the other methods, the images only
    return walk([*(t for c in chosen for t in c.targets), *(c.augmented for c in cells)])


def measured(stages: list[Stage], root: Path) -> Iterator[tuple[str, float]]:
    """Compute stages into `root`, and yield the name and the peak memory in MiB of the first stage of each kind."""
    seen: set[str] = set()
    for stage in stages:
        name = name_of(stage)
        if name in seen:
            compute(root, stage)  # a later stage needs it, but its kind is measured already
            continue
        seen.add(name)
        started = time.monotonic()
        peak = peak_rss_anon(name, compute, root, stage)
        common.say(f"{name:24s} {peak:8.1f} MiB {time.monotonic() - started:6.1f} s")
        yield name, peak


def name_of(stage: Stage) -> str:
    """Return a stage's name, with its method's name if it has one."""
    method = getattr(stage, "method", None)
    return f"{stage.stage_name()} {method.name}" if method is not None else stage.stage_name()


def peak_rss_anon(name: str, work: Callable[..., None], *args: Any) -> float:
    """Call `work(*args)` in a fresh process and return its peak anonymous memory in MiB, sampled every 4 ms."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=args)
    process.start()
    status, peak = Path(f"/proc/{process.pid}/status"), 0.0
    while not wait([process.sentinel], timeout=_POLL_S):
        try:
            text = status.read_text(encoding="ascii")
        except OSError:
            break
        at = text.find("RssAnon:")
        if at >= 0:
            peak = max(peak, int(text[at + 8 : text.index("kB", at)]) / 1024)
    process.join()
    if process.exitcode:
        raise SystemExit(f"{name}: its process ended with code {process.exitcode}")
    return peak


def compute(root: Path, stage: Stage) -> None:
    """Compute one stage whose inputs are finished."""
    from bench.store.store import Store
    from bench.store.work import Execution

    Store(root).compute(stage, Execution(device="cpu", threads=1))


if __name__ == "__main__":
    sys.exit(main())
