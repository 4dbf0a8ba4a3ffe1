"""Charts of numbers: AP against train frequency, quality against steps, training curves, label fidelity.

Their `results` are the cells whose figures the table shows, see `CellResult.counted`.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.figures.style import (
    Drawing,
    Looks,
    Omitted,
    Theme,
    legend_below,
    legend_of_drawn,
    slug,
    two_lines,
)
from reports.published import published
from reports.run_facts import by_method, selection_rules
from reports.text import joined

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    from bench.matrix.rows import Row
    from bench.results.cells import CellResult
    from reports.run_facts import DatasetFacts


_OF_THE_PAPER = (
    " In the paper nearer images are not more useful: five steps gave the nearest ones, and a lower tail mAP than no "
    "steps. Hollow circles are the published numbers, of other data and another extractor: compare their order, not "
    "their values."
)
_GROUPS = ("tail", "medium", "", "head")  # of classes, the rarest first; the third has those of no group
_LETTERS_BELOW = 100  # that fit side by side below all panels of a figure
_MOST_MARKERS = 8  # rows that each have a marker in the legend of quality against steps
_MOST_SLANTED = 16  # names of classes in a panel; more stand upright


def _mean(values: list[float | None]) -> float:
    found = [v for v in values if v is not None]
    return float(np.mean(found)) if found else float("nan")


def _figure(width: float, height: float, columns: int = 1) -> tuple[Figure, list[Axes]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    return figure, list(axes)


def _from_zero(*axes: Axes) -> None:
    """Let axes start at zero, all with the same room above their highest point."""
    # The y of a vertical line is in units of the axes, 0 to 1, and says nothing about the data.
    lines = [
        np.asarray(line.get_ydata(), dtype=float)
        for ax in axes
        for line in ax.get_lines()
        if line.get_transform().contains_branch_seperately(ax.transData)[1]
    ]
    values = np.concatenate([np.zeros(1), *lines])
    top = float(values[np.isfinite(values)].max())
    for ax in axes:
        ax.set_ylim(0, 1.08 * top if top > 0 else 1.0)


def _seeds(results: list[CellResult]) -> str:
    n = len({r.cell.seed for r in results})
    return "one seed" if n == 1 else f"mean over {n} seeds"


def ap_by_frequency(results: list[CellResult], facts: DatasetFacts | None, looks: Looks) -> Drawing | Omitted:
    """Describe average precision against the share of train images, with a marker for each class and method."""
    title = "Average precision against class frequency"
    scored = [r for r in results if r.scores]
    if not scored or facts is None:
        return Omitted(title, "no finished scores" if facts else "the data set is not in the store")
    panels = {g: names for g in _GROUPS if (names := _by_frequency(g, facts))}

    def draw(theme: Theme) -> Figure:
        figure, axes = _figure(8.6, 4.9, len(panels))
        lines: dict[str, list[Line2D]] = {}
        for ax, (group, names) in zip(axes, panels.items(), strict=True):
            for name, line in _frequency_panel(ax, names, scored, facts, looks, theme).items():
                lines.setdefault(name, []).append(line)
            said = f"{group or 'other'} classes, with their share of the train images"
            ax.set_xlabel(textwrap.fill(said, _LETTERS_BELOW // len(panels)))
        _from_zero(*axes)
        axes[0].set_ylabel("average precision on test")
        legend_of_drawn(figure, lines)
        return figure

    n_test = (scored[0].scores or {})["n_test"]
    return Drawing(
        name=slug(facts.label, "ap-by-frequency"),
        title=title,
        caption=f"Each column of markers is a class; the rarest is on the left. n = {n_test} test images, "
        f"{_seeds(scored)}. Look at how far the tail classes lie above the dashed no-skill level, and whether any "
        "method raises the tail classes without lowering the head classes.",
        alt=f"Average precision of {sum(map(len, panels.values()))} classes for {len(by_method(scored))} methods, the "
        f"rarest class first, with a panel each for the {joined([g or 'other' for g in panels])} classes.",
        draw=draw,
    )


def _by_frequency(group: str, facts: DatasetFacts) -> list[str]:
    """Return the classes of a group that have a train image, the rarest first."""
    names = [c for c in facts.class_names if facts.group(c) == group and facts.train_counts[c] > 0]
    return sorted(names, key=lambda c: facts.train_counts[c])


def _frequency_panel(
    ax: Axes, names: list[str], scored: list[CellResult], facts: DatasetFacts, looks: Looks, theme: Theme
) -> dict[str, Line2D]:
    """Draw one group of classes; return the line of each method, and last that of the no-skill level, by its name.

    Each class has a place of its own. On an axis of the shares, classes of equal share would lie on each other.
    """
    places = range(len(names))
    lines: dict[str, Line2D] = {}
    for method, members in by_method(scored).items():
        ap = [_mean([(r.scores or {})["ap"].get(c) for r in members]) for c in names]
        look = looks.of(method)
        (lines[method],) = ax.plot(places, ap, lw=0.8, ms=5.5, mec=theme.paper, mew=0.5, alpha=0.9, **look)
    level = [_mean([(r.scores or {})["prevalence"].get(c) for r in scored]) for c in names]
    dashes: dict[str, Any] = {"ls": (0, (4, 3)), "lw": 1.2, "marker": "_", "ms": 9, "color": theme.muted}
    (lines["no skill (prevalence)"],) = ax.plot(places, level, **dashes)
    shares = [100 * facts.train_counts[c] / facts.n_images["train"] for c in names]
    named = [f"{c}  {share:.2g} %" for c, share in zip(names, shares, strict=True)]
    small = len(names) > _MOST_SLANTED
    slant: dict[str, Any] = {"rotation": 90} if small else {"rotation": 45, "ha": "right", "rotation_mode": "anchor"}
    ax.set_xticks(places, named, fontsize=7 if small else 8.5, **slant)
    ax.set_xlim(-0.6, len(names) - 0.4)
    return lines


def quality_by_steps(results: list[CellResult], looks: Looks, with_published: bool = True) -> Drawing | Omitted:
    """Describe tail FID and tail mAP against the whole number after `@`, for methods whose `at` names one.

    `with_published` says whether published numbers stand beside these rows.
    """
    title = "Quality against steps"
    stepped = [r for r in results if _steps(r) is not None]
    if not stepped:
        return Omitted(title, "no finished method has a whole number after @ in its name")
    label = results[0].cell.dataset.label
    plain = by_method(r for r in results if not r.cell.method.makes_images and r.scores)

    def draw(theme: Theme) -> Figure:
        figure, axes = _figure(8.6, 3.7, 2)
        left = _step_panel(axes[0], stepped, looks, "fidelity", "fid_tail")
        right = _step_panel(axes[1], stepped, looks, "scores", "map_tail")
        lines = {label: [left[label], right[label]] for label in left}
        floor = _mean([(r.fidelity or {}).get("fid_tail_floor") for r in stepped])
        lines["real images against real images"] = [axes[0].axhline(floor, ls=(0, (4, 3)), lw=1.2, color=theme.muted)]
        for method, members in plain.items():
            level = _mean([(r.scores or {}).get("map_tail") for r in members])
            line = axes[1].axhline(level, ls=(0, (1, 1.5)), lw=1.4, color=looks.colour[method])
            lines[f"{method} (adds no images)"] = [line]
        if with_published:
            lines[f"{published().short}, other data and extractor"] = _published_points(axes, stepped, theme)
        axes[0].set(title="FID of the tail classes (lower is better)", ylabel="FID")
        axes[1].set(title="mAP of the tail classes (higher is better)", ylabel="mAP")
        fields = {str(r.cell.method.at) for r in stepped}
        for ax in axes:
            _from_zero(ax)
            ax.set_xlabel(" / ".join(sorted(f.replace("_", " ") for f in fields)))
        legend_of_drawn(figure, lines)
        return figure

    return Drawing(
        name=slug(label, "quality-by-steps"),
        title=title,
        caption="The horizontal axis is the number after @ in the name of a method. The left panel shows the fidelity "
        f"of its images, the right panel what a classifier trained with them reaches; {_seeds(stepped)}. Look at "
        "whether images that are nearer to real ones (lower on the left) are also more useful (higher on the right). "
        f"A line joins rows that differ in the number alone.{_OF_THE_PAPER if with_published else ''}",
        alt="Tail FID and tail mAP against the number of steps, for every method that has such a number.",
        draw=draw,
    )


def _steps(result: CellResult) -> int | None:
    method = result.cell.method
    value = getattr(method, method.at) if method.at else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _all_but_steps(row: Row) -> str:
    """Return what rows have in common that differ in the number after @ alone."""
    exclude = {row.method.at} if row.method.at else None
    return f"{row.method.name} {row.method.model_dump_json(exclude=exclude)} {row.classifier.model_dump_json()}"


def _stem(labels: list[str]) -> str:
    """Return `ours@d` for rows of that name that differ in the number after @, else all of their labels."""
    stems = {label.rpartition("@")[0] for label in labels}
    return f"{stems.pop()}@d" if len(labels) > 1 and len(stems) == 1 and "" not in stems else ", ".join(labels)


def _published_points(axes: Sequence[Axes], results: list[CellResult], theme: Theme) -> list[Line2D]:
    """Draw the published numbers of the rows as hollow markers, and return those of each panel that has any."""
    steps = {label: _steps(members[0]) for label, members in by_method(results).items() if label in published().rows}
    drawn: list[Line2D] = []
    for ax, column in zip(axes, ("fid_tail", "map_tail"), strict=True):
        found = [(x, y) for label, x in steps.items() if (y := published().value(label, column)) is not None]
        if found:
            drawn += ax.plot(*zip(*found, strict=True), "o", ms=8, mfc="none", mec=theme.muted, zorder=1)
    return drawn


def _step_panel(ax: Axes, results: list[CellResult], looks: Looks, part: str, column: str) -> dict[str, Line2D]:
    """Draw a marker for each method, and a line through those that differ only in the number; return the markers.

    Many methods would make a legend that nobody can follow: then each line has a look of its own, and is returned.
    """
    from matplotlib.ticker import FixedLocator, NullLocator

    points = {
        label: (_steps(members[0]) or 0, _mean([(getattr(r, part) or {}).get(column) for r in members]))
        for label, members in by_method(results).items()
    }
    families: dict[str, list[str]] = {}
    for label, members in by_method(results).items():
        families.setdefault(_all_but_steps(members[0].cell.row), []).append(label)
    markers: dict[str, Line2D] = {}
    if len(points) > _MOST_MARKERS:
        named: dict[str, list[tuple[int, float]]] = {}
        for labels in families.values():
            name = _stem(labels) if _stem(labels) not in named else ", ".join(labels)  # no line hides another
            named[name] = sorted(points[label] for label in labels)
        for name, family in named.items():
            (markers[name],) = ax.plot(*zip(*family, strict=True), lw=1.2, ms=6, **Looks(named).of(name))
    else:
        for label, (x, y) in points.items():
            (markers[label],) = ax.plot([x], [y], ls="none", ms=7, zorder=3, **looks.of(label))
        for labels in families.values():
            family = sorted(points[label] for label in labels)
            ax.plot(*zip(*family, strict=True), lw=1, color=ax.xaxis.label.get_color(), alpha=0.45, zorder=2)
    ax.set_xscale("symlog", linthresh=1)
    shown = sorted({x for x, _ in points.values()})
    ax.xaxis.set_major_locator(FixedLocator(shown))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xticklabels([str(x) for x in shown])
    ax.set_xlim(-0.3, max(shown) * 1.5 + 0.5)
    return markers


def training_curves(results: list[CellResult], looks: Looks) -> Drawing | Omitted:
    """Describe the mAP of head and tail classes on val by optimiser step, with a line for each method."""
    title = "Training curves"
    trained = [r for r in results if r.history]
    if not trained:
        return Omitted(title, "no cell has finished")
    label = results[0].cell.dataset.label

    def draw(theme: Theme) -> Figure:
        from matplotlib.ticker import MaxNLocator

        figure, axes = _figure(8.6, 3.6, 2)
        lines: dict[str, list[Line2D]] = {}
        for ax, group in zip(axes, ("head", "tail"), strict=True):
            for method, members in by_method(trained).items():
                steps, values = _curve(members, f"val_map_{group}")
                found = ax.plot(steps, values, lw=1.3, ms=4, mec=theme.paper, mew=0.4, **looks.of(method))
                lines.setdefault(method, []).extend(found)
            ax.set(title=f"mAP of the {group} classes on val", xlabel="optimiser step", ylabel="mAP")
            ax.xaxis.set_major_locator(MaxNLocator(integer=True))
            _from_zero(ax)
        legend_of_drawn(figure, lines)
        return figure

    return Drawing(
        name=slug(label, "training-curves"),
        title=title,
        caption=f"Mean average precision on the validation images at every evaluation; {_seeds(trained)}. Look for "
        "curves that still rise at the end: these classifiers were trained too briefly to be compared. Look also for "
        f"tail curves that turn down: these classifiers overfit, and {_tested(selection_rules(trained))}.",
        alt=f"Validation mAP by optimiser step for {len(by_method(trained))} methods, in one panel for the head "
        "classes and one for the tail classes.",
        draw=draw,
    )


def _tested(rules: list[str]) -> str:
    if "last" not in rules:
        return "the checkpoint that is best on val is chosen"
    return "their last checkpoint is " + (
        "the one that is tested" if rules == ["last"] else "tested with `selection: last`"
    )


def _curve(members: list[CellResult], column: str) -> tuple[list[int], list[float]]:
    by_step: dict[int, list[float | None]] = {}
    for r in members:
        for entry in r.history:
            by_step.setdefault(int(entry["step"]), []).append(entry.get(column))
    steps = sorted(by_step)
    return steps, [_mean(by_step[s]) for s in steps]


def label_fidelity(results: list[CellResult], facts: DatasetFacts | None, looks: Looks) -> Drawing | Omitted:
    """Describe the share of images in which the oracle sees the class they were made for, a bar for each method."""
    title = "Label fidelity"
    told = [r for r in results if r.fidelity and r.fidelity.get("label_fidelity")]
    rows = [
        {"class": name, "method": r.cell.label, "share": share}
        for r in told
        for name, share in (r.fidelity or {})["label_fidelity"].items()
        if share is not None
    ]
    if not rows or facts is None:
        no_oracle = "the extractor has no oracle that recognises the findings in an image"
        return Omitted(title, no_oracle if any(r.fidelity for r in results) else "no cell has finished")
    order: list[Any] = [c for c in facts.class_names if any(row["class"] == c for row in rows)]
    # A row that makes no images has a share for each class too, but all of them are None: it has no bars.
    made = {str(row["method"]) for row in rows}

    def draw(theme: Theme) -> Figure:
        import pandas as pd
        import seaborn as sns

        figure, (ax,) = _figure(8.6, 3.8)
        sns.barplot(
            pd.DataFrame(rows),
            x="class",
            y="share",
            order=order,
            hue="method",
            hue_order=[m for m in looks.colour if m in made],
            palette=looks.colour,
            errorbar="sd",
            err_kws={"lw": 1, "color": theme.ink},
            saturation=1,
            width=0.82,
            edgecolor=theme.paper,
            ax=ax,
        )
        ax.set(ylim=(0, 1), xlabel="", ylabel="share with the finding")
        ax.grid(axis="x", visible=False)
        ax.set_xticks(range(len(order)), [two_lines(name) for name in order])
        handles, labels = ax.get_legend_handles_labels()
        if legend := ax.get_legend():
            legend.remove()
        legend_below(figure, handles, labels)
        return figure

    return Drawing(
        name=slug(facts.label, "label-fidelity"),
        title=title,
        caption="A bar is the share of the images made for a class in which the oracle classifier sees that class; "
        f"{_seeds(told)}. Look for short bars: these images have a label that they do not show, and training on them "
        "teaches the wrong thing.",
        alt=f"Share of images that show the class they were made for: {len(order)} classes, {len(made)} methods.",
        draw=draw,
    )
