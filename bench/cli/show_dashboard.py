"""What `bench dashboard` does with a matrix or a sweep: collect what has ended and its table, save or print them."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.cli.options import Request
from bench.cli.session import load, say
from bench.errors import ConfigError, listed
from bench.results.cells import read_matrix
from bench.store.store import Store
from bench.tracking.dashboard import report, require_extra, spec_of, workspace
from bench.tracking.figures import Figures, open_datasets, shown_no_longer
from bench.tracking.matrix_board import matrix_boards
from bench.tracking.save_dashboard import finished, from_record, require_own_name, save
from bench.tracking.study_board import study_boards
from reports.report import shown_figures, table_text

if TYPE_CHECKING:
    from bench.tracking.save_dashboard import Finished, MakeBoards


@dataclass(frozen=True)
class _Collected:
    """What ended, how its boards are made, the table as Markdown, and figures; all as it may leave."""

    found: Sequence[Finished]
    boards: MakeBoards
    table: str
    figures: Figures | None = None


def dry_run(request: Request, store: Store, share_with: str | None) -> dict[str, Any]:
    """Return what would be saved, as JSON values. Nobody is contacted, so no project is named in it."""
    with tempfile.TemporaryDirectory() as folder:
        what = _collected(request, store, share_with, Path(folder))
        boards = what.boards({one.run: one.sent for one in what.found})
        spaces, made = [workspace(board, "", "") for board in boards], report(boards, what.table, "", "", what.figures)
        return {
            "workspaces": [{"name": space.name, "spec": spec_of(space)} for space in spaces],
            "report": {"name": made.title, "spec": spec_of(made)},
            "figures": what.figures.captions if what.figures else {},
        }


def save_and_tell(
    request: Request, store: Store, entity: str | None, project: str | None, share_with: str | None
) -> dict[str, Any]:
    """Save the dashboard, warn of what it lacks, and return what `save` returns."""
    upload = request.upload_command("online", share_with)
    with tempfile.TemporaryDirectory() as folder:
        what = _collected(request, store, share_with, Path(folder))
        saved = save(what.found, what.boards, what.table, upload, entity, project, share_with, what.figures, store.root)
    if saved["lacking"]:
        ended = "trials that have ended" if what.boards is study_boards else "finished cells"
        say(
            f"warning: the panels lack {len(saved['lacking'])} of {len(what.found)} {ended} "
            f"({listed(saved['lacking'], 3)}), which were not uploaded there; `{upload}` sends them"
        )
    return saved


def _collected(request: Request, store: Store, share_with: str | None, folder: Path) -> _Collected:
    """Return what `bench dashboard` shows; figures are drawn into `folder`.

    Raises:
        ConfigError: if the library for dashboards is not installed, or if nothing has ended.
    """
    from sweeps.settings import is_sweep

    require_extra()
    if is_sweep(request.matrix):
        return _trials(request, store, share_with)
    return _cells(request, store, share_with, folder)


def _cells(request: Request, store: Store, share_with: str | None, folder: Path) -> _Collected:
    matrix = load(request.matrix, request.sets)
    results = read_matrix(matrix, store)
    cells = finished(matrix, results, store, share_with)
    if not cells:
        command = request.command("run")
        raise ConfigError(f"no cell of {matrix.name} is finished, so there is nothing to show; first: {command}")
    share = share_with is None
    drawn = shown_figures(matrix, results, store, folder, share)
    found = {drawing.name: f"{drawing.title}. {drawing.caption}" for drawing, _ in drawn}
    files = {drawing.name: str(png) for drawing, png in drawn}
    figures = Figures(matrix.name, found, files, share, open_datasets(matrix)) if drawn else None
    if told := shown_no_longer(store.root, matrix):
        say(told)
    return _Collected(cells, matrix_boards, table_text(matrix, results, store, share), figures)


def _trials(request: Request, store: Store, share_with: str | None) -> _Collected:
    from bench.cli.show_sweep import confirmed_so_far, tables_of
    from bench.privacy.border import check_server
    from sweeps.records import TrialTracker
    from sweeps.references import found_so_far
    from sweeps.settings import load_sweep

    if share_with is not None:
        check_server(share_with, "online")
    sets = tuple(request.sets or ())
    sweep, result = load_sweep(request.matrix, sets), found_so_far(request.matrix, store, sets)
    records = TrialTracker(sweep, store, say, share_with=share_with).records(result)
    found = [from_record(name, folder, record, store, share_with) for name, folder, record in records]
    if not found:
        command = request.command("sweep")
        raise ConfigError(f"no trial of {sweep.name} has ended, so there is nothing to show; first: {command}")
    require_own_name(sweep.name, "sweep", found)
    is_open = all(record["sharing"] == "open" for _, _, record in records)
    table = tables_of(
        result, sweep, confirmed_so_far(result, sweep, store), all_words=is_open or share_with is not None
    )
    return _Collected(found, study_boards, table)
