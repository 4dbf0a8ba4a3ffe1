"""How fast stages of each kind were: what finished ones took, held against their cost; and seconds told from that.

A stage is taken to be as fast, for its size, as the finished one of its kind that is nearest in what it did and in how
much. Between unequal sizes, and of stages that use network, processor and pictures, a plain model of the three says how
the times compare; its own speeds are assumptions and stand alone only where nothing was measured, which is then said.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Literal

from bench.cost import Cost, NoEstimate, Sizes
from bench.errors import BenchError

if TYPE_CHECKING:
    from bench.store import Store

Device = Literal["gpu", "cpu"]
SHIPPED = Path(__file__).parent / "presets" / "rates.json"
DEFAULT_TFLOPS = 10.0  # sustained, of a data-centre GPU with batches of 32: an assumption, no measurement
_CPU_FLOPS, _HOST_OPS, _PICTURE_S, _START_S = 5e10, 1e9, 1e-3, 0.05  # the model's own; a measured stage corrects them
_OTHER_WORK = math.log(100)  # another network or kind of work is as far as a hundred times the size
_AS_NEAR = math.log(1.5)
_STARTS_UP_S, _FAR = 2.0, 100.0  # shorter stages tell nothing of so many times their work


@dataclass(frozen=True)
class Sample:
    """What finished stages of one kind and size took.

    Attributes:
        stage: the kind.
        cost: of each.
        seconds, low, high: median, least and most of `n` of them.
        device: `gpu` or `cpu`; name: its model; threads: of the processor.
        origin: `this store`, or `shipped`.
    """

    stage: str
    cost: Cost
    seconds: float
    low: float
    high: float
    n: int
    device: Device
    name: str
    threads: int
    origin: str


@dataclass(frozen=True)
class Estimate:
    """Seconds of one stage, and what they stand on.

    Attributes:
        seconds: of one computation.
        sample: the finished stages that it is told from; None where all of it is assumed.
        times: how many times their work it is.
    """

    seconds: float
    sample: Sample | None
    times: float = 1.0


@dataclass(frozen=True)
class Rates:
    """Samples, and the assumptions that fill their gaps."""

    samples: tuple[Sample, ...]
    tflops: float = DEFAULT_TFLOPS

    def device_name(self, device: Device) -> str | None:
        """Return which GPU or CPU most samples are of, those of this store before shipped ones; None without any."""
        names = [s.name for s in self.samples if s.device == device]
        return max(names, key=names.count) if names else None

    def estimate(self, stage: str, cost: Cost, device: Device) -> Estimate:
        """Return what a stage takes: measured on such a device if it was, else by assumption.

        Work that no network does takes a GPU's machine as long as any other.
        """
        kind = [s for s in self.samples if s.stage == stage]
        if (found := self._measured([s for s in kind if s.device == device or not cost.flop], cost)) is not None:
            return found
        host = replace(cost, flop=0.0)
        found = self._measured([s for s in kind if self._mostly_host(s.cost)], host)
        beside = self._modelled(host, "cpu") if found is None else found.seconds
        speed = self.tflops * 1e12 if device == "gpu" else _CPU_FLOPS
        seconds = cost.flop / speed + beside
        # a machine that has a GPU does what no network does no more slowly
        return Estimate(min(seconds, self.estimate(stage, cost, "cpu").seconds) if device == "gpu" else seconds, None)

    def _mostly_host(self, cost: Cost) -> bool:
        return self._modelled(replace(cost, flop=0.0), "cpu") > 0.5 * self._modelled(cost, "cpu")

    def _measured(self, samples: list[Sample], cost: Cost) -> Estimate | None:
        """Return what samples tell; None without any, or where the nearest hardly did more than start up."""
        if not samples:
            return None
        found = self._from(samples, cost)
        of = found.sample.seconds if found.sample else 0.0
        return None if of < _STARTS_UP_S and found.times > _FAR else found

    def _from(self, samples: list[Sample], cost: Cost) -> Estimate:
        def apart(sample: Sample) -> float:
            size = abs(math.log(self._modelled(cost, sample.device) / self._modelled(sample.cost, sample.device)))
            return size + (0.0 if sample.cost.what == cost.what else _OTHER_WORK)

        own = [s for s in samples if s.origin != "shipped"]
        least = min(map(apart, own), default=math.inf)
        # a store's own stages come first, but a toy says less of a night's work than a run of its size elsewhere
        pool = own if own and least <= min(map(apart, samples)) + _OTHER_WORK else samples
        least = min(map(apart, pool))
        near = [s for s in pool if apart(s) <= least + _AS_NEAR and s.name == min(pool, key=apart).name]
        best = min(near, key=apart)
        factors = [s.seconds / self._modelled(s.cost, s.device) for s in near for _ in range(min(s.n, 20))]
        modelled = self._modelled(cost, best.device)
        told = replace(best, n=sum(s.n for s in near), low=min(s.low for s in near), high=max(s.high for s in near))
        return Estimate(modelled * median(factors), told, modelled / self._modelled(best.cost, best.device))

    def _modelled(self, cost: Cost, device: Device) -> float:
        speed = self.tflops * 1e12 if device == "gpu" else _CPU_FLOPS
        start = _START_S if cost.flop else _START_S / 20
        return start + cost.flop / speed + cost.host / _HOST_OPS + cost.images * _PICTURE_S


def shipped() -> Iterator[Sample]:
    """Yield the samples that come with the package."""
    for row in json.loads(SHIPPED.read_text(encoding="utf-8"))["samples"]:
        yield Sample(**row | {"cost": Cost(**row["cost"]), "origin": "shipped"})


def as_rows(samples: Iterable[Sample]) -> list[dict[str, Any]]:
    """Return samples as JSON has them, without their origin and their bytes."""
    rows = []
    for sample in samples:
        row = asdict(sample)
        row.pop("origin")
        row["cost"].pop("bytes")
        rows.append(row)
    return rows


def of_store(store: Store, folders: Iterable[Path] = (), together: bool = True) -> list[Sample]:
    """Return the samples in a store's manifests.

    Args:
        store: to read.
        folders: diffusion models whose stages may be in it; the shipped one always may.
        together: stages of one kind and cost are one sample; else each is one of its own.
    """
    groups: dict[tuple[Any, ...], list[float]] = {}
    for stage, manifest in _finished(store, folders):
        seconds, n_threads = manifest.get("seconds"), manifest.get("threads") or 1
        if not isinstance(seconds, (int, float)) or not 0 <= seconds < math.inf or not isinstance(n_threads, int):
            continue
        name = str(manifest.get("device_name", ""))
        device = "gpu" if str(manifest.get("device")).startswith("cuda") else "cpu"
        apart = "" if together else manifest["key"]
        place = (stage[0], replace(stage[1], bytes=0.0), device, name, n_threads, apart)
        groups.setdefault(place, []).append(max(float(seconds), 1e-3))
    return [
        Sample(kind, cost, median(s), min(s), max(s), len(s), device, name, threads, "this store")
        for (kind, cost, device, name, threads, _), s in groups.items()
    ]


def _finished(store: Store, folders: Iterable[Path]) -> Iterator[tuple[tuple[str, Cost], dict[str, Any]]]:
    from bench.diffusion import SHIPPED as TINY
    from bench.diffusion_folder import digest
    from bench.rebuilt import rebuilt

    sizes = Sizes(store)
    known = {digest(path): str(path) for path in {TINY, *folders}}
    for stage, manifest in rebuilt(store, known):
        try:
            cost = stage.cost(sizes)
        except (NoEstimate, BenchError, OSError, AttributeError, LookupError, TypeError, ValueError):
            continue  # of another version, or what it is told from is gone
        if cost is not None:
            yield (stage.stage_name(), cost), manifest


@functools.cache
def all_shipped() -> tuple[Sample, ...]:
    """Return the samples that come with the package, read once."""
    return tuple(shipped())
