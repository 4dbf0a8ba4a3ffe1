"""Images as tiles of one size, and grids of tiles with names of rows and columns."""

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
ANCHOR_RGB, PARTNER_RGB = (230, 159, 0), (0, 114, 178)  # Okabe & Ito's orange and blue


def _resized(image: np.ndarray, px: int, smooth: bool = True) -> np.ndarray:
    from PIL import Image

    method = Image.Resampling.LANCZOS if smooth else Image.Resampling.NEAREST
    return np.asarray(Image.fromarray(np.ascontiguousarray(image)).resize((px, px), method))


def _plane(values: np.ndarray) -> np.ndarray:
    """Return a map in [0, 1] as `uint8 [h, w]` without leading axes of length 1."""
    flat = np.asarray(values, dtype=np.float32).reshape(values.shape[-2:])
    return (np.clip(np.nan_to_num(flat), 0, 1) * 255).astype(np.uint8)


def grey(image: np.ndarray, px: int) -> UInt8:
    """Return a grey image as a tile, `uint8 [px, px, 3]`."""
    return np.repeat(_resized(image, px)[..., None], 3, axis=2)


def overlay(image: np.ndarray, cam: np.ndarray, px: int) -> UInt8:
    """Return a grey image below a map that is more opaque where it is stronger, `uint8 [px, px, 3]`."""
    import matplotlib

    heat = _resized(_plane(cam), px).astype(np.float32) / 255
    colour = matplotlib.colormaps["inferno"](0.35 + 0.6 * heat)[..., :3] * 255
    weight = 0.75 * heat[..., None]
    return (grey(image, px) * (1 - weight) + colour * weight).astype(np.uint8)


def two_colours(mask: np.ndarray, px: int) -> UInt8:
    """Return a mask as a tile: orange where it is 1, blue where it is 0, `uint8 [px, px, 3]`."""
    share = _resized(_plane(mask), px, smooth=False).astype(np.float32)[..., None] / 255
    return (share * np.array(ANCHOR_RGB) + (1 - share) * np.array(PARTNER_RGB)).astype(np.uint8)


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
