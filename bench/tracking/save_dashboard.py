"""Save a dashboard: find where the runs of a matrix or a sweep were uploaded, and let a child process save it there.

Nothing is computed, and no run is sent. Only what has passed the border (`bench.privacy.border`) is used.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, listed
from bench.matrix.matrix import Matrix
from bench.privacy.border import Payload, check_server, payload
from bench.privacy.names import WITHHELD
from bench.results.cells import CellResult
from bench.results.record import cell_record, read_record, record_folder
from bench.store.store import Store
from bench.tracking.board import Board
from bench.tracking.figures import Figures, remember
from bench.tracking.marker import Destination, run_id, sent_as
from bench.tracking.wandb_child import after, surroundings
from bench.tracking.wandb_dashboard import REFUSED, SAVED

MakeBoards = Callable[[Mapping[str, Payload]], Sequence[Board]]
_WAIT_S = 300.0  # longest wait for W&B


@dataclass(frozen=True)
class Finished:
    """A finished cell, or a trial that has ended.

    Attributes:
        name: its name.
        sent: what W&B gets of it.
        run: the id of its run, unless that id was deleted at W&B.
        uploads: where it was seen, each with the id of its run there.
    """

    name: str
    sent: Payload
    run: str
    uploads: dict[Destination, str]


def finished(
    matrix: Matrix, results: Sequence[CellResult], store: Store, share_with: str | None = None
) -> list[Finished]:
    """Return the finished cells of a matrix.

    Args:
        matrix: the matrix.
        results: its cells, finished or not.
        store: holds the records and the markers of uploads.
        share_with: host of a W&B server that may have everything.

    Raises:
        ConfigError: if that server may not have everything (`bench.privacy.border.check_server`), or if names that are
            withheld from W&B could not be told apart there.
    """
    if share_with is not None:
        check_server(share_with, "online")
    done = [result for result in results if result.state == "done"]
    found = [_finished(matrix, result, store, share_with) for result in done]
    require_own_name(matrix.name, "matrix", found)
    named = [(result.cell, one.sent.config) for result, one in zip(done, found, strict=True)]
    _require_told_apart("data sets", {cell.dataset.label: sent["dataset"] for cell, sent in named})
    _require_told_apart("rows", {cell.label: sent["method_label"] for cell, sent in named})
    return found


def require_own_name(name: str, what: str, found: Sequence[Finished]) -> None:
    """Refuse a name of a matrix or a sweep that W&B does not get.

    Raises:
        ConfigError: if it was withheld, since every such dashboard would replace the last.
    """
    if any(one.sent.group != name for one in found):
        raise ConfigError(
            f"{name}: looks like somebody's id, so W&B gets {WITHHELD!r} in its place, and this dashboard would "
            f"replace that of another such {what}; give the {what} another name"
        )


def _require_told_apart(what: str, names: dict[str, str]) -> None:
    """Refuse names of which several are the same at W&B, where their numbers would become one mean."""
    alike = sorted(name for name, sent in names.items() if sent == WITHHELD)
    if len(alike) > 1:
        raise ConfigError(
            f"{what} {listed(alike, 3)}: look like ids, so W&B gets {WITHHELD!r} for each of them, and panels cannot "
            "tell them apart; give them other names"
        )


def _finished(matrix: Matrix, result: CellResult, store: Store, share_with: str | None) -> Finished:
    cell, folder = result.cell, record_folder(store, result.cell)
    record = read_record(folder)
    if record is None or record["key"] != cell.key:  # another matrix has computed it, and nobody has uploaded it
        record = cell_record(store, matrix, cell, result) | {"git": None, "shared_with": []}
    # Who may see the data is in no key, so a record can be older than what is said of them now.
    record |= {"sharing": cell.sharing}
    return from_record(cell.name, folder, record, store, share_with)


def from_record(name: str, folder: Path, record: dict[str, Any], store: Store, share_with: str | None) -> Finished:
    """Return what W&B gets of a record in its folder, and where it was seen; see `Finished`."""
    uploads = sent_as(folder, record, share_with)
    return Finished(name, payload(record, store.root, share_with, folder), run_id(record, share_with), uploads)


def save(
    found: Sequence[Finished],
    boards: MakeBoards,
    table: str,
    upload: str,
    entity: str | None = None,
    project: str | None = None,
    share_with: str | None = None,
    figures: Figures | None = None,
    root: Path | None = None,
) -> dict[str, Any]:
    """Save workspaces and report where the runs were uploaded; what is there under the same names is replaced.

    Args:
        found: the finished cells of a matrix, or the ended trials of a sweep.
        boards: makes the boards of runs by their ids.
        table: the table with its notes as Markdown. The caller answers for it that it may leave.
        upload: the command that uploads what is missing.
        entity: the owner of the project; if None, the one to which they were uploaded.
        project: the project; likewise.
        share_with: host of a W&B server that may have everything.
        figures: figures that may leave, which the report shows; None if there are none.
        root: the store's folder, where it is written down to where figures go; None if that is not wanted.

    Returns:
        `base_url`, `entity`, `project`, `workspaces` and `report` (each with `name`, `url`, `was`, `spec`), `figures`
        (the id of their run, or None), and `lacking`, the names of those that were not uploaded there.

    Raises:
        ConfigError: if none was uploaded there, if there are several places, or if W&B does not take it.
    """
    places = _places(found, upload, entity, project)
    request = {"places": [_asked(found, boards, place) for place in places], "table": table, "server": share_with}
    if figures and root is not None:  # before they are sent: the process may die, or give up after some are there
        remember(root, figures, places)
    saved = _child(request | {"figures": figures.as_dict() if figures else None})
    here = Destination(saved["base_url"], saved["entity"], saved["project"])
    return saved | {"lacking": [one.name for one in found if here not in one.uploads]}


def _places(found: Sequence[Finished], upload: str, entity: str | None, project: str | None) -> list[Destination]:
    """Return the places to which runs were uploaded; they differ in the server alone."""
    what = _what(found)
    everywhere = list(dict.fromkeys(place for one in found for place in one.uploads))
    fitting = [p for p in everywhere if entity in (None, p.entity) and project in (None, p.project)]
    if not fitting:
        others = sorted({f"{p.entity}/{p.project}" for p in everywhere})
        elsewhere = f" (but to {', '.join(others)})" if others else ""
        asked = f"{entity or '*'}/{project or '*'}" if entity or project else "W&B"
        raise ConfigError(f"no finished {what} was uploaded to {asked}{elsewhere}; first: {upload}")
    names = sorted({f"{p.entity}/{p.project}" for p in fitting})
    if len(names) > 1:
        raise ConfigError(f"the {what}s were uploaded to {', '.join(names)}; choose with --entity and --project")
    return fitting


def _what(found: Sequence[Finished]) -> str:
    return "trial" if any(one.sent.job_type == "trial" for one in found) else "cell"


def _asked(found: Sequence[Finished], boards: MakeBoards, place: Destination) -> dict[str, Any]:
    made = boards({one.uploads[place]: one.sent for one in found if place in one.uploads})
    return asdict(place) | {"boards": [board.as_dict() for board in made]}


def _child(request: dict[str, Any]) -> dict[str, Any]:
    """Let a child process save, and return what it tells."""
    with tempfile.TemporaryDirectory() as root:  # W&B writes files of its own
        around = surroundings()
        around["env"] |= {f"WANDB_{name}": str(Path(root)) for name in ("DIR", "CACHE_DIR", "DATA_DIR", "ARTIFACT_DIR")}
        command = [sys.executable, "-P", "-m", "bench.tracking.wandb_dashboard"]
        try:
            done = subprocess.run(
                command, input=json.dumps(request), capture_output=True, text=True, timeout=_WAIT_S, **around
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ConfigError(f"the dashboard was not saved, or not all of it: {error}; try again") from error
    saved = after(SAVED, done.stdout)
    if not saved:
        told = after(REFUSED, done.stdout) or [f"its process ended with code {done.returncode}"]
        raise ConfigError(f"the dashboard was not saved, or not all of it: {told[-1]}")
    found: dict[str, Any] = json.loads(saved[-1])
    return found
