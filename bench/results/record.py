"""The local record of a cell: its settings, code, seeds and times, and its results.

    <store>/cells/<matrix>/<data set>__<method>__s<seed>/record.json    all of that in one file
                                                         resolved.yaml  the cell as a matrix file, with all defaults

A record is written for every cell that finishes or fails, whatever tracker is chosen. Trackers only copy it.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from bench.errors import StoreError
from bench.files import finite, read_json, write_strict_json, write_text
from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.matrix.resolved import flat_config, resolved
from bench.matrix.rows import control_among
from bench.pipeline.stage import Stage, walk
from bench.results.cells import CellResult
from bench.store.manifest import versions
from bench.store.store import Store

SCHEMA = 1
LIVE_FILE = "live.json"

_LARGEST_STAGE_RECORD = 256 << 10  # bytes; a larger JSON file of a stage is data, not a record

_GIT_TIMEOUT_S = 10


def record_folder(store: Store, cell: Cell) -> Path:
    """Return the folder for the record of a cell, whether or not it exists."""
    return store.root / "cells" / cell.matrix / cell.name.replace("/", "__")


def write_record(
    store: Store,
    matrix: Matrix,
    cell: Cell,
    result: CellResult,
    git: dict[str, Any] | None,
    share_with: str | None = None,
) -> Path:
    """Write a cell's record and its resolved settings, each by one rename, and return their folder.

    Args:
        store: the store, which holds the cell's results.
        matrix: the cell's matrix.
        cell: the cell.
        result: what `read_cell` returns for it.
        git: commit of the checkout and whether it was changed, see `git_state`.
        share_with: host of a server that the user allows to have credentialed data. It is added to the servers in the
            record; servers are never removed.

    Raises:
        OSError: if the record cannot be written.
        StoreError: if the store's results of the cell cannot be read.
    """
    # A record of the same results keeps its git state, which names the code that made them. A later run that only finds
    # them finished would put its own commit there. Who may see the images is in no key, so it can change while the
    # results stay. Then the record is written again, since trackers trust it.
    folder = record_folder(store, cell)
    there = read_record(folder)
    allowed = allowed_servers(there, share_with)
    if there and all(there.get(k) == v for k, v in _identity(cell, result).items()):
        git = there.get("git")
        same_terms = there.get("sharing") == cell.sharing
    else:
        there, same_terms = None, False
    if there and same_terms:
        if allowed != there.get("shared_with", []):
            write_strict_json(folder / "record.json", there | {"shared_with": allowed})
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    raw = resolved(matrix.settings, [*_controls(matrix, cell), cell]) | {"study": None}  # one cell is no study
    text = yaml.safe_dump(raw, sort_keys=False, allow_unicode=True, width=110)
    write_text(folder / "resolved.yaml", text)
    record = cell_record(store, matrix, cell, result) | {"git": git, "shared_with": allowed}
    write_strict_json(folder / "record.json", record)
    return folder


def write_live_record(
    store: Store, matrix: Matrix, cell: Cell, git: dict[str, Any] | None, share_with: str | None = None
) -> Path:
    """Write what a tracker shows of a cell while its classifier is trained, as `live.json`; return the folder.

    It is a record without results, and `live` says where the training writes its history.

    Raises:
        OSError: if it cannot be written.
    """
    folder = record_folder(store, cell)
    record = cell_record(store, matrix, cell, CellResult(cell, "running"))
    live = {"stage": cell.classifier.stage_name(), "key": cell.classifier.key}
    more = {"git": git, "shared_with": allowed_servers(read_record(folder), share_with), "live": live}
    write_strict_json(folder / LIVE_FILE, record | more)
    return folder


def read_record(folder: Path) -> dict[str, Any] | None:
    """Return the record in a folder, or None if there is none that can be read."""
    return read_json(folder / "record.json")


def allowed_servers(there: dict[str, Any] | None, server: str | None) -> list[str]:
    """Return the servers that the user has allowed to have credentialed data, with `server` added."""
    before = list((there or {}).get("shared_with", []))
    return before if server is None or server in before else [*before, server]


def _controls(matrix: Matrix, cell: Cell) -> list[Cell]:
    """Return the control's cell, if this cell uses its classifier as teacher or extractor; else an empty list."""
    trained = [s for s in walk(list(cell.targets)) if type(s) is type(cell.classifier) and s.key != cell.classifier.key]
    same = [c for c in matrix.cells if c.dataset == cell.dataset and c.seed == cell.seed]
    control = control_among([c.row for c in same], matrix.settings.classifier)
    return [c for c in same if trained and c.row is control]


def _identity(cell: Cell, result: CellResult) -> dict[str, Any]:
    error = (result.failure or {}).get("at")
    return {"schema": SCHEMA, "key": cell.key, "state": result.state, "failed_at": error}


def cell_record(store: Store, matrix: Matrix, cell: Cell, result: CellResult) -> dict[str, Any]:
    """Return everything that is known about a cell as JSON values; NaN and missing values are null."""
    stages = walk(list(cell.targets))
    record = _identity(cell, result) | {
        "matrix": matrix.name,
        "cell": cell.name,
        "dataset": cell.dataset.label,
        "sharing": cell.sharing,
        "method": cell.label,
        "seeds": {
            "cell": cell.seed,
            "split": cell.split.settings.seed,
            "method": cell.augmented.seed,
            "classifier": cell.classifier.seed,
        },
        "config": flat_config(matrix.settings, cell),
        "stages": {stage.key: _timing(store, stage) for stage in stages},
        "seconds": round(sum(store.manifest(s)["seconds"] for s in stages if store.has(s)), 3),
        "versions": store.manifest(cell.classifier)["versions"] if store.has(cell.classifier) else versions(),
        "skip": result.skip,
        "failure": result.failure,
        "scores": result.scores,
        "fidelity": result.fidelity,
        "diagnostics": result.diagnostics,
        "classifier": result.classifier,
        "history": result.history,
        "stage_records": {k: v for s in walk([cell.augmented]) for k, v in stage_records(store, s)},
        "shared_trainings": {stage.stage_name(): name for name, stage in shared_trainings(store, cell).items()},
        "synthetic": str(store.folder(cell.augmented).relative_to(store.root)),
    }
    return finite(record)


def shared_trainings(store: Store, cell: Cell) -> dict[str, Stage]:
    """Return the finished stages of a cell that learnt something for more than this cell, by names of their own.

    They are those behind its synthetic images that recorded a curve, i.e. a list of mappings. A classifier is none of
    them: it belongs to a cell. `bench.results.stage_record` writes their records.
    """
    stages = (s for s in walk([cell.augmented]) if type(s) is not type(cell.classifier))
    learnt = (s for s in stages if any(_has_curve(content) for _, content in stage_records(store, s)))
    return {f"{s.stage_name()}-{s.key[:8]}": s for s in learnt}


def _has_curve(content: Any) -> bool:
    parts = content.values() if isinstance(content, dict) else ()
    return any(isinstance(rows, list) and rows and all(isinstance(row, dict) for row in rows) for rows in parts)


def _timing(store: Store, stage: Stage) -> dict[str, Any]:
    """Return seconds, device, host and bytes of a stage. A shared stage was computed once for many cells."""
    if not store.has(stage):
        return {"stage": stage.stage_name(), "state": store.state(stage)}
    manifest = store.manifest(stage)
    facts = {name: manifest[name] for name in ("seconds", "finished", "device", "host", "bytes")}
    return {"stage": stage.stage_name(), "state": "done"} | facts


def stage_records(store: Store, stage: Stage) -> Iterator[tuple[str, Any]]:
    """Yield (`<stage>/<file>`, content) of the small JSON files in the folder of a finished stage."""
    if not store.has(stage):
        return
    for path in sorted(store.folder(stage).glob("*.json")):
        if path.name != "manifest.json" and path.stat().st_size <= _LARGEST_STAGE_RECORD:
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                again = "if damaged, delete it to compute it anew"
                raise StoreError(f"{path.parent} cannot be read ({path.name}: {error}); {again}") from error
            yield f"{stage.stage_name()}/{path.stem}", content


def git_state(folder: Path | None = None) -> dict[str, Any] | None:
    """Return `{commit, dirty}` of the checkout that the harness runs from, or None if it is installed."""
    folder = folder or Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():  # an installed package may lie inside somebody else's checkout
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(folder), "--no-optional-locks", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_TIMEOUT_S, check=True)
        return done.stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None
