"""What `gpu` measures with: rows of its table, a time budget, timed repeats, and reasons instead of crashes."""

from __future__ import annotations

import contextlib
import gc
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from bench.errors import BenchError

LEAST = 3  # A median of fewer repeats is none.


class LeftOut(Exception):
    """Something is not measured, for the reason in the message."""


class Enough(Exception):
    """Raised in a callback of a training to stop it, when its steps have been timed often enough."""


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        name: what was measured.
        unit: unit of the values.
        values: of the repeats; empty if nothing was measured.
        peak_mib: most memory that tensors had on the GPU, in MiB; None on a CPU.
        remark: why nothing was measured, or what was measured instead.
        failed: whether it ended with an error that is neither a lack of memory or time nor a limit of the card.
    """

    name: str
    unit: str = ""
    values: Sequence[float] = ()
    peak_mib: float | None = None
    remark: str = ""
    failed: bool = False

    def cells(self) -> list[str]:
        """Return the texts of the line."""
        peak = "" if self.peak_mib is None else f"{self.peak_mib:,.0f}"
        if not self.values:
            return [self.name, "–", "", "0", peak, self.remark]
        spread = f"{min(self.values):.3g} to {max(self.values):.3g}"
        return [self.name, f"{median(self.values):.3g} {self.unit}", spread, str(len(self.values)), peak, self.remark]

    def data(self) -> dict[str, Any]:
        """Return the line as data; the numbers are None if nothing was measured."""
        found = list(self.values)
        figures = (median(found), min(found), max(found)) if found else (None, None, None)
        numbers = dict(zip(("value", "low", "high"), figures, strict=True))
        about = {"peak_mib": self.peak_mib, "remark": self.remark, "failed": self.failed}
        return {"name": self.name, "unit": self.unit, **numbers, "n": len(found), **about}


def markdown(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = [
        "| | median | least to most | n | peak, MiB | remark |",
        "|---|---:|---:|---:|---:|---|",
        *("| " + " | ".join(text.replace("|", "\\|") for text in row.cells()) + " |" for row in rows),
    ]
    return "\n".join(lines)


@dataclass
class Slice:
    """A part of the time budget. Parts that end early leave their time to the later ones.

    Attributes:
        until: end, on the clock of `time.monotonic`.
    """

    until: float

    @property
    def left(self) -> float:
        """Return the seconds that are left, 0 or more."""
        return max(0.0, self.until - time.monotonic())

    def check(self) -> None:
        """Raise `LeftOut` if no time is left."""
        if self.left == 0:
            raise LeftOut("left out: no time is left")

    def parts(self, weights: Sequence[float]) -> Iterator[Slice]:
        """Yield a part for each weight, of what is left when the part begins."""
        for i, weight in enumerate(weights):
            yield Slice(time.monotonic() + self.left * weight / sum(weights[i:]))


@dataclass
class Laps:
    """A callback of a training that times its steps; it raises `Enough` after `most` of them or at the end of time.

    It does not wait for the GPU, for a stage does not either: the codec draws its next latents while the GPU works. The
    laps are right all the same. A step of the classifier ends with reading its loss, and one of the codec waits for the
    step before when its latents are copied.

    Attributes:
        skip: how many steps of each kind come first and do not count. They choose and build kernels.
        most: so many steps of each kind are enough.
        kinds: parts of the progress notes that tell kinds of steps apart. The steps of one must precede the next's.
    """

    time: Slice
    most: int
    skip: int = 2
    kinds: tuple[str, ...] = ("",)
    seconds: dict[str, list[float]] = field(default_factory=dict)
    last: float = field(default_factory=time.perf_counter)

    def __call__(self, done: float, total: float, note: str) -> None:
        """Time the step that has ended."""
        now = time.perf_counter()
        kind = next(k for k in self.kinds if k in note)
        self.seconds.setdefault(kind, []).append(now - self.last)
        self.last = now
        if self.time.left == 0 or len(self.seconds.get(self.kinds[-1], [])) >= self.skip + self.most:
            raise Enough

    def counted(self, kind: str = "") -> list[float]:
        """Return the seconds of the steps of a kind that count.

        Raises:
            LeftOut: if there are too few.
        """
        found = self.seconds.get(kind, [])
        if len(found) < self.skip + LEAST:
            took = f", the last took {found[-1]:.3g} s" if found else ""
            raise LeftOut(f"left out: {len(found)} steps ran in its time{took}; {self.skip + LEAST} are needed")
        return found[self.skip :]


def repeated(
    run: Callable[[], object], device: str, time_left: Slice, most: int = 5, expected: float | None = None
) -> list[float]:
    """Return the seconds of 3 to `most` runs, after one that does not count.

    With `expected`, the seconds of a run as foretold from shorter ones, all runs count.

    Raises:
        LeftOut: if three runs do not fit into the time.
    """
    time_left.check()
    one = seconds_of(run, device) if expected is None else expected
    if one * LEAST > time_left.left:
        raise LeftOut(f"left out: {LEAST} runs of {one:.3g} s do not fit into the {time_left.left:.3g} s that are left")
    found: list[float] = []
    while len(found) < LEAST or (len(found) < most and time_left.left > max(found)):
        found.append(seconds_of(run, device))
    return found


def seconds_of(run: Callable[[], object], device: str) -> float:
    """Return the seconds of one run, with all that it gives to the GPU."""
    synchronise(device)
    started = time.perf_counter()
    run()
    synchronise(device)
    return time.perf_counter() - started


def synchronise(device: str) -> None:
    """Wait until the GPU has done all that it was given. A CPU is never behind."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


def measured(name: str, unit: str, device: str, measure: Callable[[], tuple[Sequence[float], str]]) -> Row:
    """Return the row of what `measure` returns: values and a remark. What it raises becomes the reason in a row."""
    on_gpu = device.startswith("cuda")
    clean(device)
    values: Sequence[float] = ()
    failed = False
    try:
        values, remark = measure()
    except LeftOut as reason:
        remark = str(reason)
    except torch.OutOfMemoryError as error:
        remark = f"does not fit into memory: {one_line(error)}"
    except Exception as error:  # A driver or a kernel may raise anything; the other rows are still worth having.
        # The package says in a BenchError that a model is too large for a card. Anything else needs a look.
        failed = not isinstance(error, BenchError)
        remark = f"{type(error).__name__}: {one_line(error)}"
        if failed:
            traceback.print_exc(file=sys.stderr)
    peak = torch.cuda.max_memory_allocated(device) / 2**20 if on_gpu else None
    clean(device)
    return Row(name, unit, values, peak, remark, failed)


def clean(device: str) -> None:
    """Free the memory of a GPU that is no longer used, and begin a new peak. On a CPU no peak is measured."""
    if not device.startswith("cuda"):
        return
    gc.collect()
    with contextlib.suppress(RuntimeError):  # after some errors a card does nothing more; the next row says so
        torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)


def one_line(error: BaseException) -> str:
    """Return the beginning of an error's message, in one line."""
    return " ".join(str(error).split())[:200]


def refuse_precision(precision: str, device: str) -> None:
    """Raise `LeftOut` if a precision means nothing on a device, or the card lacks it."""
    if not device.startswith("cuda"):
        if precision.endswith("_on_gpu"):
            raise LeftOut("left out: on a CPU it is the same as float32")
        return
    if "bfloat16" in precision and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise LeftOut("left out: this card has no bfloat16")
    if precision.startswith("tf32") and torch.version.hip is None and torch.cuda.get_device_capability(device)[0] < 8:
        raise LeftOut("left out: this card has no TF32")
