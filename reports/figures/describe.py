"""The figure of a data set: images of each class in each part, and how often two classes occur in one image."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reports.figures.style import CSS_DPI, DENSITY, LIGHT, Theme, log_scale, settings

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_PARTS = {"train": "#1F7FBF", "val": "#E69F00", "test": "#009E73"}
_MOST_NUMBERED = 12  # classes; a larger matrix has no room for numbers


def write_figure(found: dict[str, Any], path: Path) -> None:
    """Draw a description (`bench.data.describe.describe`) to a PNG file.

    Raises:
        OSError: if it cannot be written.
    """
    import matplotlib

    path.parent.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context(settings(LIGHT)):
        draw(found, LIGHT).savefig(path, dpi=DENSITY * CSS_DPI, metadata={"Software": None})


def draw(found: dict[str, Any], theme: Theme) -> Figure:
    """Return the figure: images of each class on the left, the most frequent on top; co-occurrence on the right."""
    from matplotlib.figure import Figure

    order = sorted(range(len(found["classes"])), key=lambda i: -found["classes"][i]["train"])
    classes = [found["classes"][i] for i in order]
    n = len(classes)
    side = max(3.0, 0.26 * n)
    figure = Figure(figsize=(6.0 + side, side + 1.9), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(6.0, side))
    _counts(left, classes)
    _together(right, np.array(found["cooccurrence"], dtype=float)[np.ix_(order, order)], classes, theme)
    patients = f" of {found['patients']:,} patients" if found["patients"] is not None else ""
    left.set_title(f"{found['dataset']}: {found['images']:,} images{patients}")
    figure.legend(loc="outside lower left", ncols=len(_PARTS))
    return figure


def _counts(ax: Axes, classes: list[dict[str, Any]]) -> None:
    places = np.arange(len(classes))
    for k, (part, colour) in enumerate(_PARTS.items()):
        ax.barh(places + 0.27 * (k - 1), [c[part] for c in classes], 0.25, color=colour, label=part)
    log_scale(ax)
    ax.set_xlim(0.5, 10 ** math.ceil(math.log10(max(10, *(c[p] for c in classes for p in _PARTS)))))
    ax.set_yticks(places, [_named(c) for c in classes])
    ax.set_ylim(len(classes) - 0.5, -0.5)  # in line with the rows of the matrix on the right
    ax.grid(axis="y", visible=False)
    ax.set_xlabel("images with the finding (log)")


def _named(one: dict[str, Any]) -> str:
    return f"{one['name']} ({one['group']})" if one["group"] else str(one["name"])


def _together(ax: Axes, both: np.ndarray, classes: list[dict[str, Any]], theme: Theme) -> None:
    """Draw the share of the images with a row's class that also have the column's class."""
    numbered = len(classes) <= _MOST_NUMBERED
    share = both / np.maximum(np.diag(both), 1)[:, None]
    np.fill_diagonal(share, np.nan)
    ax.imshow(share, vmin=0, vmax=1, cmap="Blues", aspect="auto")
    ax.set_xticks(range(len(classes)), [c["name"] for c in classes], rotation=45, ha="right", rotation_mode="anchor")
    ax.set_yticks([])  # the rows are named on the left
    ax.grid(visible=False)
    ax.set_title("share of the row's images that\nalso have the column's class" + (" (%)" if numbered else ""))
    if numbered:
        for (i, j), value in np.ndenumerate(share):
            if np.isfinite(value):
                dark = value > 0.55
                ax.text(
                    j, i, f"{100 * value:.0f}", ha="center", va="center", fontsize=7, color="w" if dark else theme.ink
                )
