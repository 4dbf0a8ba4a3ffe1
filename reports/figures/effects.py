"""Forest plot of effects: a panel for each column, a line for each row, intervals around paired differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from reports.differences import Effect
from reports.effects import columns_of
from reports.figures.style import Drawing, Looks, Omitted, Theme, legend_below, slug, two_lines
from reports.run_facts import span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from reports.table_rows import Column

TITLE = "Effects"
_LINE, _MARGINS, _WIDTH = 0.27, 1.25, 8.6  # inches: height of a line, height around the panels, width of the figure
_OFFSET = 0.36  # share of a line between the first and the last control of a row
_LONGEST = 48  # characters of a label on one line
_MOST_COLOURS = 3  # controls that have a colour each; with more of them, the name of a line includes its control
_CLEAR, _UNSETTLED = "interval leaves out zero", "interval leaves out zero, but p ≥ 0.05"
_WITHIN = "interval contains zero, or there is none"


def forest(effects: Sequence[Effect], label: str) -> Drawing | Omitted:
    """Describe the differences between every row and its controls.

    Args:
        effects: the effects of one data set.
        label: the name of the data set.
    """
    if not effects:
        return Omitted(TITLE, "no row has finished at the same seed as its control")
    if not any(e.named or e.estimate.n > 1 for e in effects):
        return Omitted(TITLE, f"there is only one seed; the intervals over {_drawn(effects)} are in effects.csv")
    controls = list(dict.fromkeys(e.control for e in effects))
    columns, lines = columns_of(effects), _lines(effects, many=len(controls) > _MOST_COLOURS)
    looks = Looks(controls)

    def draw(theme: Theme) -> Figure:
        from matplotlib.figure import Figure

        most = max(len({e.control for e in line}) for line in lines.values())
        tall = max(1 + 0.35 * (most - 1), 1.35 if any("\n" in label for label in lines) else 1)
        height = _MARGINS + len(lines) * _LINE * tall
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        axes = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
        one_colour = len(controls) > _MOST_COLOURS
        for ax, column in zip(axes, columns, strict=True):
            _panel(ax, column, lines, {c: _look(c, looks, theme, one_colour) for c in controls}, theme)
        axes[0].set_yticks(range(len(lines)), list(lines))
        axes[0].set_ylim(len(lines) - 0.4, -0.6)  # the first row on top
        shown = [] if one_colour else [(f"minus {c}", looks.of(c)) for c in controls]
        legend_below(figure, *_legend(shown, effects, theme))
        return figure

    ns = sorted({e.estimate.n for e in effects})
    what = f"over {_drawn(effects)}, without the noise of training" if ns == [1] else "over seeds (BCa)"
    return Drawing(
        name=slug(label, "effects"),
        title=TITLE,
        caption=f"A mark is the mean difference between a row and its control at the same seed (n = {span(ns)}). Bars "
        f"are 95 % bootstrap intervals {what}, and small dots are single seeds. With fewer than ten seeds intervals "
        "are too short, so one that leaves out zero counts only if the sign-flip test has p < 0.05. Look for filled "
        "marks on the better side.",
        alt=f"Differences between {len(lines)} rows and their controls in {', '.join(c.heading for c in columns)}, "
        "with 95 % intervals.",
        draw=draw,
    )


def _drawn(effects: Sequence[Effect]) -> str:
    return next((e.estimate.units for e in effects if e.estimate.over_test), "the test set")


def _lines(effects: Sequence[Effect], many: bool) -> dict[str, list[Effect]]:
    """Return the lines by their label, which includes the control where there are too many controls for colours."""
    lines: dict[str, list[Effect]] = {}
    for e in effects:
        label = f"{e.row}  vs  {e.control}" if many else e.row
        if len(label) > _LONGEST:
            label = f"{e.row}\nvs  {e.control}" if many else two_lines(e.row, _LONGEST)
        lines.setdefault(label, []).append(e)
    return lines


def _look(control: str, looks: Looks, theme: Theme, one_colour: bool) -> dict[str, Any]:
    return {"color": theme.ink, "marker": "s"} if one_colour else looks.of(control)


def _panel(
    ax: Axes, column: Column, lines: dict[str, list[Effect]], looks: dict[str, dict[str, Any]], theme: Theme
) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    ax.axvline(0, color=theme.muted, lw=1, zorder=1)
    for y, line in enumerate(lines.values()):
        controls = list(dict.fromkeys(e.control for e in line))
        for e in line:
            if e.column == column:
                _mark(ax, e, y + _shift(controls.index(e.control), len(controls)), looks[e.control], theme)
    ax.set_title(column.heading)
    if column.better:
        up = column.better > 0
        ax.set_xlabel("better →" if up else "← better", loc="right" if up else "left", color=theme.muted)
    ax.xaxis.set_major_locator(MaxNLocator(3, min_n_ticks=2))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
    ax.margins(x=0.08)
    ax.spines["left"].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    for y in range(0, len(lines), 2):  # bands guide the eye from the names to the last panel
        ax.axhspan(y - 0.5, y + 0.5, color=theme.grid, alpha=0.45, lw=0, zorder=0)


def _shift(place: int, n: int) -> float:
    return _OFFSET * (place / (n - 1) - 0.5) if n > 1 else 0.0


def _mark(ax: Axes, effect: Effect, y: float, look: dict[str, Any], theme: Theme) -> None:
    """Draw the single seeds, the interval and the mean of one effect."""
    e = effect.estimate
    ax.plot(effect.differences, [y] * len(effect.differences), ".", ms=3, color=look["color"], alpha=0.6, mew=0)
    if e.low is not None and e.high is not None:
        ax.plot([e.low, e.high], [y, y], lw=1.5, color=look["color"], zorder=2)
    ax.plot([e.mean], [y], ls="none", ms=5, mew=1.2, zorder=3, **look, **_fill(_state(effect), look["color"], theme))


def _state(effect: Effect) -> str:
    said = effect.verdict
    return _UNSETTLED if said.startswith("unsettled") else _CLEAR if said in ("higher", "lower") else _WITHIN


def _fill(state: str, colour: str, theme: Theme) -> dict[str, Any]:
    """Return matplotlib's keywords for a full, half or hollow marker."""
    if state == _UNSETTLED:
        return {"fillstyle": "bottom", "mfc": colour, "markerfacecoloralt": theme.paper}
    return {"mfc": colour if state == _CLEAR else theme.paper}


def _legend(
    shown: list[tuple[str, dict[str, Any]]], effects: Sequence[Effect], theme: Theme
) -> tuple[list[Any], list[str]]:
    """Return the handles and names of the legend: the controls, then the fillings that occur."""
    from matplotlib.lines import Line2D

    there = {_state(e) for e in effects}
    states = [state for state in (_CLEAR, _UNSETTLED, _WITHIN) if state in there]
    handles = [Line2D([], [], lw=1.5, ms=5, **look) for _, look in shown]
    handles += [
        Line2D([], [], ls="none", ms=5, mew=1.2, marker="o", color=theme.muted, **_fill(state, theme.muted, theme))
        for state in states
    ]
    return handles, [*(name for name, _ in shown), *states]
