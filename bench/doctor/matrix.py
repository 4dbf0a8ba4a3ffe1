"""Check what a matrix needs on this machine: data, weights, and the precision of its computations."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.checks import Check, guarded
from bench.data.census import odd_rows
from bench.data.dataset import Dataset
from bench.diffusion.model import DiffusionModel
from bench.doctor.machine import best_device
from bench.errors import DataError
from bench.matrix.inputs import Planned, looks
from bench.run.machine_file import Machine
from bench.store.store import Store

_SHOWN = 3  # rows that are named


def examine_matrix(planned: Planned, machine: Machine) -> Iterator[Check]:
    """Yield the checks of a matrix; their names begin with its name."""
    for check in (*planned.inputs, *guarded("precision", _precisions(planned, machine))):
        yield replace(check, what=f"{planned.matrix.name}, {check.what}")


def examine_tables(planned: Planned, store: Store) -> Iterator[Check]:
    """Yield the checks of the finished tables of a matrix: whether the pictures changed, and which are odd."""
    for dataset in {c.dataset.key: c.dataset for c in planned.matrix.cells if store.has(c.dataset)}.values():
        try:
            said = dataset.changed_source(store.folder(dataset))
        except DataError as error:
            said = str(error)
        what, folder = f"{planned.matrix.name}, {dataset.label}, table", store.folder(dataset)
        odd = "; ".join(_odd(dataset, folder))
        yield Check(what, said is None, said or odd or f"computed, {folder}", warns=bool(odd))


def _odd(dataset: Dataset, folder: Path) -> Iterator[str]:
    """Yield what is odd about the pictures of a finished table, with the first of them by file and row."""
    for what, rows in odd_rows(folder).items():
        shown = ", ".join(dataset.name_of(row, folder) for row in rows[:_SHOWN].tolist())
        more = f" and {len(rows) - _SHOWN:,} more" if len(rows) > _SHOWN else ""
        yield f"{len(rows):,} {what}: {shown}{more}"


def _precisions(planned: Planned, machine: Machine) -> Iterator[Check]:
    if machine.executor == "slurm":  # jobs run on other machines
        return
    device = best_device(machine)
    asked: dict[str, set[str]] = {
        "diffusion": {x.model.precision for x in looks(planned.matrix) if isinstance(x.model, DiffusionModel)},
        "classifier": {c.classifier.settings.precision for c in planned.matrix.cells},
    }
    faults = {
        field: fault for field, all_ in asked.items() for one in sorted(all_) if (fault := precision_fault(one, device))
    }
    for field, fault in faults.items():
        yield Check(f"{field}.precision", False, fault)
    if not faults:
        told = (f"{field} {', '.join(sorted(precisions))}" for field, precisions in asked.items() if precisions)
        yield Check("precision", True, f"{'; '.join(told)}; on {device}")


def precision_fault(precision: str, device: str) -> str | None:
    """Return why a precision is a bad choice on a device, or None."""
    import torch

    if precision == "float16" and device == "cpu":
        return "float16 on a CPU is some twenty times slower than float32; set it to float32, or use a GPU"
    half = precision.startswith("bfloat16") and device.startswith("cuda")
    if half and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU only emulates bfloat16, which is slow; choose another precision"
    return None
