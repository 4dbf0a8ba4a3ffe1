"""Grids of tiles (`bench.results.tiles`) with names of rows and columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from reports.figures.style import CSS_DPI, DENSITY, two_lines

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from bench.tables import UInt8

_GAP = 4  # pixels between tiles
_LABELS_IN = 1.55  # inches for names, left of the tiles


def canvas(columns: list[int], n_rows: int, px: int) -> tuple[Figure, list[Axes]]:
    """Return a figure with one axes for each block of `columns` tiles of `px` pixels; each pixel is drawn once."""
    from matplotlib.figure import Figure

    step = (px + _GAP) / DENSITY / CSS_DPI
    space, top, edge = 0.25, 0.42, 0.06  # inches
    width = _LABELS_IN + sum(columns) * step + space * (len(columns) - 1) + edge
    height = top + n_rows * step + edge
    figure = Figure(figsize=(width, height))
    left, axes = _LABELS_IN, []
    for n in columns:
        place: Any = (left / width, edge / height, n * step / width, n_rows * step / height)
        axes.append(figure.add_axes(place))
        left += n * step + space
    return figure, axes


def mosaic(
    ax: Axes,
    tiles: list[list[UInt8]],
    n_columns: int,
    px: int,
    rows: list[str] | None = None,
    columns: list[str] | None = None,
) -> None:
    """Show a grid of tiles as one image, with names of rows on the left and names of columns on top."""
    step = px + _GAP
    image = np.zeros((len(tiles) * step, n_columns * step, 4), dtype=np.uint8)  # gaps and missing tiles are transparent
    for r, line in enumerate(tiles):
        for c, tile in enumerate(line):
            place = image[r * step : r * step + px, c * step : c * step + px]
            place[..., :3], place[..., 3] = tile, 255
    ax.imshow(image, aspect="auto", interpolation="antialiased")
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    ax.set_yticks([r * step + px / 2 for r in range(len(rows or []))], [two_lines(name) for name in rows or []])
    ax.set_xticks([c * step + px / 2 for c in range(len(columns or []))], [two_lines(c, 11) for c in columns or []])
    ax.tick_params(length=0, labelsize=8.5, top=False, labeltop=True, bottom=False, labelbottom=False, pad=4)
