"""What `bench dashboard` does with a matrix: collect its finished cells and its table, and save or print them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.cli.options import Request
from bench.cli.session import say
from bench.errors import ConfigError, listed
from bench.matrix.matrix import Matrix
from bench.results.cells import read_matrix
from bench.store.store import Store
from bench.tracking.dashboard import report, require_extra, spec_of, workspace
from bench.tracking.save_dashboard import finished, preview, save
from reports.report import table_text

if TYPE_CHECKING:
    from bench.tracking.save_dashboard import Finished


def dry_run(request: Request, matrix: Matrix, store: Store, share_with: str | None) -> dict[str, Any]:
    """Return what would be saved, as JSON values. Nobody is contacted, so no project is named in it."""
    cells, table = _collected(request, matrix, store, share_with)
    boards = preview(cells)
    spaces, made = [workspace(board, "", "") for board in boards], report(boards, table, "", "")
    return {
        "workspaces": [{"name": space.name, "spec": spec_of(space)} for space in spaces],
        "report": {"name": made.title, "spec": spec_of(made)},
    }


def save_and_tell(
    request: Request, matrix: Matrix, store: Store, entity: str | None, project: str | None, share_with: str | None
) -> dict[str, Any]:
    """Save the dashboard, warn of finished cells that it lacks, and return what `save` returns."""
    cells, table = _collected(request, matrix, store, share_with)
    upload = request.upload_command("online", share_with)
    saved = save(cells, table, upload, entity, project, share_with)
    if saved["lacking"]:
        say(
            f"warning: the panels lack {len(saved['lacking'])} of {len(cells)} finished cells "
            f"({listed(saved['lacking'], 3)}), which were not uploaded there; `{upload}` sends them"
        )
    return saved


def _collected(request: Request, matrix: Matrix, store: Store, share_with: str | None) -> tuple[list[Finished], str]:
    """Return the finished cells and the table as Markdown, both as they may leave.

    Raises:
        ConfigError: if the library for dashboards is not installed, or if no cell is finished.
    """
    require_extra()
    results = read_matrix(matrix, store)
    cells = finished(matrix, results, store, share_with)
    if not cells:
        command = request.command("run")
        raise ConfigError(f"no cell of {matrix.name} is finished, so there is nothing to show; first: {command}")
    return cells, table_text(matrix, results, store, share=share_with is None)
