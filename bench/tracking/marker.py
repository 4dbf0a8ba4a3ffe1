"""Remember what W&B was given: a file beside each cell's record.

The file `wandb.json` keeps a finished matrix from being sent again at every run. It holds the run's id, which changes
with the cell's key, so that new results are sent; where they were sent to, since another server, entity or project has
not got them; and whether the data were open then, so that a later change can be noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.files import read_json, write_text
from bench.privacy.border import is_open

_MARKER = "wandb.json"
MOST_IDS = 20  # of one record


@dataclass(frozen=True)
class Destination:
    """Where runs are sent to.

    Attributes:
        base_url: address of the server, without a slash at its end.
        entity: the team or user that owns the runs; empty if nobody named one and the server could not be asked.
        project: name of the project.
    """

    base_url: str
    entity: str
    project: str

    def is_place_of(self, upload: dict[str, Any]) -> bool:
        """Tell whether an upload in a marker went here."""
        same = (upload.get("base_url"), upload.get("project")) == (self.base_url, self.project)
        return same and (not self.entity or upload.get("entity") == self.entity)


def run_id(record: dict[str, Any], server: str | None = None) -> str:
    """Return the id of a cell's W&B run, 16 hex digits: the same for the same cell and key, else another."""
    # A run of credentialed data is reduced, unless it goes to the one server that may have everything. These kinds get
    # different ids, or a run that was sent in full could be continued on a server that may only have the reduced one.
    own = [] if is_open(record.get("sharing", "")) else ["reduced" if server is None else server]
    text = json.dumps([record["matrix"], record["cell"], record["key"], *own])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def ids(first: str) -> Iterator[str]:
    """Yield the ids that a run may have, in their order: W&B never takes the id of a deleted run again."""
    yield first
    yield from (f"{first}-{n}" for n in range(2, MOST_IDS + 1))


def lock_of(folder: Path, root: Path) -> str:
    """Return the name of the claim of whoever writes the run of the record in a folder."""
    name = hashlib.sha256(os.path.relpath(folder, root).encode()).hexdigest()[:16]
    return f"wandb-{name}"


def _marker(folder: Path, record: dict[str, Any], server: str | None) -> dict[str, Any]:
    """Return the marker of the same results, or an empty mapping."""
    marker = read_json(folder / _MARKER) or {}
    return marker if marker.get("run_id") == run_id(record, server) else {}


def has_offline_copy(folder: Path, record: dict[str, Any], server: str | None = None) -> bool:
    """Tell whether this result needs no offline copy, since there is one or it was sent online."""
    return _marker(folder, record, server).get("mode") in ("offline", "online")


def was_sent(folder: Path, record: dict[str, Any], to: Destination, server: str | None = None) -> bool:
    """Tell whether this result was seen at a destination.

    Markers of earlier versions name no destination, and nobody had looked whether the results arrived. They count as
    not sent. A run that an earlier version had sent stays as it is, and the cell gets one beside it.
    """
    return any(to.is_place_of(upload) for upload in _marker(folder, record, server).get("uploads", ()))


def sent_as(folder: Path, record: dict[str, Any], server: str | None = None) -> dict[Destination, str]:
    """Return the destinations at which this result was seen, each with the id of its run there."""
    uploads = _marker(folder, record, server).get("uploads", ())
    return {Destination(u["base_url"], u["entity"], u["project"]): u["run_id"] for u in uploads}


def was_open(folder: Path, record: dict[str, Any]) -> bool:
    """Tell whether W&B got everything about a cell when its data were open, although they are credentialed now."""
    marker = read_json(folder / _MARKER) or {}
    return is_open(str(marker.get("sharing", ""))) and not is_open(record.get("sharing", ""))


def write_marker(
    folder: Path, record: dict[str, Any], server: str | None, to: Destination | None = None, sent_as: str = ""
) -> None:
    """Remember that a result was copied offline (`to` is None), or was seen at a destination as the run `sent_as`."""
    before = _marker(folder, record, server)
    uploads = list(before.get("uploads", ()))
    if to is not None:
        uploads = [u for u in uploads if not to.is_place_of(u)] + [asdict(to) | {"run_id": sent_as}]
    marker = {
        "mode": "online" if uploads else "offline",
        "key": record["key"],
        "run_id": run_id(record, server),
        "server": server,
        "sharing": record.get("sharing", ""),
        "uploads": uploads,
    }
    write_text(folder / _MARKER, json.dumps(marker))
