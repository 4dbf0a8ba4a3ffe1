"""What all benchmarks share: facts about the machine, medians with spread, the table or JSON, the exit code."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One line of a benchmark's table.

    Attributes:
        name: what was measured.
        unit: unit of all numbers.
        value: the median of the repeats.
        low, high: the smallest and the largest of the repeats.
        n: number of repeats.
        bound: the largest allowed `value`, or None if nothing is promised.
    """

    name: str
    unit: str
    value: float
    low: float
    high: float
    n: int
    bound: float | None = None

    @classmethod
    def of(cls, name: str, unit: str, values: Sequence[float], bound: float | None = None) -> Figure:
        """Return the figure for the values of some repeats."""
        return cls(name, unit, median(values), min(values), max(values), len(values), bound)

    @property
    def kept(self) -> bool:
        """Whether the bound is kept; true if there is none."""
        return self.bound is None or self.value <= self.bound

    def cells(self) -> list[str]:
        """Return the texts of the table's cells."""
        bound = "" if self.bound is None else f"{self.bound:g}"
        verdict = "" if self.bound is None else "kept" if self.kept else "BROKEN"
        spread = f"{self.low:.3g} to {self.high:.3g}" if self.n > 1 else ""
        return [self.name, f"{self.value:.3g} {self.unit}", spread, str(self.n), bound, verdict]


def machine() -> dict[str, Any]:
    """Return cores, CPU model, load, Python and torch of this machine. No figure means anything without them."""
    from importlib.metadata import version

    return {
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "load_1min": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": version("torch"),
    }


def _cpu_model() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with the option `--json`, described by the first line of a module's docstring."""
    made = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    made.add_argument("--json", action="store_true", help="print data as JSON")
    return made


def report(figures: Sequence[Figure], as_json: bool, **facts: object) -> int:
    """Print the figures, the machine and other facts, and return the exit code: 1 if a bound is broken, else 0."""
    around = {"machine": machine(), **facts}
    if as_json:
        rows = [asdict(f) | {"kept": f.kept} for f in figures]
        print(json.dumps(around | {"figures": rows}, indent=1))
    else:
        lines = [["", "median", "least to most", "n", "bound", ""], *(f.cells() for f in figures)]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        for line in lines:
            print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
        for name, value in around.items():
            print(f"{name}: {', '.join(f'{k} {v}' for k, v in value.items()) if isinstance(value, dict) else value}")
    return 0 if all(f.kept for f in figures) else 1


def say(line: str) -> None:
    """Print a message on stderr; stdout is for data."""
    print(line, file=sys.stderr, flush=True)


@contextlib.contextmanager
def folder(given: Path | None, prefix: str) -> Iterator[Path]:
    """Yield the given folder, which is made and kept, or a temporary one, which is removed at the end."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given.resolve()
        return
    with tempfile.TemporaryDirectory(prefix=prefix) as path:
        yield Path(path)


def bench(*arguments: str) -> list[str]:
    """Return the command line of a `bench` verb under this interpreter."""
    return [sys.executable, "-m", "bench.cli", *arguments]


def checked_run(command: list[str]) -> None:
    """Run a command, with one thread in each numerical library.

    Raises:
        SystemExit: with the end of the command's stderr, if it fails.
    """
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr[-2000:]}")
