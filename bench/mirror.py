"""The child process that mirrors local records to Weights & Biases: `python -m bench.mirror MODE ROOT FOLDER...`.

One run a cell: its id stands for the cell and its key, its group is the matrix, its job type the method. A marker
beside the record says what was mirrored, so that a cell is not sent twice.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.files import write_text
from bench.record import flatten, read_record

if TYPE_CHECKING:
    from bench.types import UInt8

FAILED = "mirror failed: "  # what the parent looks for in the log
PROJECT = "longtail-bench"  # WANDB_PROJECT overrides it
_MARKER = "wandb.json"
_INIT_TIMEOUT_S, _FINISH_TIMEOUT_S = 30, 60
_GRID_COLUMNS, _GRID_ROWS = 8, 10


@dataclass(frozen=True)
class Payload:
    """What leaves the machine for one cell.

    Attributes:
        config: settings, `a.b.c` → value.
        summary: final numbers, `a/b` → value.
        curves: name → rows of numbers, each logged against its own step `<name>/step`.
        tags: words to filter by.
        grid: `uint8 [H, W]` samples, one row of them a class; None where there are none or they must stay here.
    """

    config: dict[str, Any]
    summary: dict[str, Any]
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    grid: UInt8 | None = None


def shareable(record: dict[str, Any], root: Path) -> Payload:
    """Return what may leave the machine for a cell: the one border that everything to W&B passes.

    Of a data set that is not `open`: settings, final aggregates and the training's curves, and of these no text that
    could be a path; no image, no per-image record, no message of an error or a skip.
    """
    is_open = record["sharing"] == "open"
    facts = {name: record[name] for name in ("key", "seeds", "versions", "git", "seconds")}
    config = record["config"] | dict(flatten({"run": facts}))
    results = {name: record.get(name) for name in ("scores", "fidelity", "diagnostics")}
    results["selected"] = record["classifier"]
    flat = {k: v for part in results for k, v in _named(part, results[part])}
    curves = {"classifier": _rows(record["history"])}
    if is_open:
        for name, content in record["stage_records"].items():
            curves |= {f"{name}/{key}": _rows(v) for key, v in (content.items() if isinstance(content, dict) else ())}
    else:
        config = {k: v for k, v in config.items() if not _may_be_a_path(v)}
        flat = {k: v for k, v in flat.items() if _is_number(v)}
    return Payload(
        config=config,
        summary=flat,
        curves={name: rows for name, rows in curves.items() if rows},
        tags=(record["dataset"], record["method"], *(("skipped",) if record["skip"] else ())),
        grid=sample_grid(root / record["synthetic"]) if is_open else None,
    )


def _named(part: str, results: dict[str, Any] | None) -> Iterator[tuple[str, Any]]:
    """Yield the scalars of a result; those of scores and fidelity keep the short names of the table."""
    for name, value in flatten(results or {}, separator="/"):
        if _is_number(value) or isinstance(value, str):
            yield (f"{part}/{name}" if part in ("selected", "diagnostics") else name), value


def _rows(value: Any) -> list[dict[str, float]]:
    """Return a list of mappings reduced to its numbers, or nothing if it is not such a list."""
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        return []
    return [{k: float(v) for k, v in flatten(row, separator="/") if _is_number(v)} for row in value]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _may_be_a_path(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(_may_be_a_path(v) for v in value)
    return isinstance(value, str) and ("/" in value or "\\" in value or value.startswith("~"))


def sample_grid(folder: Path) -> UInt8 | None:
    """Return the first synthetic images of every target class, a row a class, as one `uint8 [H, W]` image."""
    import numpy as np

    try:
        images = np.load(folder / "images.npy", mmap_mode="r")
        targets = np.load(folder / "target_class.npy")
    except OSError:
        return None
    px = images.shape[-1]
    rows = []
    for target in list(dict.fromkeys(targets.tolist()))[:_GRID_ROWS]:
        shown = images[np.flatnonzero(targets == target)[:_GRID_COLUMNS]]
        row = np.zeros((px, _GRID_COLUMNS * px), np.uint8)
        row[:, : len(shown) * px] = shown.transpose(1, 0, 2).reshape(px, -1)
        rows.append(row)
    return np.concatenate(rows) if rows else None


def run_id(record: dict[str, Any]) -> str:
    """Return the id of a cell's run: the same for the same cell with the same key, another when its results differ."""
    text = json.dumps([record["matrix"], record["cell"], record["key"]])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_mirrored(folder: Path, record: dict[str, Any], mode: str) -> bool:
    """Tell whether this result is at W&B already; one that was sent online needs no offline copy."""
    try:
        marker = json.loads((folder / _MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return marker.get("run_id") == run_id(record) and marker.get("mode") in (mode, "online")


def mirror(folder: Path, root: Path, mode: str) -> None:
    """Send one cell and leave the marker; nothing to do if it was sent before."""
    import wandb

    record = read_record(folder)
    if record is None or is_mirrored(folder, record, mode):
        return
    payload = shareable(record, root)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run_id(record),
        name=record["cell"],
        group=record["matrix"],
        job_type=record["method"],
        config=payload.config,
        tags=[tag[:64] for tag in payload.tags],
        mode=mode,  # type: ignore[arg-type]
        dir=root,
        settings=_settings(wandb),
    )
    for name, rows in payload.curves.items():
        run.define_metric(f"{name}/*", step_metric=f"{name}/step")
        for i, row in enumerate(rows):
            run.log({f"{name}/{k}": v for k, v in ({"step": float(i)} | row).items()})
    if payload.grid is not None:
        run.log({"samples": wandb.Image(payload.grid, caption="one row a target class")})
    run.summary.update(payload.summary)
    run.finish()
    write_text(folder / _MARKER, json.dumps({"mode": mode, "key": record["key"], "run_id": run_id(record)}))


def _settings(wandb: Any) -> Any:
    """Return settings under which W&B sends what it is given and nothing that it would collect by itself."""
    return wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host="-",  # else the name of this machine
        init_timeout=_INIT_TIMEOUT_S,
        login_timeout=_INIT_TIMEOUT_S,
        finish_timeout=_FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
    )


def main(arguments: Sequence[str]) -> int:
    """Mirror the records in some folders; stop at the first that fails, since the others would fail the same way."""
    mode, root, folders = arguments[0], Path(arguments[1]), [Path(a) for a in arguments[2:]]
    os.nice(10)  # the benchmark's processes come first
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ.setdefault(name, str(root / "wandb" / "cache"))
    try:
        for folder in folders:
            mirror(folder, root, mode)
    except ImportError as error:
        print(f"{FAILED}{error.name or error} is not installed", flush=True)
        return 1
    except Exception as error:  # W&B may fail in any way; the parent says so in one line and goes on
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"{FAILED}{type(error).__name__}: {first}"[:300], flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
