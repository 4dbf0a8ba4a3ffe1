"""What a run would take, told before a night is spent: what is missing, what would be computed, hours and disk.

Nothing is computed or written, no folder made. Operations of networks are counted; hours come from finished stages of
the same kind (`bench.rates`), and where no GPU was ever measured from a stated assumption that is never called more.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.augment import Augmented
from bench.cost import LARGEST, Cost, NoEstimate, Sizes
from bench.diffusion import DiffusionModel
from bench.errors import BenchError, in_words, listed
from bench.execute.base import Workload
from bench.inputs import Planned
from bench.machine import Machine
from bench.matrix import Matrix
from bench.progress import Silent, span
from bench.rates import DEFAULT_TFLOPS, Device, Estimate, Rates, all_shipped, of_store
from bench.stage import Stage, walk
from bench.store import Execution, Store

DEVICES: tuple[Device, Device] = ("gpu", "cpu")
_SUMMED = ("compute", "reused", "stopped", "not_estimated", "tflop", "bytes")


@dataclass
class Line:
    """Stages of one kind: of `augmented`, of one row of the table.

    Attributes:
        name: the kind.
        pending: how many would be computed; reused: how many are finished.
        stopped: how many failed before, or wait for such a one, and are not tried again by themselves.
        known: those of the pending whose cost is known; cost: of these together.
        seconds: on each device, of these together; bases: what each estimate stands on.
        why: reasons for which a cost is not known.
    """

    name: str
    pending: int = 0
    reused: int = 0
    stopped: int = 0
    known: int = 0
    cost: Cost = field(default_factory=Cost)
    seconds: dict[Device, float] = field(default_factory=lambda: dict.fromkeys(DEVICES, 0.0))
    bases: dict[Device, list[Estimate]] = field(default_factory=lambda: {d: [] for d in DEVICES})
    why: set[str] = field(default_factory=set)

    def add(self, cost: Cost, estimates: dict[Device, Estimate]) -> None:
        """Count a stage that would be computed."""
        self.known += 1
        sums = {name: getattr(self.cost, name) + getattr(cost, name) for name in ("flop", "host", "images", "bytes")}
        self.cost = Cost(**{name: min(total, LARGEST) for name, total in sums.items()})
        for device, estimate in estimates.items():
            self.seconds[device] += estimate.seconds
            self.bases[device].append(estimate)

    def as_dict(self) -> dict[str, Any]:
        """Return the line as JSON has it; times and bytes are of the stages whose cost is known."""
        return {
            "stage": self.name,
            "compute": self.pending,
            "reused": self.reused,
            "stopped": self.stopped,
            "not_estimated": self.pending - self.known,
            "why_not": sorted(self.why),
            "tflop": self.cost.flop / 1e12,
            "host_gop": self.cost.host / 1e9,
            "pictures": int(self.cost.images),
            "bytes": int(self.cost.bytes),
            **{f"{d}_seconds": self.seconds[d] for d in DEVICES},
            **{f"{d}_basis": _basis(self.bases[d]) for d in DEVICES},
        }


def _basis(estimates: list[Estimate]) -> dict[str, Any] | None:
    """Return what most of a line's time stands on: the estimate that is the longest."""
    if not estimates:
        return None
    most = max(estimates, key=lambda e: e.seconds)
    if most.sample is None:
        return {"measured": False}
    sample = most.sample
    names = ("stage", "n", "seconds", "low", "high", "name", "threads", "origin")
    return {"measured": True, "what": sample.cost.what, "times": most.times} | {n: getattr(sample, n) for n in names}


def at_once(machine: Machine) -> dict[Device, int]:
    """Return how many computations a machine has at once: on its GPUs (one, where there is none here), on its cores."""
    from bench.execute.processes import count_gpus

    if machine.executor == "slurm":
        return dict.fromkeys(DEVICES, machine.jobs or machine.slurm.cap)
    return {"gpu": machine.jobs or count_gpus() or 1, "cpu": machine.jobs or len(os.sched_getaffinity(0))}


def estimate(
    planned: Planned,
    store: Store,
    jobs: dict[Device, int],
    tflops: float = DEFAULT_TFLOPS,
    retry_failed: bool = False,
) -> dict[str, Any]:
    """Return what running a matrix would take, as data.

    Args:
        planned: the matrix, with what is missing of its inputs.
        store: what is finished in it is reused, and tells how fast its machine is.
        jobs: computations at once, of each device.
        tflops: that a GPU sustains, where none was measured.
        retry_failed: whether stages that failed before are tried again.
    """
    matrix = planned.matrix
    targets: list[Stage] = [s for c in matrix.cells for s in c.targets]
    everything, sizes = walk(targets), Sizes(store)
    work = Workload.of(targets, store, Execution(), Silent())
    rates = Rates((*of_store(store, _folders(everything)), *all_shipped()), tflops)
    stopped = {} if retry_failed else _stopped(work)
    lines, seconds = _lines(everything, work, sizes, rates, stopped)
    total = {d: sum(line.seconds[d] for line in lines) for d in DEVICES}
    rows = [line.as_dict() for line in lines]
    free, more = _free(store.root), sum(r["bytes"] for r in rows)
    return {
        "matrix": matrix.name,
        "cells": len(matrix.cells),
        "ready": not planned.missing and not stopped and (free is None or more <= free),
        "inputs": len(planned.inputs),
        "missing": [{"what": c.what, "said": c.said} for c in planned.missing],
        "stages": rows,
        "total": {
            **{name: sum(r[name] for r in rows) for name in _SUMMED},
            **{f"{d}_seconds": total[d] for d in DEVICES},
            **{f"{d}_wall_seconds": _wall(work, seconds[d], jobs[d]) for d in DEVICES},
        },
        "jobs": jobs,
        "gpu": {"name": rates.device_name("gpu"), "assumed_tflops": tflops},
        "cpu": {"name": rates.device_name("cpu")},
        "failed": sorted({why for why in stopped.values() if why}),
        "documented": sizes.documented,
        "disk_free_bytes": free,
        "pilot": pilot(matrix),
    }


def _folders(stages: Iterable[Stage]) -> Iterator[Path]:
    """Yield the folders of the diffusion models that stages use, as far as they are there."""
    seen: set[str] = set()
    for model in (getattr(stage, "diffusion", None) for stage in stages):
        if isinstance(model, DiffusionModel) and model.folder not in seen:
            seen.add(model.folder)
            with contextlib.suppress(BenchError):
                yield model.path


def _lines(
    stages: list[Stage], work: Workload, sizes: Sizes, rates: Rates, stopped: Mapping[str, str]
) -> tuple[list[Line], dict[Device, dict[str, float]]]:
    """Return the lines in the order of the work, and the seconds of each pending stage on each device."""
    lines: dict[str, Line] = {}
    seconds: dict[Device, dict[str, float]] = {d: {} for d in DEVICES}
    for stage in stages:
        name = _kind(stage)
        line = lines.setdefault(name, Line(name))
        if stage.key not in work.stages:
            line.reused += work.store.has(stage)
            continue
        if stage.key in stopped:
            line.stopped += 1
            continue
        line.pending += 1
        try:
            cost = stage.cost(sizes)
        except (NoEstimate, BenchError) as error:
            line.why.add(str(error))
            continue
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # a method's own code: its estimate must not cost the others theirs
            line.why.add(in_words(error))
            continue
        if cost is None:
            line.why.add("it does not say what it takes")
            continue
        found = {d: rates.estimate(stage.stage_name(), cost, d) for d in DEVICES}
        line.add(cost, found)
        for device, told in found.items():
            seconds[device][stage.key] = told.seconds
    return list(lines.values()), seconds


def _stopped(work: Workload) -> dict[str, str]:
    """Return the keys of stages that a run would not try: why of those that failed before, '' of those behind them."""
    found: dict[str, str] = {}
    for key, stage in work.stages.items():  # inputs come before what needs them
        failure = work.store.failure(stage)
        if failure and failure.get("sticky", True):
            found[key] = " ".join(f"{stage.stage_name()} {key[:8]}: {failure.get('error')}".split())
        elif work.waits_for[key] & found.keys():
            found[key] = ""
    return found


def _kind(stage: Stage) -> str:
    return f"{stage.stage_name()} {stage.method.label}" if isinstance(stage, Augmented) else stage.stage_name()


def _wall(work: Workload, seconds: dict[str, float], jobs: int) -> float:
    """Return the least time that so many computations at once can take: the longest chain, or an even share."""
    until: dict[str, float] = {}
    for key in work.stages:  # inputs come before what needs them
        until[key] = seconds.get(key, 0.0) + max((until[k] for k in work.waits_for[key]), default=0.0)
    return max([*until.values(), sum(seconds.values()) / jobs], default=0.0)


def _free(root: Path) -> int | None:
    """Return the free bytes of the disk that the store is or would be on."""
    for place in (root, *root.parents):
        if place.exists():
            return shutil.disk_usage(place).free
    return None


def pilot(matrix: Matrix) -> list[str]:
    """Return the `--set` of a small run, whose stages then count as measured."""
    datasets = {c.dataset.label: c.dataset for c in matrix.cells}.values()
    small = ((i, item) for i, dataset in enumerate(datasets) for item in dataset.small().items())
    sets = [f"datasets.{i}.{name}={'null' if value is None else value}" for i, (name, value) in small]
    steps = matrix.settings.classifier.steps
    length = f"steps={min(20, steps)}" if steps else "epochs=1"
    per_class = min(8, matrix.settings.augment.per_class)
    seed = matrix.settings.seeds[0]
    rest = ["split.min_positives=1", f"augment.per_class={per_class}", f"classifier.{length}", f"seeds=[{seed}]"]
    return sets + rest


def print_estimate(told: dict[str, Any], matrix: str, console: Console) -> None:
    """Print what `estimate` returns, for a person."""

    def say(text: str = "", style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(f"{told['matrix']}: {told['cells']} cells; nothing is computed or written")
    for missing in told["missing"]:
        say(f"MISSING {missing['what']}: {missing['said']}", "red")
    if not told["missing"] and told["inputs"]:
        say(f"data and weights: {told['inputs']} looked at, nothing missing")
    for label, said in told["documented"].items():
        say(f"data set {label}: {said}")
    assumed = any(_is_assumed(r, "gpu") for r in told["stages"])
    console.print(_table(told))
    total, free = told["total"], told["disk_free_bytes"]
    for device, name in (("gpu", "GPU"), ("cpu", "CPU alone")):
        wall = hours(total[f"{device}_wall_seconds"])
        say(f"{name}: {hours(total[f'{device}_seconds'])} in all; {told['jobs'][device]} at once: {wall} or more")
    say(f"disk: {size(total['bytes'])} more" + (f", {size(free)} free" if free is not None else ""))
    for line, style in _left_out(told):
        say(line, style)
    say()
    for line in _stands_on(told):
        say(line)
    if assumed:
        given = f"On a GPU {told['gpu']['assumed_tflops']:g} TFLOP/s sustained is an ASSUMPTION (--tflops)"
        say(f"~ nothing like it was measured. {given}, not a measurement;", "yellow")
        say("  small networks and small batches reach far less. In these rows the rest is told at assumed speeds too.")
        sets = " ".join(f"--set {_quoted(s)}" for s in told["pilot"])
        say(f"  To measure, run a pilot with your own --set, then this again: bench run {matrix} {sets}")


def _left_out(told: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what stands in the way, or is not in the figures, and its style."""
    total, free = told["total"], told["disk_free_bytes"]
    if free is not None and total["bytes"] > free:
        yield "the disk is too small: choose another with --store", "red"
    if n := total["stopped"]:
        yield f"{n} stage{'s'[: n != 1]} failed before, or wait for such a one: left out unless --retry-failed", "red"
        yield from ((f"  {why}", "red") for why in told["failed"])
    if n := total["not_estimated"]:
        reasons = listed(sorted({w for r in told["stages"] for w in r["why_not"]}), 3)
        yield f"not in these figures: {n} stage{'s'[: n != 1]} ({reasons})", "yellow"


def _quoted(text: str) -> str:
    return f"'{text}'" if "[" in text else text


def _is_assumed(row: dict[str, Any], device: Device) -> bool:
    basis = row[f"{device}_basis"]
    return bool(basis) and not basis["measured"]


def _table(told: dict[str, Any]) -> Table:
    table = Table("stage", box=None)
    for name in ("to compute", "reused", "TFLOP", "pictures", "GPU", "CPU alone", "disk"):
        table.add_column(name, justify="right")
    for row in told["stages"]:
        unknown = row["compute"] and row["not_estimated"] == row["compute"]
        times = ["?" if unknown else _time(row, d) for d in DEVICES]
        work = "?" if unknown else f"{row['tflop']:,.1f}" if row["tflop"] >= 0.05 else ""
        pictures = f"{row['pictures']:,}" if row["pictures"] else ""
        disk = "?" if unknown else size(row["bytes"]) if row["compute"] else ""
        table.add_row(row["stage"], str(row["compute"]), str(row["reused"]), work, pictures, *times, disk)
    total = told["total"]
    times = [hours(total[f"{d}_seconds"]) for d in DEVICES]
    counts = str(total["compute"]), str(total["reused"])
    table.add_row("total", *counts, f"{total['tflop']:,.1f}", "", *times, size(total["bytes"]), style="bold")
    return table


def _time(row: dict[str, Any], device: Device) -> str:
    if not row["compute"]:
        return ""
    return ("~" if _is_assumed(row, device) else "") + hours(row[f"{device}_seconds"])


def _stands_on(told: dict[str, Any]) -> Iterator[str]:
    """Yield what the times stand on: for each device and origin the kinds of stages, how many, how much larger.

    Kinds that take less than a hundredth of the time are left out.
    """
    groups: dict[tuple[str, str, int], list[str]] = {}
    for device, row in itertools.product(DEVICES, told["stages"]):
        basis = row[f"{device}_basis"]
        if basis and basis["measured"] and row[f"{device}_seconds"] >= 0.01 * told["total"][f"{device}_seconds"]:
            place = basis["origin"], basis["name"] or "a machine not named", basis["threads"]
            times = basis["times"]
            ratio = f" ×{times:,.0f}" if times >= 1.5 else "" if times > 0.67 else f" ×{times:.2g}"
            groups.setdefault(place, []).append(f"{row['stage']} n={basis['n']}{ratio}")
    for (origin, name, threads), texts in groups.items():
        whose = "finished stages of this store" if origin == "this store" else "measurements that came with the package"
        yield f"told from {whose}, {name}, {threads} thread{'s'[: threads != 1]}: {', '.join(dict.fromkeys(texts))}"
    if groups:
        yield "n: stages measured; ×: how many times their work one here is; beyond a hundred that is a guess"


def hours(seconds: float) -> str:
    """Return a length of time for a table: `41 s`, `3 min`, `2.4 h`, `1,210 h`."""
    if seconds < 600:
        return span(seconds)
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def size(n_bytes: float) -> str:
    """Return bytes as `3 MiB` or `92.1 GiB`."""
    if n_bytes < 2**30:
        return f"{n_bytes / 2**20:.1f} MiB" if n_bytes < 10 * 2**20 else f"{n_bytes / 2**20:.0f} MiB"
    return f"{n_bytes / 2**30:,.1f} GiB"
