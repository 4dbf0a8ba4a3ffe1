"""The figure of a study: each column against the setting that the matrix varies, with a dot for every seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.matrix.study import Scalar, Study
from reports.figures.style import Drawing, Looks, Omitted, Theme, legend_of_drawn, log_scale, slug, two_lines
from reports.run_facts import by_dataset, span
from reports.study_series import Point, Series, clashes, series, unknown_columns, unknown_records

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from bench.results.cells import CellResult

_PANEL_ROW = 3  # panels in one line
_BESIDE = 0.05  # from a bar to its dots, where words have a distance of 1
_TITLES = {
    "fid_tail": "tail FID ↓",
    "kid_tail": "tail KID ↓",
    "map_head": "head mAP ↑",
    "map_tail": "tail mAP ↑",
    "map_all": "mAP ↑",
    "label_fidelity_tail": "tail label fidelity ↑",
    "precision_tail": "tail precision ↑",
    "recall_tail": "tail recall ↑",
    "density_tail": "tail density ↑",
    "coverage_tail": "tail coverage ↑",
    "nearest_ratio": "nearest train image / held-out",
    "copies_share": "share of copies",
}


def study_figures(study: Study, results: Sequence[CellResult]) -> list[Drawing | Omitted]:
    """Describe a figure for each data set, or one figure if the data set is what the study varies."""
    if study.spans_datasets:
        return [_figure_of(study, results, "study")]
    return [_figure_of(study, members, slug(label, "study")) for label, members in by_dataset(results).items()]


def _figure_of(study: Study, results: Sequence[CellResult], name: str) -> Drawing | Omitted:
    title = f"Study of {study.x}"
    if faults := unknown_records(study, results) or clashes(study, results):
        return Omitted(title, "; ".join(faults))
    shown = series(study, results)
    columns = [c for c in study.columns if any(p.values[c] is not None for p in _points(shown))]
    if not shown.lines or not columns:
        finished = unknown_columns(study, results) if shown.lines else ["no cell of a line has finished"]
        return Omitted(title, "; ".join(finished))
    looks = Looks([*shown.lines, *shown.levels])

    def draw(theme: Theme) -> Figure:
        from matplotlib.figure import Figure

        across = min(_PANEL_ROW, len(columns))
        down = math.ceil(len(columns) / across)
        figure = Figure(figsize=(8.6, 0.5 + 2.9 * down), layout="constrained")
        grid = list(figure.subplots(down, across, squeeze=False).flat)
        for ax in grid[len(columns) :]:
            ax.remove()
        lines: dict[str, list[Line2D]] = {}
        for ax, column in zip(grid, columns, strict=False):
            for label, line in _panel(ax, column, study, shown, looks, theme).items():
                lines.setdefault(label, []).append(line)
        legend_of_drawn(figure, lines)
        return figure

    return Drawing(
        name=name,
        title=title,
        caption=_caption(study, shown, [c for c in study.columns if c not in columns]),
        alt=f"{', '.join(columns)} against {study.x} for {', '.join(shown.lines)}.",
        draw=draw,
    )


def _points(shown: Series) -> list[Point]:
    return [p for group in (shown.lines, shown.levels) for points in group.values() for p in points]


def _caption(study: Study, shown: Series, absent: list[str]) -> str:
    places: dict[tuple[str, Scalar | None], int] = {}
    for line, points in shown.lines.items():
        for point in points:
            places[line, point.x] = places.get((line, point.x), 0) + 1
    n = max(places.values())
    band = {"sd": "one standard deviation", "ci": "95 % interval of the mean (Student's t)"}[study.band]
    marks = "the bars" if not shown.numeric else "the bands"
    parts = [f"Each dot is a seed (n = {span(places.values())} a place), and the marks are their means"]
    parts.append(f"; {marks} show {band} around them." if n > 1 else "; with one seed no spread is known.")
    if shown.levels:
        parts.append(f" The horizontal lines are {', '.join(shown.levels)}, which have no place on the axis.")
    if absent:
        parts.append(f" These columns were not measured: {', '.join(absent)}.")
    return "".join(parts)


def _panel(ax: Axes, column: str, study: Study, shown: Series, looks: Looks, theme: Theme) -> dict[str, Line2D]:
    """Draw one column and return what the legend names: the lines, then the levels."""
    named: dict[str, Line2D] = {}
    n = len(shown.lines)
    for i, (name, points) in enumerate(shown.lines.items()):
        # Words are evenly spaced, with the lines side by side at each word. Numbers are at their own place.
        places = {x: float(x) for x in shown.order} if shown.numeric else _dodged(shown.order, i, n)
        named[name] = _line(ax, points, column, places, study, shown.numeric, looks.of(name), theme)
    for label, points in shown.levels.items():
        mean, low, high = _spread([p.values[column] for p in points], study.band)
        ax.axhspan(low, high, color=looks.colour[label], alpha=0.10, lw=0, zorder=0)
        level = ax.axhline(mean, color=looks.colour[label], lw=1.4, ls=(0, (4, 2)), zorder=1)
        named[f"{label} (level)"] = level
    _axis(ax, study, shown)
    ax.set_title(_TITLES.get(column, column.replace("_", " ")))
    return named


def _dodged(order: list[Scalar], i: int, n: int) -> dict[Scalar, float]:
    return {x: at + 0.62 * ((i + 0.5) / n - 0.5) for at, x in enumerate(order)}


def _line(
    ax: Axes,
    points: list[Point],
    column: str,
    places: dict[Scalar, float],
    study: Study,
    numeric: bool,
    look: dict[str, Any],
    theme: Theme,
) -> Line2D:
    """Draw the dots, means and spread of one line; return the means."""
    there = [x for x in places if any(p.x == x and p.values[column] is not None for p in points)]
    at = np.array([places[x] for x in there])
    values = [[v for p in points if p.x == x and (v := p.values[column]) is not None] for x in there]
    spreads = np.array([_spread(v, study.band) for v in values]).reshape(-1, 3)
    mean, low, high = spreads.T
    colour = look["color"]
    for x, dots in zip(at, values, strict=True):
        ax.plot(
            [x if numeric else x - _BESIDE] * len(dots),
            dots,
            ls="none",
            marker=".",
            ms=4.5,
            color=colour,
            alpha=0.55,
            mew=0,
            zorder=2,
        )
    if numeric:
        ax.fill_between(at, low, high, color=colour, alpha=0.15, lw=0, zorder=1)
        return ax.plot(at, mean, lw=1.3, ms=5.5, mec=theme.paper, mew=0.6, zorder=3, **look)[0]
    ax.vlines(at, low, high, color=colour, lw=1.2, zorder=2)
    return ax.plot(at, mean, ls="none", ms=6, mec=theme.paper, mew=0.6, zorder=3, **look)[0]


def _spread(values: Sequence[float | None], band: str) -> tuple[float, float, float]:
    """Return mean, low and high. All are equal for one value, and NaN without a value."""
    found = np.array([v for v in values if v is not None])
    if len(found) == 0:
        return (math.nan,) * 3
    mean, half = float(found.mean()), 0.0
    if len(found) > 1:
        half = float(found.std(ddof=1))
        if band == "ci":
            from scipy.stats import t

            half *= float(t.ppf(0.975, len(found) - 1)) / math.sqrt(len(found))
    return mean, mean - half, mean + half


def _axis(ax: Axes, study: Study, shown: Series) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    label = study.x_label or study.x.rpartition(".")[2].replace("_", " ")
    ax.set_xlabel(label)
    if not shown.numeric:
        ax.set_xticks(range(len(shown.order)), [two_lines(str(x).replace("_", " "), 8) for x in shown.order])
        ax.set_xlim(-0.55, len(shown.order) - 0.45)
        ax.grid(axis="x", visible=False)
        return
    if study.scale == "log" and all(float(x) > 0 for x in shown.order):
        log_scale(ax)
    if len(shown.order) <= 6:
        ax.xaxis.set_major_locator(FixedLocator([float(x) for x in shown.order]))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xticklabels([f"{x:g}" for x in shown.order])
