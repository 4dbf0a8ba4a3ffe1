"""A small matrix that is right, to be made wrong at one place."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

GOOD: dict[str, Any] = {
    "name": "small",
    "datasets": [{"kind": "phantom", "n_images": 80, "image_px": 32, "prevalence_floor": 0.1}],
    "split": {"min_positives": 1},
    "methods": ["baseline"],
    "classifier": {"steps": 1, "architecture": "resnet18"},
}
TEXT = yaml.safe_dump(GOOD, sort_keys=False)


def changed(changes: dict[str, Any], base: dict[str, Any] | None = None) -> str:
    """Return the matrix as YAML with some `a/b/0` → value set, folders of the path made where they are missing."""
    raw = copy.deepcopy(GOOD if base is None else base)
    for path, value in changes.items():
        *above, last = path.split("/")
        at: Any = raw
        for part in above:
            at = at[int(part)] if isinstance(at, list) else at.setdefault(part, {})
        at[int(last) if isinstance(at, list) else last] = value
    return yaml.safe_dump(raw, sort_keys=False, allow_unicode=True)


def write(folder: Path, text: str | bytes, name: str = "m.yaml") -> Path:
    """Write a matrix file and return its path."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path
