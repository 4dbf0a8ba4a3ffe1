"""How near synthetic images lie to train images, with and without their parents, compared with held-out real images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.evaluation.measures import weighted_quantiles
from reports.figures.style import Drawing, Looks, Omitted, Theme, legend_below, slug
from reports.run_facts import by_method, span

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.results.cells import CellResult
    from bench.store.store import Store
    from bench.tables import Float32

_MOST_DOTS = 400
_OFFSET = 0.17  # of each of the two strips of a row from its middle


@dataclass(frozen=True)
class Nearness:
    """One row's distances to the nearest train image, divided by the median of the held-out images of the same cell.

    Attributes:
        all_train: `float32 [n]`, the distance of every synthetic image.
        without_parents: the same to the nearest train image that is not its parent.
        copies: share of images that are nearer than 95 % of the held-out images, with and without parents.
    """

    all_train: Float32
    without_parents: Float32
    copies: tuple[float, float]

    @property
    def has_parents(self) -> bool:
        """Whether the nearest train image of some image is one that it was made from."""
        return not np.array_equal(self.all_train, self.without_parents, equal_nan=True)


def nearest_images(results: list[CellResult], store: Store, looks: Looks, dots: bool = True) -> Drawing | Omitted:
    """Describe distances to the nearest train image: a line for each method, and one for held-out images on top.

    Without `dots` only medians and quartiles are drawn, and nothing about a single image.
    """
    title = "Nearest train image"
    measured = [r for r in results if (r.fidelity or {}).get("nearest_ratio") is not None]
    if not measured:
        return Omitted(title, "no finished method has made images")
    rows = {label: _nearness(members, store) for label, members in by_method(measured).items()}
    first = _relative(measured[0], store)
    held_out, weights = first["held_out"], first["held_out_weights"]
    extractor = (measured[0].fidelity or {})["metric_id"]

    def draw(theme: Theme) -> Figure:
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8.6, 1.2 + 0.46 * (len(rows) + 1)), layout="constrained")
        ax = figure.subplots()
        handles = _draw_rows(ax, rows, (held_out, weights), looks, theme, dots)
        ax.set_xlabel("feature distance to the nearest train image (median of held-out images = 1)")
        legend_below(figure, list(handles.values()), list(handles))
        return figure

    sizes = span(len(n.all_train) for n in rows.values())
    return Drawing(
        name=slug(measured[0].cell.dataset.label, "nearest-train-image"),
        title=title,
        caption=f"{'Distance' if dots else 'Median and quartiles of the distance'} of the synthetic images (n = "
        f"{sizes} for each method, all seeds) to their nearest train image, and to the nearest one that is not of "
        f"a parent's patient. The line on top shows {len(held_out)} held-out images that have one of the classes and "
        "are not in train; each class has the same weight in it as among the synthetic images. Distances are "
        f"between features of {extractor}. On the right is the share of copies: images that are nearer than all but 5 "
        "% of the held-out images (5 % by chance), with and without the patients of the parents. Look for rows to "
        "the left of the band. Methods that mix train images are near to the parents by construction; a row that is "
        "near without its parents too shows what train already has.",
        alt=f"Distances to the nearest train image for {len(rows)} methods and for held-out real images.",
        draw=draw,
    )


def _relative(result: CellResult, store: Store) -> dict[str, Float32]:
    """Return a cell's distances divided by the median of its held-out images, and the weights of the latter."""
    folder = store.folder(result.cell.fidelity)
    names = ("synthetic", "without_parents", "held_out", "held_out_weights")
    raw = {name: np.load(folder / f"nearest_{name}.npy") for name in names}
    weights = raw.pop("held_out_weights")
    (median,) = weighted_quantiles(raw["held_out"], weights, [0.5]) or [np.nan]
    return {"held_out_weights": weights} | {name: distances / median for name, distances in raw.items()}


def _nearness(members: list[CellResult], store: Store) -> Nearness:
    found = [_relative(r, store) for r in members]
    shares = []
    for column in ("copies_share", "copies_share_without_parents"):
        values = [v for r in members if (v := (r.fidelity or {}).get(column)) is not None]
        shares.append(float(np.mean(values)) if values else float("nan"))
    return Nearness(
        np.concatenate([f["synthetic"] for f in found]),
        np.concatenate([f["without_parents"] for f in found]),
        (shares[0], shares[1]),
    )


def _draw_rows(
    ax: Axes,
    rows: dict[str, Nearness],
    held_out: tuple[Float32, Float32],
    looks: Looks,
    theme: Theme,
    dots: bool,
) -> dict[str, Any]:
    """Draw all strips, the first row on top; return the legend's handles."""
    from matplotlib.lines import Line2D

    low, high = weighted_quantiles(*held_out, [0.05, 0.95]) or (np.nan, np.nan)
    band = ax.axvspan(low, high, color=theme.muted, alpha=0.16, lw=0, zorder=0)
    ax.axvline(1, color=theme.muted, lw=1, ls=(0, (4, 3)), zorder=1)
    most = _MOST_DOTS if dots else 0
    _strip(ax, held_out[0], 0.0, theme.ink, True, theme, held_out[1], most)
    for y, (label, found) in enumerate(rows.items(), start=1):
        colour, parents = looks.colour[label], found.has_parents
        _strip(ax, found.all_train, y - _OFFSET * parents, colour, True, theme, most=most)
        if parents:
            _strip(ax, found.without_parents, y + _OFFSET, colour, False, theme, most=most)
        share = f"{100 * found.copies[0]:.0f} %" + (f" / {100 * found.copies[1]:.0f} %" if parents else "")
        _beside(ax, y, share, theme)
    _beside(ax, 0, "copies\n(chance 5 %)", theme)
    ax.set_yticks(range(len(rows) + 1), ["held-out real", *rows])
    ax.set_ylim(len(rows) + 0.6, -0.6)
    ax.set_xlim(left=min(0.0, ax.get_xlim()[0]))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.spines["left"].set_visible(False)
    marks: dict[str, Any] = {"nearest train image": Line2D([], [], **_look(theme.ink, True))}
    if any(found.has_parents for found in rows.values()):
        marks["nearest one that is not of a parent's patient"] = Line2D([], [], **_look(theme.ink, False))
    return marks | ({"held-out real images, 5 to 95 %": band} if np.isfinite([low, high]).all() else {})


def _strip(
    ax: Axes,
    distances: Float32,
    y: float,
    colour: str,
    filled: bool,
    theme: Theme,
    weights: Float32 | None = None,
    most: int = _MOST_DOTS,
) -> None:
    """Draw up to `most` images as dots, the quartiles as a bar and the median as a mark."""
    known = ~np.isnan(distances)
    there = distances[known]
    if not len(there):
        return
    draw = np.random.default_rng(0)
    shown = draw.choice(there, most, replace=False) if len(there) > most else there
    heights = y + draw.uniform(-0.09, 0.09, len(shown))
    ax.plot(shown, heights, alpha=0.5, rasterized=True, zorder=2, **_look(colour, filled))
    counts = (np.ones(len(distances)) if weights is None else weights)[known]
    quarter, median, three = weighted_quantiles(there, counts, [0.25, 0.5, 0.75]) or []
    ax.plot([quarter, three], [y, y], color=theme.ink, lw=1.6, solid_capstyle="butt", zorder=3)
    if most:
        ax.plot([median], [y], marker="|", ms=9, mew=2, color=theme.ink, zorder=4)
    else:  # without dots, the marks of the legend are at the medians
        ax.plot(
            [median],
            [y],
            zorder=4,
            **_look(colour, filled) | {"ms": 7, "mew": 1.2, "mfc": colour if filled else theme.paper},
        )


def _look(colour: str, filled: bool) -> dict[str, Any]:
    fill = {"mfc": colour, "mew": 0} if filled else {"mfc": "none", "mew": 0.6}
    return {"ls": "none", "marker": "o", "ms": 2.6, "mec": colour, **fill}


def _beside(ax: Axes, y: float, text: str, theme: Theme) -> None:
    ax.annotate(
        text,
        xy=(1.01, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=8.5,
        color=theme.ink,
        annotation_clip=False,
    )
