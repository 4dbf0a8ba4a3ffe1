"""The figures of a sweep: its history, its Pareto front, a slice for each setting, and which settings decide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.figures.style import Drawing, Omitted, Theme, log_scale

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Value = bool | int | float | str
_ACROSS = 3  # panels in one line
_LONGEST_WORD = 18  # letters of a choice
_DONE, _BEST = "#1F7FBF", "#D55E00"


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep: its settings by their short names, and its objectives if it is done."""

    number: int
    state: str
    values: dict[str, float]
    params: dict[str, Value]
    seconds: float | None


@dataclass(frozen=True)
class Search:
    """A sweep as its page shows it.

    Attributes:
        name: the study.
        objectives: metric → `maximize` or `minimize`; all are of val.
        trials: all trials in their order.
        best: number of the best trial by the first objective, or None.
        pareto: numbers of the trials that no other beats in everything.
        importances: metric → short name of a setting → share.
        log_scaled: short names of the settings that are searched on a logarithmic scale.
    """

    name: str
    objectives: dict[str, str]
    trials: tuple[Trial, ...]
    best: int | None
    pareto: tuple[int, ...]
    importances: dict[str, dict[str, float]] = field(default_factory=dict)
    log_scaled: frozenset[str] = frozenset()

    @property
    def done(self) -> list[Trial]:
        """The trials that have all objectives."""
        return [t for t in self.trials if t.state == "done"]


def search_figures(search: Search) -> list[Drawing | Omitted]:
    """Describe the figures of a sweep."""
    if not search.done:
        return [Omitted("Figures", "no trial has finished")]
    return [_history(search), _front(search), _slices(search), _importances(search)]


def _history(search: Search) -> Drawing:
    metric, direction = next(iter(search.objectives.items()))
    numbers = [t.number for t in search.done]
    values = [t.values[metric] for t in search.done]
    best = list(accumulate(values, max if direction == "maximize" else min))
    others = [t.number for t in search.trials if t.state in ("failed", "pruned")]

    def draw(theme: Theme) -> Figure:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        figure = Figure(figsize=(8.6, 3.0), layout="constrained")
        ax = figure.subplots()
        ax.plot(numbers, values, "o", color=_DONE, label="a trial")
        ax.step(numbers, best, where="post", color=_BEST, label="the best so far")
        if others:
            ax.plot(others, [0.02] * len(others), "x", color=theme.muted, transform=ax.get_xaxis_transform())
        ax.set_xlabel("trial")
        ax.set_ylabel(f"{metric} on val")
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
        ax.legend(loc="best")
        return figure

    crosses = " A cross at the foot is a trial that failed or was given up." if others else ""
    return Drawing(
        name="history",
        title="History",
        caption=f"{metric} of {len(values)} finished trials in their order, and the best until then.{crosses}",
        alt=f"{metric} against the number of the trial; the best is {best[-1]:.4f}.",
        draw=draw,
    )


def _front(search: Search) -> Drawing | Omitted:
    if len(search.objectives) < 2:
        return Omitted("Pareto front", "the sweep has one objective")
    (x, x_way), (y, y_way) = list(search.objectives.items())[:2]
    front = sorted((t for t in search.done if t.number in search.pareto), key=lambda t: t.values[x])

    def draw(theme: Theme) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.6, 3.8), layout="constrained")
        ax = figure.subplots()
        ax.plot([t.values[x] for t in search.done], [t.values[y] for t in search.done], "o", color=_DONE)
        ax.plot([t.values[x] for t in front], [t.values[y] for t in front], "s-", color=_BEST, lw=1)
        for t in front:
            ax.annotate(str(t.number), (t.values[x], t.values[y]), xytext=(5, 5), textcoords="offset points")
        ax.set_xlabel(f"{x} on val ({x_way})")
        ax.set_ylabel(f"{y} on val ({y_way})")
        return figure

    return Drawing(
        name="pareto",
        title="Pareto front",
        caption=f"{len(search.done)} finished trials. No trial is better in both than one of the squares, which bear "
        "their numbers.",
        alt=f"{y} against {x}; on the front are the trials {', '.join(str(t.number) for t in front)}.",
        draw=draw,
    )


def _slices(search: Search) -> Drawing:
    metric = next(iter(search.objectives))
    names = list(dict.fromkeys(name for t in search.done for name in t.params))

    def draw(theme: Theme) -> Figure:
        from matplotlib.figure import Figure

        across = min(_ACROSS, len(names))
        down = math.ceil(len(names) / across)
        figure = Figure(figsize=(8.6, 2.5 * down), layout="constrained")
        panels = list(figure.subplots(down, across, squeeze=False, sharey=True).flat)
        for ax in panels[len(names) :]:
            ax.remove()
        for ax, name in zip(panels, names, strict=False):
            _slice(ax, name, metric, search)
        for row in range(down):
            panels[row * across].set_ylabel(metric)
        return figure

    return Drawing(
        name="slices",
        title="Each setting by itself",
        caption=f"{metric} on val of {len(search.done)} finished trials against each setting. Other settings vary too, "
        "so a pattern here may be theirs.",
        alt=f"{metric} against each of {', '.join(names)}.",
        draw=draw,
    )


def _slice(ax: Axes, name: str, metric: str, search: Search) -> None:
    trials = [t for t in search.done if name in t.params]
    values = [t.params[name] for t in trials]
    if any(isinstance(v, (str, bool)) for v in values):
        words = sorted({str(v) for v in values})
        # Trials of one word lie beside each other by their number, so that equal values do not hide each other.
        places = [words.index(str(v)) + 0.3 * (t.number / len(search.trials) - 0.5) for v, t in zip(values, trials)]  # noqa: B905
        shown = [
            w if len(w) <= _LONGEST_WORD else f"{w[: _LONGEST_WORD - 1]}…" for w in words
        ]  # the table has them whole
        slant: dict[str, Any] = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
        ax.set_xticks(range(len(words)), shown, **(slant if max(map(len, shown)) > 7 else {}))
    else:
        places = [float(v) for v in values]
        if name in search.log_scaled:
            log_scale(ax)
    for place, t in zip(places, trials, strict=True):
        ax.plot(
            place,
            t.values[metric],
            "s" if t.number == search.best else "o",
            color=_BEST if t.number == search.best else _DONE,
        )
    ax.set_xlabel(name)


def _importances(search: Search) -> Drawing | Omitted:
    title = "Which settings decide"
    if not search.importances:
        return Omitted(title, "there are too few finished trials (10 are needed)")
    names = list(next(iter(search.importances.values())))
    metrics = list(search.importances)

    def draw(theme: Theme) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.6, 0.8 + 0.38 * len(names)), layout="constrained")
        panels: Sequence[Axes] = list(figure.subplots(1, len(metrics), squeeze=False, sharey=True).flat)
        for ax, metric in zip(panels, metrics, strict=True):
            shares = [search.importances[metric].get(name, 0.0) for name in names]
            ax.barh(np.arange(len(names)), shares, color=_DONE)
            ax.set_yticks(np.arange(len(names)), names)
            ax.invert_yaxis()
            ax.set_xlim(0, 1)
            ax.set_title(metric)
        return figure

    return Drawing(
        name="importances",
        title=title,
        caption=f"PED-ANOVA (Watanabe et al. 2023) over {len(search.done)} finished trials: the share of each setting "
        "in what sets the best tenth of the trials apart. With few trials these shares are rough.",
        alt="; ".join(
            f"{metric}: " + ", ".join(f"{n} {s:.2f}" for n, s in shares.items())
            for metric, shares in search.importances.items()
        ),
        draw=draw,
    )
