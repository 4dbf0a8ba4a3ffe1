"""The board of a data set of a matrix: rows are compared by means over seeds, against d, by class and over training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bench.privacy.border import Payload
from bench.privacy.metric_names import is_number
from bench.tracking.board import MOST_RUNS, Board, bars, of

if TYPE_CHECKING:
    from wandb_workspaces.expr import Ordering

# The columns of the paper's table come first, then what stands beside them.
_HEADLINES = {
    "fid_tail": "FID of the tail (less is better)",
    "kid_tail": "KID of the tail (less is better)",
    "fid_tail_floor": "FID floor: real against real images",
    "map_head": "mAP of the head (more is better)",
    "map_medium": "mAP of the medium classes (more is better)",
    "map_tail": "mAP of the tail (more is better)",
    "map_all": "mAP over all classes (more is better)",
    "label_fidelity_tail": "Label fidelity of the tail (more is better)",
    "stage_seconds": "Seconds of computation",
}
_TABLE = ("fid_tail", "kid_tail", "fid_tail_floor", "map_head", "map_medium", "map_tail")  # as in `bench table`
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
_CURVES_OF_CLASSES = "wandb/area-under-curve/v0"  # the chart that `wandb.plot.pr_curve` names, with its fields
_ROW, _STEPS, _CLASSIFIER = "method_label", "denoise_steps", "classifier"


@dataclass(frozen=True)
class MatrixBoard(Board):
    """What the runs of one data set of a matrix have at W&B.

    Attributes:
        dataset: its name, as it was sent.
        columns: names of plain columns of the configuration in which at least one run has a value.
        n_steps: how many different numbers of denoising steps there are.
        curves: names of curves, e.g. `classifier/val_map_tail`.
        media: names of pictures and tables.
        classes: short name of a class → its name.
    """

    kind: ClassVar[str] = "matrix"
    grouping: ClassVar[tuple[str, ...]] = (_ROW,)

    dataset: str
    columns: list[str]
    n_steps: int
    curves: list[str]
    media: list[str]
    classes: dict[str, str]

    @property
    def title(self) -> str:
        """The name of its workspace."""
        return f"{self.name} on {self.dataset}"

    @property
    def heading(self) -> str:
        """What stands above its panels in the report."""
        return f"Panels: {self.dataset}"

    @property
    def report_title(self) -> str:
        """The title of the report, by which it is found again."""
        return f"bench dashboard {self.name}"

    @property
    def introduction(self) -> str:
        """The first paragraph of the report."""
        return (
            f"Written by `bench dashboard {self.name}`, which replaces this report when it is called again. The table "
            f"is that of `bench table {self.name} --notes` when the report was saved. The panels below it show the "
            "runs of these same results."
        )

    @property
    def pinned(self) -> list[str]:
        """The row, the seed, and the columns of the paper's table."""
        columns = [f"config:{name}.value" for name in (_ROW, "seed") if name in self.columns]
        return [*columns, *(f"summary:{name}" for name in _TABLE if name in self.numbers)]

    def order(self) -> list[Ordering]:
        """Return that the best tail mAP comes first."""
        from wandb_workspaces import expr

        return [expr.Ordering(expr.Summary("map_tail"), ascending=False)] if "map_tail" in self.numbers else []

    def sections(self) -> dict[str, list[Any]]:
        """Return the panels by the names of their sections, which may be empty."""
        of_class = {f"ap_{short}": f"AP of {name}" for short, name in self.classes.items()}
        return {
            "Means over seeds, with one standard deviation": [
                bars(name, title, _ROW) for name, title in of(self.numbers, _HEADLINES)
            ],
            "Against the number of denoising steps d": self._against_steps(),
            "Average precision by class": [bars(name, title, _ROW) for name, title in of(self.numbers, of_class)],
            "Curves of the classifier, means and ranges over seeds": self._curves(),
            "Pictures and tables of classes": self._media(),
        }

    def _against_steps(self) -> list[Any]:
        from wandb_workspaces.reports import v2 as wr

        if self.n_steps < 2:
            return []
        return [
            wr.ScatterPlot(title=title, x=wr.Config(_STEPS), y=wr.SummaryMetric(name))
            for name, title in of(self.numbers, _AGAINST_STEPS)
        ]

    def _curves(self) -> list[Any]:
        from wandb_workspaces.reports import v2 as wr

        return [
            wr.LinePlot(
                title=title,
                x=wr.Metric(f"{_CLASSIFIER}/step"),
                y=[wr.Metric(name)],
                groupby=wr.Config(_ROW),
                groupby_aggfunc="mean",
                groupby_rangefunc="minmax",
                max_runs_to_show=MOST_RUNS,
            )
            for name, title in of(self.curves, {f"{_CLASSIFIER}/{name}": title for name, title in _CURVES.items()})
        ]

    def _media(self) -> list[Any]:
        from wandb_workspaces.reports import v2 as wr

        found: list[Any] = []
        if "samples" in self.media:
            title = "Synthetic images, one row a class"
            found.append(wr.MediaBrowser(title=title, media_keys=["samples"], num_columns=2))
        found += [
            wr.WeavePanelSummaryTable(table_name=name) for name in ("fusion_pairs", "per_class") if name in self.media
        ]
        if "pr_curves" in self.media:
            fields = {"x": "recall", "y": "precision", "class": "class"}
            words = {"title": "Precision and recall on test", "x-axis-title": "Recall", "y-axis-title": "Precision"}
            chart = wr.CustomChart.from_table("pr_curves", chart_fields=fields, chart_strings=words)
            chart.chart_name = _CURVES_OF_CLASSES
            found.append(chart)
        return found


def matrix_boards(sent: Mapping[str, Payload]) -> list[MatrixBoard]:
    """Return one board for each data set.

    Args:
        sent: id of a run → what it holds. All are of one matrix.
    """
    found: dict[tuple[str, str], dict[str, Payload]] = {}
    for run, one in sent.items():
        found.setdefault((one.config["matrix"], one.config["dataset"]), {})[run] = one
    return [_board(matrix, dataset, runs) for (matrix, dataset), runs in found.items()]


def _board(matrix: str, dataset: str, runs: dict[str, Payload]) -> MatrixBoard:
    sent = list(runs.values())
    return MatrixBoard(
        name=matrix,
        dataset=dataset,
        runs=sorted(runs),
        numbers=sorted({name for one in sent for name, value in one.summary.items() if is_number(value)}),
        columns=sorted({n for one in sent for n, v in one.config.items() if v is not None and not isinstance(v, dict)}),
        n_steps=len({one.config[_STEPS] for one in sent} - {None}),
        curves=sorted({f"{n}/{key}" for one in sent for n, rows in one.curves.items() for row in rows for key in row}),
        media=sorted({name for one in sent for name in one.media}),
        classes={short: name for one in sent for short, name in one.config["classes"].items()},
    )
