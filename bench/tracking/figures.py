"""The figures of a matrix's report as one W&B run, which goes on whenever the dashboard is saved again."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, listed
from bench.files import read_json, write_json
from bench.matrix.matrix import Matrix
from bench.privacy.border import is_open
from bench.privacy.payload import Payload
from bench.tracking.marker import MOST_IDS, Destination, ids
from bench.tracking.wandb_run import DeletedError, begin_run, end_badly
from bench.tracking.wandb_server import WAITS_S, missing_files

_KIND = "figures"


@dataclass(frozen=True)
class Figures:
    """Figures that may be shown where the runs are.

    Attributes:
        matrix: the name of the matrix.
        captions: name of a figure → its title and caption.
        files: name of a figure → its PNG file.
        all_open: whether they are of open data alone; otherwise the user allowed one server to have them.
        datasets: the data sets that were open when they were drawn.
    """

    matrix: str
    captions: dict[str, str]
    files: dict[str, str]
    all_open: bool
    datasets: Sequence[str] = ()

    @property
    def run(self) -> str:
        """The id of their run, unless that id was deleted at W&B: the same for every matrix of this name."""
        own = [] if self.all_open else ["full"]  # a run with all pictures never goes on where only the open ones may be
        return hashlib.sha256(json.dumps([_KIND, self.matrix, *own]).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values; `Figures(**values)` reads them."""
        return asdict(self)


def open_datasets(matrix: Matrix) -> list[str]:
    """Return the data sets of a matrix of which everything may be shown to anybody."""
    closed = {cell.dataset.label for cell in matrix.cells if not is_open(cell.sharing)}
    return sorted({cell.dataset.label for cell in matrix.cells} - closed)


def remember(root: Path, figures: Figures, places: Sequence[Destination]) -> None:
    """Write into the store which open data are in figures that are about to be sent, and where to."""
    if not figures.all_open:  # they go to the one server that may have everything
        return
    noted, there = _note(root, figures.matrix), read_json(_note(root, figures.matrix)) or {}
    told = [f"{place.base_url} {place.entity}/{place.project}" for place in places]
    write_json(
        noted,
        {
            "datasets": sorted({*there.get("datasets", ()), *figures.datasets}),
            "places": list(dict.fromkeys([*there.get("places", ()), *told])),
        },
    )


def shown_no_longer(root: Path, matrix: Matrix) -> str | None:
    """Return a warning of figures that W&B was given of data that are not open any more, or None if there are none."""
    there = read_json(_note(root, matrix.name)) or {}
    now = {cell.dataset.label for cell in matrix.cells} - set(open_datasets(matrix))
    closed = sorted(now & set(there.get("datasets", ())))
    if not closed:
        return None
    return (
        f"warning: W&B was given figures of {listed(closed, 3)} while these data were said to be open; delete the runs "
        f"'figures of {matrix.name}' in {listed(there['places'], 3)}, call `bench dashboard {matrix.name}` to replace "
        f"the report, and then remove {_note(root, matrix.name)}"
    )


def _note(root: Path, matrix: str) -> Path:
    return root / "cells" / matrix / "wandb-figures.json"


def send_figures(figures: Figures, to: Destination, root: Path) -> str:
    """Log all figures as one more step of their run, and return the run's id there.

    Args:
        figures: what is logged.
        to: where the run belongs.
        root: a folder for W&B's own files.

    Raises:
        ConfigError: if the server has not got all of them in the end.
        Exception: whatever W&B raises.
    """
    sent = Payload(
        name=f"figures of {figures.matrix}",
        group=figures.matrix,
        job_type=_KIND,
        config={"matrix": figures.matrix},
        summary={},
    )
    pinned = {"run_notes": "", "base_url": to.base_url}  # which W&B may not read from files
    for name in ids(figures.run):
        try:
            run = begin_run(sent, name, root, "online", to, pinned, goes_on=True)
        except DeletedError:
            continue
        try:
            paths = _log(run, figures)
            run.finish()
        except BaseException:
            end_badly(run)
            raise
        _require_there(f"{to.entity}/{to.project}/{name}", paths)
        return name
    raise ConfigError(f"{MOST_IDS} runs with figures of {figures.matrix} were deleted there")


def _log(run: Any, figures: Figures) -> list[str]:
    """Log all figures in one row, and return the names of their files at W&B."""
    import wandb

    row = {name: wandb.Image(figures.files[name], caption=caption) for name, caption in figures.captions.items()}
    run.log(row)
    return [str(image.to_json(run)["path"]) for image in row.values()]


def _require_there(run: str, paths: list[str]) -> None:
    import wandb

    for wait_s in WAITS_S:
        time.sleep(wait_s)
        lacking = missing_files(wandb.Api().run(run), paths)
        if not lacking:
            return
    raise ConfigError(f"W&B has not got {len(lacking)} of {len(paths)} figures, e.g. {lacking[0]}; try again")
