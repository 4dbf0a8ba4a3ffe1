"""A board: which runs belong together at W&B, and which panels compare them.

`MatrixBoard` is that of a data set of a matrix, `StudyBoard` that of a sweep. `bench.tracking.dashboard` makes
workspaces and reports of them. Boards are made of what was sent (`bench.privacy.border.Payload`), so no panel names
anything that no run has.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from wandb_workspaces.expr import Ordering

MOST_RUNS = 1000
_MOST_BARS = 100


@dataclass(frozen=True)
class Board(ABC):
    """The runs of one comparison.

    Attributes:
        name: the name of the matrix or sweep, as it was sent.
        runs: ids of the runs.
        numbers: names of final numbers that at least one run has.
    """

    kind: ClassVar[str]
    grouping: ClassVar[tuple[str, ...]] = ()  # plain columns by which the runs are shown in groups

    name: str
    runs: list[str]
    numbers: list[str]

    @property
    @abstractmethod
    def title(self) -> str:
        """The name of its workspace."""

    @property
    @abstractmethod
    def heading(self) -> str:
        """What stands above its panels in the report."""

    @property
    @abstractmethod
    def report_title(self) -> str:
        """The title of the report, by which it is found again."""

    @property
    @abstractmethod
    def introduction(self) -> str:
        """The first paragraph of the report."""

    @property
    @abstractmethod
    def pinned(self) -> list[str]:
        """The columns that stand first in the table of runs."""

    @abstractmethod
    def order(self) -> list[Ordering]:
        """Return how the runs are sorted."""

    @abstractmethod
    def sections(self) -> dict[str, list[Any]]:
        """Return the panels by the names of their sections, which may be empty."""

    def as_dict(self) -> dict[str, Any]:
        """Return it as JSON values; `bench.tracking.dashboard.read_board` reads them."""
        return asdict(self) | {"kind": self.kind}


def of(names: Sequence[str], titles: Mapping[str, str]) -> list[tuple[str, str]]:
    """Return the names that have a title, each with it, in the order of the titles."""
    return [(name, title) for name, title in titles.items() if name in names]


def bars(name: str, title: str, group: str) -> Any:
    """Return the panel of one number: for each value of a column the mean over its runs, and one standard deviation."""
    from wandb_workspaces.reports import v2 as wr

    return wr.BarPlot(
        title=title,
        metrics=[wr.Metric(name)],
        groupby=wr.Config(group),
        groupby_aggfunc="mean",
        groupby_rangefunc="stddev",
        max_runs_to_show=MOST_RUNS,
        max_bars_to_show=_MOST_BARS,
    )
