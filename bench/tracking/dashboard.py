"""What W&B shows of a matrix or a sweep: for each board a workspace of panels, and one report around the table.

The workspaces and the report are objects of the library wandb-workspaces, which is an extra
(`longtail-bench[dashboard]`). Both show the panels that a board names (`bench.tracking.board`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.tracking.board import MOST_RUNS, Board
from bench.tracking.figures import Figures
from bench.tracking.matrix_board import MatrixBoard
from bench.tracking.study_board import StudyBoard

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import PanelGrid, Report, Runset
    from wandb_workspaces.workspaces import Section, Workspace

_KINDS: dict[str, type[Board]] = {kind.kind: kind for kind in (MatrixBoard, StudyBoard)}


def require_extra() -> None:
    """Refuse to go on without wandb-workspaces.

    Raises:
        ConfigError: if it is not installed. The message says how to install it.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError("wandb-workspaces is not installed; install it with: pip install 'longtail-bench[dashboard]'")


def read_board(values: dict[str, Any]) -> Board:
    """Return the board that `Board.as_dict` wrote."""
    return _KINDS[values["kind"]](**{name: value for name, value in values.items() if name != "kind"})


def sections(board: Board) -> list[Section]:
    """Return the panels of a board in sections, without sections that would be empty."""
    from wandb_workspaces import workspaces as ws

    kept = [(name, panels) for name, panels in board.sections().items() if panels]
    for name, panels in kept:
        for i, panel in enumerate(panels):  # else the library makes random ids, and no save would equal the last
            panel._id = _digest(board.title, name, str(i))[:12]
    return [ws.Section(name=name, panels=panels, is_open=i < 2) for i, (name, panels) in enumerate(kept)]


def workspace(board: Board, entity: str, project: str) -> Workspace:
    """Return the workspace of a board: its runs in groups, with the columns that matter first, and the panels.

    Its name at W&B is the same at every call, so that it can be found again and replaced.
    """
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws

    found = ws.Workspace(
        entity=entity,
        project=project,
        name=board.title,
        sections=sections(board),
        settings=ws.WorkspaceSettings(max_runs=MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=_only(board),
            groupby=[expr.Config(name) for name in board.grouping],
            order=board.order(),
            pinned_columns=board.pinned,
        ),
    )
    found._internal_name = f"nw-{_digest(entity, project, board.title)[:11]}-v"  # W&B's own names have this form
    return found


def report(
    found: Sequence[Board], table: str, entity: str, project: str, figures: Figures | None = None, run: str = ""
) -> Report:
    """Return the report of a matrix or a sweep: the table, the figures, then the panels of each board.

    Args:
        found: its boards, at least one.
        table: the table with its notes as Markdown.
        entity: owner of the project; empty if it is not known, then the panels name no project either.
        project: where the runs are.
        figures: the figures that it shows, or None.
        run: the id of their run, if it is not the usual one.
    """
    from wandb_workspaces.reports import v2 as wr

    blocks: list[Any] = [wr.MarkdownBlock(found[0].introduction), wr.MarkdownBlock(table)]
    if figures is not None:
        blocks += [wr.H1("Figures"), _figures(figures, run or figures.run, entity, project)]
    for board in found:
        blocks.append(wr.H1(board.heading))
        for section in sections(board):
            runs = _runset(board, section.name, entity, project)
            blocks += [wr.H2(section.name), wr.PanelGrid(runsets=[runs], panels=list(section.panels))]
    title = found[0].report_title
    return wr.Report(entity=entity, project=project if entity else "", title=title, blocks=blocks, width="fluid")


def _figures(figures: Figures, run: str, entity: str, project: str) -> PanelGrid:
    """Return a panel for each figure, of the one run that holds them."""
    from wandb_workspaces.reports import v2 as wr

    title = f"figures of {figures.matrix}"
    runs = wr.Runset(entity=entity, project=project if entity else "", name=title, filters=f"Metric('ID') in {[run]}")
    runs._id = _digest(title)[:12]
    panels = [wr.MediaBrowser(title=name, media_keys=[name], num_columns=1) for name in figures.captions]
    for panel in panels:
        panel._id = _digest(title, str(panel.title))[:12]
        panel.layout = wr.Layout(w=24, h=14)
    return wr.PanelGrid(runsets=[runs], panels=list(panels))


def _runset(board: Board, section: str, entity: str, project: str) -> Runset:
    from wandb_workspaces.reports import v2 as wr

    found = wr.Runset(
        entity=entity,
        project=project if entity else "",
        name=board.title,
        filters=_only(board),
        groupby=[f"config.{name}" for name in board.grouping],
    )
    found._id = _digest(board.title, section)[:12]
    return found


def _only(board: Board) -> str:
    """Return the filter that lets through the runs of a board, and no runs of earlier results of the same name."""
    return f"Metric('ID') in {board.runs}"


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def spec_of(shown: Workspace | Report) -> dict[str, Any]:
    """Return what is saved of a workspace or a report, as JSON values."""
    found: dict[str, Any] = json.loads(shown._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return found
