"""The board of a sweep: its trials by both objectives, which settings decide, and each setting against the first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, ClassVar

from bench.privacy.border import TRIAL_COLUMNS, Payload
from bench.privacy.metric_names import is_number
from bench.tracking.board import Board, bars

if TYPE_CHECKING:
    from wandb_workspaces.expr import Ordering

_STATE = "state"


@dataclass(frozen=True)
class StudyBoard(Board):
    """What the trials of a sweep have at W&B.

    Attributes:
        objectives: metric → `maximize` or `minimize`, for the objectives that at least one trial has.
        scales: settings that are numbers in every trial, and have at least two values.
        choices: the other settings with at least two values.
    """

    kind: ClassVar[str] = "study"

    objectives: dict[str, str]
    scales: list[str]
    choices: list[str]

    @property
    def title(self) -> str:
        """The name of its workspace."""
        return f"sweep {self.name}"

    @property
    def heading(self) -> str:
        """What stands above its panels in the report."""
        return "Panels"

    @property
    def report_title(self) -> str:
        """The title of the report, by which it is found again."""
        return f"bench dashboard {self.name} (sweep)"

    @property
    def introduction(self) -> str:
        """The first paragraph of the report."""
        return (
            f"Written by `bench dashboard {self.name}`, which replaces this report when it is called again. The tables "
            f"are those of `bench sweep {self.name} --status` when the report was saved. The panels below them show "
            "the trials. W&B estimates importance in its own way, so its order may differ from the one in the text."
        )

    @property
    def pinned(self) -> list[str]:
        """The trial, its state, the objectives, and the settings that differ."""
        columns = [f"config:{name}.value" for name in ("trial", _STATE)]
        values = [f"summary:{name}" for name in self.objectives]
        return [*columns, *values, *(f"config:{name}.value" for name in (*self.scales, *self.choices))]

    def order(self) -> list[Ordering]:
        """Return that the best trial by the first objective comes first."""
        from wandb_workspaces import expr

        return [
            expr.Ordering(expr.Summary(metric), ascending=direction == "minimize")
            for metric, direction in list(self.objectives.items())[:1]
        ]

    def sections(self) -> dict[str, list[Any]]:
        """Return the panels by the names of their sections, which may be empty."""
        return {
            "Trials by their objectives": self._fronts() + self._parallel(),
            "Which settings decide": self._importances(),
            "Each setting against the objectives": self._slices(),
            "Objectives in the order of the trials": self._history(),
        }

    def _fronts(self) -> list[Any]:
        from wandb_workspaces.reports import v2 as wr

        return [
            wr.ScatterPlot(
                title=f"{self._said(a)} against {self._said(b)}", x=wr.SummaryMetric(b), y=wr.SummaryMetric(a)
            )
            for a, b in combinations(self.objectives, 2)
        ]

    def _parallel(self) -> list[Any]:
        from wandb_workspaces.reports import v2 as wr

        settings: list[Any] = [wr.Config(name) for name in (*self.scales, *self.choices)]
        if not settings or not self.objectives:
            return []
        axes = [*settings, *(wr.SummaryMetric(metric) for metric in self.objectives)]
        columns = [wr.ParallelCoordinatesPlotColumn(metric=axis) for axis in axes]
        return [wr.ParallelCoordinatesPlot(title="Settings and objectives of each trial", columns=columns)]

    def _importances(self) -> list[Any]:
        from wandb_workspaces.reports import v2 as wr

        if not self.scales and not self.choices:
            return []
        return [wr.ParameterImportancePlot(with_respect_to=metric) for metric in self.objectives]

    def _slices(self) -> list[Any]:
        from wandb_workspaces.reports import v2 as wr

        found: list[Any] = []
        for metric in self.objectives:
            found += [
                wr.ScatterPlot(
                    title=f"{self._said(metric)} against {name}", x=wr.Config(name), y=wr.SummaryMetric(metric)
                )
                for name in self.scales
            ]
            found += [bars(metric, f"{self._said(metric)} by {name}", name) for name in self.choices]
        return found

    def _history(self) -> list[Any]:
        from wandb_workspaces.reports import v2 as wr

        return [
            wr.ScatterPlot(title=f"{self._said(m)} by trial", x=wr.Config("trial"), y=wr.SummaryMetric(m))
            for m in self.objectives
        ]

    def _said(self, metric: str) -> str:
        return f"{metric} ({'more' if self.objectives[metric] == 'maximize' else 'less'} is better)"


def study_boards(sent: Mapping[str, Payload]) -> list[StudyBoard]:
    """Return the board of a sweep, as the only element of a list.

    Args:
        sent: id of a run → what it holds. All are trials of one sweep, at least one.
    """
    trials = list(sent.values())
    numbers = sorted({name for one in trials for name, value in one.summary.items() if is_number(value)})
    objectives = {m: d for one in trials for m, d in one.config["run"]["objectives"].items() if m in numbers}
    values: dict[str, list[Any]] = {}
    for one in trials:
        for name in one.config.keys() - set(TRIAL_COLUMNS):
            values.setdefault(name, []).append(one.config[name])
    differ = sorted(name for name, found in values.items() if len({str(value) for value in found}) > 1)
    scales = [name for name in differ if all(is_number(value) for value in values[name])]
    return [
        StudyBoard(
            name=trials[0].config["study"],
            runs=sorted(sent),
            numbers=numbers,
            objectives=objectives,
            scales=scales,
            choices=[name for name in differ if name not in scales],
        )
    ]
