"""What leaves the machine for one run at a tracker. `bench.privacy.border` alone builds it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from bench.privacy.media import Medium, Picture, Table, as_json
from bench.tables import UInt8

# The numbers that methods are compared by. A tracker draws charts of what is logged over time, and not of final numbers
# alone, so these are logged once too.
_HEADLINES = (
    "fid_tail",
    "fid_tail_floor",
    "kid_tail",
    "kid_tail_floor",
    "label_fidelity_tail",
    "map_all",
    "map_head",
    "map_medium",
    "map_tail",
    "stage_seconds",
    "val_map_all",
    "val_map_head",
    "val_map_tail",
)

LIVE = "live"  # instead of a digest: the run shows a training, and the rest is sent when its cell is finished


@dataclass(frozen=True)
class Payload:
    """Everything that leaves the machine for one cell or trial.

    Attributes:
        name, group, job_type: the names of the cell, its matrix and its row; or of the trial, its study and `trial`.
        config: plain columns to sort by (`method`, `method_label`, `denoise_steps`, `dataset`, `seed`, `matrix`; of a
            trial its parameters), all settings as nested mappings (`settings`), facts about the run (`run`), and the
            classes by their short names.
        summary: the final numbers, from `a_b` to value; classes have their short names.
        curves: for each name, rows of numbers, which are logged against their own step `<name>/step`.
        tags: words to filter cells by.
        media: pictures and tables by their names: `samples`, one row of synthetic images per class; `per_class`, with
            the names, the counts and the scores of each class; and what was picked beside the record.
    """

    name: str
    group: str
    job_type: str
    config: dict[str, Any]
    summary: dict[str, Any]
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    media: dict[str, Medium] = field(default_factory=dict)

    @property
    def headlines(self) -> dict[str, Any]:
        """The final numbers that methods are compared by, as far as the cell has them."""
        return {name: self.summary[name] for name in _HEADLINES if name in self.summary}

    def rows(self) -> list[dict[str, Any]]:
        """Return the history rows that a tracker gets, in their order; media stand as None under their names."""
        found: list[dict[str, Any]] = []
        for name, rows in self.curves.items():
            numbered = ({"step": float(i)} | row for i, row in enumerate(rows))
            found += [{f"{name}/{k}": v for k, v in row.items()} for row in numbered]
        found += [{name: None} for name in self.media]
        return found + ([self.headlines] if self.headlines else [])

    def of_training(self) -> Payload:
        """Return a copy for a run that shows a training: its curve alone, and `LIVE` in place of the digest."""
        curves = {name: rows for name, rows in self.curves.items() if name == "classifier"}
        config = self.config | {"run": self.config["run"] | {"payload": LIVE}}
        return dataclasses.replace(self, config=config, summary={}, curves=curves, media={})

    def with_digest(self) -> Payload:
        """Return a copy whose configuration holds a digest of everything that is sent, as `run.payload`.

        What a server has is the same if the digest there is the same.
        """
        told = dataclasses.asdict(dataclasses.replace(self, media={}))
        del told["media"]
        digest = hashlib.sha256(json.dumps(told | _told(self.media), sort_keys=True).encode()).hexdigest()[:32]
        run = self.config["run"] | {"payload": digest}
        return dataclasses.replace(self, config=self.config | {"run": run})


def _told(media: dict[str, Medium]) -> dict[str, Any]:
    """Return everything that media hold as JSON values, with digests in place of most pictures."""
    # `samples` and `per_class` stand as they did when there was nothing else, so that what was sent then has the digest
    # that it had, and is not sent again.
    rest = dict(media)
    samples, classes = rest.pop("samples", None), rest.pop("per_class", None)
    told: dict[str, Any] = {"grid": samples.pixels.tobytes().hex() if isinstance(samples, Picture) else None}
    table = classes if isinstance(classes, Table) else Table((), [])
    told["per_class"] = [dict(zip(table.columns, row, strict=True)) for row in table.rows]
    if rest:
        pictures: list[UInt8] = []
        told["media"] = {name: as_json(medium, pictures) for name, medium in rest.items()}
        told["pictures"] = [[*p.shape, hashlib.sha256(p.tobytes()).hexdigest()] for p in pictures]
    return told
