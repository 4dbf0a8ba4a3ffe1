"""What a run would compute and what it would take: stages, hours and disk, told before a night is spent.

Nothing is computed or written, and no folder is made.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.data.dataset import Dataset
from bench.data.describe import held_out_pairs
from bench.errors import DataError
from bench.estimate.measured import Measured, Prediction
from bench.matrix.inputs import Planned
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage, walk
from bench.run.machine_file import Machine
from bench.run.processes import gpus_of
from bench.run.progress import Silent
from bench.run.workload import Workload
from bench.store.store import Store
from bench.store.work import Execution


@dataclass
class Line:
    """The stages of one kind, e.g. `codec`, or `augmented ours@5`.

    Attributes:
        kind: as `Stage.measured_as` names it.
        compute: how many would be computed.
        reused: how many are finished.
        stopped: how many failed before, or need a stage that did, and are not tried again by themselves.
        seconds, n_bytes: sums over the stages that could be predicted.
        predictions: one for each of those.
    """

    kind: str
    compute: int = 0
    reused: int = 0
    stopped: int = 0
    seconds: float = 0.0
    n_bytes: float = 0.0
    predictions: list[Prediction] = field(default_factory=list)

    @property
    def unknown(self) -> int:
        """How many of those to compute could not be predicted."""
        return self.compute - len(self.predictions)

    def add(self, prediction: Prediction | None) -> None:
        """Count a stage that would be computed."""
        self.compute += 1
        if prediction is not None:
            self.predictions.append(prediction)
            self.seconds += prediction.seconds
            self.n_bytes += prediction.n_bytes

    def as_dict(self) -> dict[str, Any]:
        """Return the line as JSON has it; the sums are null where nothing is known."""
        known = bool(self.predictions) or not self.compute
        longest = max(self.predictions, key=lambda p: p.seconds, default=None)
        return {
            "stage": self.kind,
            "compute": self.compute,
            "reused": self.reused,
            "stopped": self.stopped,
            "unknown": self.unknown,
            "seconds": self.seconds if known else None,
            "bytes": round(self.n_bytes) if known else None,
            "n_measured": longest.n if longest else 0,
            "ratio": longest.ratio if longest else None,
        }


def computations_at_once(machine: Machine) -> int:
    """Return how many computations a machine runs beside each other: its GPUs, else its cores; SLURM's cap there."""
    if machine.executor == "slurm":
        return machine.jobs or machine.slurm.cap
    return machine.jobs or len(gpus_of(machine.device)) or len(os.sched_getaffinity(0))


def estimate(
    planned: Planned, store: Store, measured: Measured, jobs: int, retry_failed: bool = False
) -> dict[str, Any]:
    """Return what running a matrix would take, as data.

    Args:
        planned: the matrix, with what is missing of its inputs.
        store: what is finished in it is reused.
        measured: what earlier computations took.
        jobs: computations at once.
        retry_failed: whether stages that failed before are tried again.
    """
    matrix = planned.matrix
    targets: list[Stage] = [s for c in matrix.cells for s in c.targets]
    work = Workload.plan(targets, store, Execution(), Silent())
    stopped = {} if retry_failed else _stopped(work)
    lines, seconds = _lines(walk(targets), work, measured, stopped)
    rows = [line.as_dict() for line in lines]
    free, more = _free(store.root), sum(line.n_bytes for line in lines)
    return {
        "matrix": matrix.name,
        "cells": len(matrix.cells),
        "ready": not planned.missing and not stopped and (free is None or more <= free),
        "inputs": len(planned.inputs),
        "missing": [{"what": c.what, "said": c.said} for c in planned.missing],
        "held_out_pairs": _held_out(matrix, store),
        "stages": rows,
        "total": {
            **{name: sum(r[name] for r in rows) for name in ("compute", "reused", "stopped", "unknown")},
            "seconds": sum(line.seconds for line in lines),
            "wall_seconds": _wall(work, seconds, jobs),
            "bytes": round(more),
        },
        "jobs": jobs,
        "device": measured.device,
        "failed": sorted({why for why in stopped.values() if why}),
        "disk_free_bytes": free,
    }


def _held_out(matrix: Matrix, store: Store) -> dict[str, dict[str, Any] | None]:
    """Return data set → how many images held-out pairs put into test; None before its labels are known."""
    if not matrix.settings.split.held_out_pairs:
        return {}

    def found(dataset: Dataset) -> dict[str, Any] | None:
        try:
            known = store.open(dataset) if store.has(dataset) else dataset.known_labels()
            return None if known is None else held_out_pairs(known, matrix.settings.split)
        except DataError:  # it is among what is missing
            return None

    return {label: found(dataset) for label, dataset in {c.dataset.label: c.dataset for c in matrix.cells}.items()}


def _lines(
    stages: list[Stage], work: Workload, measured: Measured, stopped: Mapping[str, str]
) -> tuple[list[Line], dict[str, float]]:
    """Return the lines in the order of the work, and the seconds of each stage that could be predicted, by key."""
    lines: dict[str, Line] = {}
    seconds: dict[str, float] = {}
    for stage in stages:
        kind = stage.measured_as()
        line = lines.setdefault(kind, Line(kind))
        if stage.key not in work.stages:
            line.reused += work.store.has(stage)
        elif stage.key in stopped:
            line.stopped += 1
        else:
            prediction = measured.predict(stage)
            line.add(prediction)
            if prediction is not None:
                seconds[stage.key] = prediction.seconds
    return list(lines.values()), seconds


def _stopped(work: Workload) -> dict[str, str]:
    """Return the keys of stages that a run would not try: why those failed before, '' for those that need them."""
    found: dict[str, str] = {}
    for key, stage in work.stages.items():  # inputs come before what needs them
        failure = work.store.failure(stage)
        if failure and failure.get("sticky", True):
            found[key] = " ".join(f"{stage.stage_name()} {key[:8]}: {failure.get('error')}".split())
        elif work.waits_for[key] & found.keys():
            found[key] = ""
    return found


def _wall(work: Workload, seconds: Mapping[str, float], jobs: int) -> float:
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
