"""What finished stages took: seconds, bytes and size of each, by kind, scaled to stages that are still to compute."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from bench.estimate.deciders import Deciders, DecidersOfManifests, DecidersOfStages
from bench.pipeline.stage import Stage
from bench.store.manifest import size_of
from bench.store.store import Store

# These files hold one entry for each image. Weights and records keep their length however many images there are.
_GROWING = (".npy", ".npz", ".parquet", ".png")
_SAME_SIZE = 0.05  # sizes within this share of each other count as one


@dataclass(frozen=True)
class Sample:
    """One finished computation.

    Attributes:
        kind: as `Stage.measured_as` names it.
        size: images that it passed through (`Stage.size`).
        seconds: how long it took.
        growing_bytes, fixed_bytes: of its files with one entry an image, and of the others.
        device: name of the GPU or CPU.
        finished: when, in ISO 8601.
        deciders: the network, the side of the images and what else an image's cost hangs on.
    """

    kind: str
    size: int
    seconds: float
    growing_bytes: int
    fixed_bytes: int
    device: str
    finished: str
    deciders: Deciders = frozenset()


@dataclass(frozen=True)
class Prediction:
    """What one computation will take, and the measurements that say so.

    Attributes:
        seconds, n_bytes: of the computation.
        n: computations that were measured.
        ratio: its size over theirs.
        device: where they were measured.
    """

    seconds: float
    n_bytes: float
    n: int
    ratio: float
    device: str


class Measured:
    """The measurements of one or more stores."""

    def __init__(self, samples: Iterable[Sample]) -> None:
        """Sort the measurements by kind. Of several machines, the one that computed last counts."""
        found = list(samples)
        newest = max(found, key=lambda s: s.finished, default=None)
        self.device = newest.device if newest else None
        self.kinds: dict[str, list[Sample]] = defaultdict(list)
        for sample in found:
            if sample.device == self.device:
                self.kinds[sample.kind].append(sample)
        self._deciders = DecidersOfStages()

    @classmethod
    def of(cls, *stores: Store) -> Measured:
        """Read the manifests of stores."""
        deciders, found = DecidersOfManifests(), []
        for manifest in (m for store in stores for m in store.manifests()):
            deciders.add(manifest)
            if (sample := _sample(manifest)) is not None:
                found.append((sample, str(manifest.get("key"))))
        return cls(replace(sample, deciders=deciders(key)) for sample, key in found)

    def seconds(self, stage: Stage) -> float | None:
        """Return how long computing `stage` will take; None where that is not known."""
        prediction = self.predict(stage)
        return None if prediction is None else prediction.seconds

    def predict(self, stage: Stage) -> Prediction | None:
        """Return what computing `stage` will take; None where that is not known.

        It is known if its kind was measured with the same network and side of images, and if its size is known.

        Seconds and bytes are those of the measured stages of its kind that are nearest to it in size, times the ratio
        of the sizes. Where stages of two sizes were measured, the line through them is used instead, for what a stage
        takes before its first image would otherwise be multiplied with the images.
        """
        size, deciders = size_of(stage), self._deciders(stage)
        samples = [s for s in self.kinds.get(stage.measured_as(), []) if s.deciders == deciders]
        if not samples or size is None:
            return None
        near = _nearest_in_size(samples, size)
        ratio = (size or 1) / (near[0].size or 1)  # a control makes no images, and takes a moment all the same
        seconds = median(s.seconds for s in near) * ratio
        others = [s for s in samples if not _alike(s, near[0])]
        if others:
            seconds = _on_a_line(near, _nearest_in_size(others, size), size, seconds)
        n_bytes = median(s.growing_bytes for s in near) * ratio + median(s.fixed_bytes for s in near)
        return Prediction(seconds, n_bytes, len(near), ratio, near[0].device)


def _nearest_in_size(samples: list[Sample], size: int) -> list[Sample]:
    """Return the measurements whose size is nearest to `size` as a ratio, and those of about the same size."""
    best = min(samples, key=lambda s: abs(math.log((s.size or 1) / (size or 1))))
    return [s for s in samples if _alike(s, best)]


def _alike(one: Sample, other: Sample) -> bool:
    return abs(one.size - other.size) <= _SAME_SIZE * other.size


def _on_a_line(near: list[Sample], far: list[Sample], size: int, otherwise: float) -> float:
    """Return the seconds at `size` on the line through two sizes, if larger ones took longer; else `otherwise`."""
    low, high = sorted((near, far), key=lambda samples: samples[0].size)
    rise = median(s.seconds for s in high) - median(s.seconds for s in low)
    run = high[0].size - low[0].size
    start = median(s.seconds for s in low) - rise / run * low[0].size
    return start + rise / run * size if rise > 0 and start >= 0 else otherwise


def _sample(manifest: Mapping[str, Any]) -> Sample | None:
    """Return what a manifest says of its computation; None where it lacks a figure or was changed by hand."""
    size, seconds, files = manifest.get("size"), manifest.get("seconds"), manifest.get("files")
    if not isinstance(size, int) or size < 0 or not isinstance(seconds, (int, float)) or not isinstance(files, dict):
        return None
    if not 0 <= seconds < math.inf:
        return None
    growing = sum(f["bytes"] for name, f in files.items() if name.endswith(_GROWING))
    fixed = sum(f["bytes"] for f in files.values()) - growing
    device, finished = (str(manifest.get(name, "")) for name in ("device_name", "finished"))
    return Sample(str(manifest.get("measured_as")), size, float(seconds), growing, fixed, device, finished)
