"""What W&B shows of a matrix: for each data set a workspace of panels, and one report around the table.

Everything is made of what was sent (`bench.privacy.border.Payload`), so no panel names anything that no run has. The
workspaces and the report are objects of the library wandb-workspaces, which is an extra (`longtail-bench[dashboard]`).

One function, `sections`, says which panels there are. Workspaces and the report both show them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.privacy.border import Payload
from bench.privacy.metric_names import is_number

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2 import Report, Runset
    from wandb_workspaces.workspaces import Section, Workspace

# The columns of the paper's table come first, then what stands beside them.
_HEADLINES = {
    "fid_tail": "FID of the tail (less is better)",
    "kid_tail": "KID of the tail (less is better)",
    "fid_tail_floor": "FID floor: real against real images",
    "map_head": "mAP of the head (more is better)",
    "map_tail": "mAP of the tail (more is better)",
    "map_all": "mAP over all classes (more is better)",
    "label_fidelity_tail": "Label fidelity of the tail (more is better)",
    "stage_seconds": "Seconds of computation",
}
_TABLE = ("fid_tail", "kid_tail", "fid_tail_floor", "map_head", "map_tail")  # as in `bench table`
_AGAINST_STEPS = {
    "fid_tail": "FID of the tail against denoising steps d",
    "map_tail": "mAP of the tail against denoising steps d",
}
_CURVES = {
    "val_map_tail": "mAP of the tail on val",
    "val_map_head": "mAP of the head on val",
    "val_map_all": "mAP over all classes on val",
    "val_loss": "Loss on val",
    "train_loss": "Loss on train",
}
_MOST_RUNS, _MOST_BARS = 1000, 100
_ROW, _STEPS, _CLASSIFIER = "method_label", "denoise_steps", "classifier"
_INTRODUCTION = (
    "Written by `bench dashboard {matrix}`, which replaces this report when it is called again. The table is that of "
    "`bench table {matrix} --notes` when the report was saved. The panels below it show the runs of these same results."
)


@dataclass(frozen=True)
class Board:
    """What the runs of one data set of a matrix have at W&B.

    Attributes:
        matrix, dataset: their names, as they were sent.
        runs: ids of the runs.
        numbers: names of final numbers that at least one run has.
        columns: names of plain columns of the configuration in which at least one run has a value.
        n_steps: how many different numbers of denoising steps there are.
        curves: names of curves, e.g. `classifier/val_map_tail`.
        media: names of pictures and tables.
        classes: short name of a class → its name.
    """

    matrix: str
    dataset: str
    runs: list[str]
    numbers: list[str]
    columns: list[str]
    n_steps: int
    curves: list[str]
    media: list[str]
    classes: dict[str, str]

    @property
    def title(self) -> str:
        """The name of its workspace."""
        return f"{self.matrix} on {self.dataset}"


def boards(sent: Mapping[str, Payload]) -> list[Board]:
    """Return one board for each data set.

    Args:
        sent: id of a run → what it holds. All are of one matrix.
    """
    found: dict[tuple[str, str], dict[str, Payload]] = {}
    for run, one in sent.items():
        found.setdefault((one.config["matrix"], one.config["dataset"]), {})[run] = one
    return [_board(matrix, dataset, runs) for (matrix, dataset), runs in found.items()]


def _board(matrix: str, dataset: str, runs: dict[str, Payload]) -> Board:
    sent = list(runs.values())
    return Board(
        matrix=matrix,
        dataset=dataset,
        runs=sorted(runs),
        numbers=sorted({name for one in sent for name, value in one.summary.items() if is_number(value)}),
        columns=sorted({n for one in sent for n, v in one.config.items() if v is not None and not isinstance(v, dict)}),
        n_steps=len({one.config[_STEPS] for one in sent} - {None}),
        curves=sorted({f"{n}/{key}" for one in sent for n, rows in one.curves.items() for row in rows for key in row}),
        media=sorted({name for one in sent for name in one.media}),
        classes={short: name for one in sent for short, name in one.config["classes"].items()},
    )


def require_extra() -> None:
    """Refuse to go on without wandb-workspaces.

    Raises:
        ConfigError: if it is not installed. The message says how to install it.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ConfigError("wandb-workspaces is not installed; install it with: pip install 'longtail-bench[dashboard]'")


def sections(board: Board) -> list[Section]:
    """Return the panels of a board in sections, without sections that would be empty."""
    from wandb_workspaces import workspaces as ws

    of_class = {f"ap_{short}": f"AP of {name}" for short, name in board.classes.items()}
    found = {
        "Means over seeds, with one standard deviation": [_bars(n, t) for n, t in _of(board.numbers, _HEADLINES)],
        "Against the number of denoising steps d": _against_steps(board),
        "Average precision by class": [_bars(n, t) for n, t in _of(board.numbers, of_class)],
        "Curves of the classifier, means and ranges over seeds": _curves(board),
        "Pictures and tables of classes": _media(board),
    }
    kept = [(name, panels) for name, panels in found.items() if panels]
    for name, panels in kept:
        for i, panel in enumerate(panels):  # else the library makes random ids, and no save would equal the last
            panel._id = _digest(board.title, name, str(i))[:12]
    return [ws.Section(name=name, panels=panels, is_open=i < 2) for i, (name, panels) in enumerate(kept)]


def _of(names: Sequence[str], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(name, title) for name, title in titles.items() if name in names]


def _bars(name: str, title: str) -> Any:
    """Return the panel of one number: for each row the mean over its runs, and one standard deviation."""
    from wandb_workspaces.reports import v2 as wr

    return wr.BarPlot(
        title=title,
        metrics=[wr.Metric(name)],
        groupby=wr.Config(_ROW),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_runs_to_show=_MOST_RUNS,
        max_bars_to_show=_MOST_BARS,
    )


def _against_steps(board: Board) -> list[Any]:
    from wandb_workspaces.reports import v2 as wr

    if board.n_steps < 2:
        return []
    return [
        wr.ScatterPlot(title=title, x=wr.Config(_STEPS), y=wr.SummaryMetric(name))
        for name, title in _of(board.numbers, _AGAINST_STEPS)
    ]


def _curves(board: Board) -> list[Any]:
    from wandb_workspaces.reports import v2 as wr

    return [
        wr.LinePlot(
            title=title,
            x=wr.Metric(f"{_CLASSIFIER}/step"),
            y=[wr.Metric(name)],
            groupby=wr.Config(_ROW),
            groupby_aggfunc="mean",
            groupby_rangefunc="minmax",
            max_runs_to_show=_MOST_RUNS,
        )
        for name, title in _of(board.curves, {f"{_CLASSIFIER}/{name}": title for name, title in _CURVES.items()})
    ]


def _media(board: Board) -> list[Any]:
    from wandb_workspaces.reports import v2 as wr

    found: list[Any] = []
    if "samples" in board.media:
        found.append(wr.MediaBrowser(title="Synthetic images, one row a class", media_keys=["samples"], num_columns=2))
    if "per_class" in board.media:
        found.append(wr.WeavePanelSummaryTable(table_name="per_class"))
    return found


def workspace(board: Board, entity: str, project: str) -> Workspace:
    """Return the workspace of a board: its runs by row, with the columns of the paper's table, and the panels.

    Its name at W&B is the same at every call, so that it can be found again and replaced.
    """
    from wandb_workspaces import expr
    from wandb_workspaces import workspaces as ws

    columns = [f"config:{name}.value" for name in (_ROW, "seed") if name in board.columns]
    order = [expr.Ordering(expr.Summary("map_tail"), ascending=False)] if "map_tail" in board.numbers else []
    found = ws.Workspace(
        entity=entity,
        project=project,
        name=board.title,
        sections=sections(board),
        settings=ws.WorkspaceSettings(max_runs=_MOST_RUNS),
        runset_settings=ws.RunsetSettings(
            filters=_only(board),
            groupby=[expr.Config(_ROW)],
            order=order,
            pinned_columns=[*columns, *(f"summary:{name}" for name in _TABLE if name in board.numbers)],
        ),
    )
    found._internal_name = f"nw-{_digest(entity, project, board.title)[:11]}-v"  # W&B's own names have this form
    return found


def report(found: Sequence[Board], table: str, entity: str, project: str) -> Report:
    """Return the report of a matrix: the table, then the panels of each data set.

    Args:
        found: the boards of the matrix, at least one.
        table: the table with its notes as Markdown.
        entity: owner of the project; empty if it is not known, then the panels name no project either.
        project: where the runs are.
    """
    from wandb_workspaces.reports import v2 as wr

    matrix = found[0].matrix
    blocks: list[Any] = [wr.MarkdownBlock(_INTRODUCTION.format(matrix=matrix)), wr.MarkdownBlock(table)]
    for board in found:
        blocks.append(wr.H1(f"Panels: {board.dataset}"))
        for section in sections(board):
            runs = _runset(board, section.name, entity, project)
            blocks += [wr.H2(section.name), wr.PanelGrid(runsets=[runs], panels=list(section.panels))]
    title = f"bench dashboard {matrix}"  # by which it is found again
    return wr.Report(entity=entity, project=project if entity else "", title=title, blocks=blocks, width="fluid")


def _runset(board: Board, section: str, entity: str, project: str) -> Runset:
    from wandb_workspaces.reports import v2 as wr

    found = wr.Runset(
        entity=entity,
        project=project if entity else "",
        name=board.title,
        filters=_only(board),
        groupby=[f"config.{_ROW}"],
    )
    found._id = _digest(board.title, section)[:12]
    return found


def _only(board: Board) -> str:
    """Return the filter that lets through the runs of a board, and no runs of earlier results of the same matrix."""
    return f"Metric('ID') in {board.runs}"


def _digest(*parts: str) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def spec_of(shown: Workspace | Report) -> dict[str, Any]:
    """Return what is saved of a workspace or a report, as JSON values."""
    found: dict[str, Any] = json.loads(shown._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return found
