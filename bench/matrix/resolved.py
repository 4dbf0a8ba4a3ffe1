"""Write the settings of cells back, as a matrix file or as one flat mapping."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from bench.files import flatten
from bench.matrix.cell import Cell
from bench.matrix.settings import MatrixSettings
from bench.pipeline.key import content_of
from bench.pipeline.settings import is_semantic


def resolved(settings: MatrixSettings, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return a matrix file with every default written out, which builds the same cells again."""
    methods: dict[str, dict[str, Any]] = {}
    rows: list[str | dict[str, Any]] = []
    for row in {c.label: c.row for c in cells}.values():
        exclude = {row.method.at} if row.method.at else None  # the `@value` of the row gives it
        full = row.method.model_dump(mode="json", exclude=exclude)
        given: dict[str, Any] = {"method": row.method.label}
        if methods.setdefault(row.method.name, full) != full:
            given["settings"] = full
        if row.label != row.method.label:
            given["row"] = row.label
        if row.classifier != settings.classifier:
            given["classifier"] = row.classifier.model_dump(mode="json")
        if against := [label for label in row.against if label in {c.label for c in cells}]:
            given["against"] = against
        rows.append(given if len(given) > 1 else row.method.label)
    datasets = [{"kind": c.dataset.kind} | c.dataset.model_dump(mode="json") for c in cells]
    return settings.model_dump(mode="json") | {
        "datasets": [d for i, d in enumerate(datasets) if d not in datasets[:i]],
        "methods": rows,
        "settings": methods,
        "seeds": sorted({c.seed for c in cells}),
    }


def flat_config(settings: MatrixSettings, cell: Cell) -> dict[str, Any]:
    """Return a cell's settings as `a.b.c` → value. Paths are replaced by the digest of what the files contain."""
    tree = {
        "dataset": {"kind": cell.dataset.kind, **_semantic(cell.dataset)},
        "method": {"name": cell.method.name, "label": cell.label, **_semantic(cell.method)},
        "seed": cell.seed,
        "split": _semantic(settings.split),
        "diffusion": _semantic(settings.diffusion),
        "augment": _semantic(settings.augment),
        "classifier": _semantic(cell.classifier.settings),
        "fidelity": _semantic(settings.fidelity),
    }
    return dict(flatten(tree | ({"n_medium": settings.n_medium} if settings.n_medium else {})))


def _semantic(value: object) -> Any:
    if isinstance(value, BaseModel):
        fields = type(value).model_fields
        told = {name: _semantic(getattr(value, name)) for name, info in fields.items() if is_semantic(info)}
        return content_of(value) | told
    if isinstance(value, dict):
        return {str(k): _semantic(v) for k, v in value.items()}
    return [_semantic(v) for v in value] if isinstance(value, (list, tuple)) else value
