"""The record of a training that several cells share, such as that of a codec: its settings, its curves, its time.

    <store>/cells/<matrix>/stages/<stage>-<first digits of its key>/record.json

A tracker shows such a training as a run of its own, once, however many cells use it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.files import finite, write_strict_json
from bench.matrix.cell import Cell
from bench.pipeline.stage import Stage
from bench.results.record import SCHEMA, allowed_servers, read_record, stage_records
from bench.store.store import Store

_NOT_SETTINGS = ("class", "version", "code")  # of what identifies a stage


def write_stage_record(
    store: Store, cell: Cell, name: str, stage: Stage, git: dict[str, Any] | None, share_with: str | None = None
) -> tuple[Path, dict[str, Any]]:
    """Write the record of a shared training, and return its folder and the record.

    Args:
        store: holds the stage's results.
        cell: a cell that uses it.
        name: the name of its run, see `bench.results.record.shared_trainings`.
        stage: the training.
        git: commit of the checkout, see `bench.results.record.git_state`.
        share_with: host of a server that the user allows to have credentialed data.

    Raises:
        OSError: if the record cannot be written.
        StoreError: if the stage's results cannot be read.
    """
    folder = store.root / "cells" / cell.matrix / "stages" / name
    there, manifest = read_record(folder), store.manifest(stage)
    record = {
        "schema": SCHEMA,
        "kind": "stage",
        "matrix": cell.matrix,
        "cell": name,
        "key": stage.key,
        "stage": stage.stage_name(),
        "dataset": cell.dataset.label,
        "sharing": cell.sharing,
        "seed": manifest["identity"].get("seed"),
        "config": {k: _setting(v) for k, v in manifest["identity"].items() if k not in _NOT_SETTINGS},
        "seconds": manifest["seconds"],
        "versions": manifest["versions"],
        "git": there["git"] if there else git,
        "shared_with": allowed_servers(there, share_with),
        "stage_records": dict(stage_records(store, stage)),
    }
    record = finite(record)
    if record != there:
        folder.mkdir(parents=True, exist_ok=True)
        write_strict_json(folder / "record.json", record)
    return folder, record


def _setting(value: Any) -> Any:
    """Return a part of what identifies a stage; of another stage, its key."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"stage", "key"}:
        return value["key"]
    return {k: _setting(v) for k, v in value.items() if k not in _NOT_SETTINGS}
