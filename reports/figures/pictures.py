"""Figures made of images: real and synthetic images of every tail class, and how fused images were made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.results.pictures import Pictures, fused_tiles, is_fused, load_pictures
from bench.results.tiles import tile
from reports.figures import tiles
from reports.figures.style import Drawing, Omitted, Theme, slug
from reports.run_facts import span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench.results.cells import CellResult
    from bench.store.store import Store
    from bench.tables import UInt8

N_REAL, N_SYNTHETIC = 4, 8
_GRID_TILE, _STRIP_TILE = 132, 180  # side of an image in pixels, two of them a CSS pixel on the page


def sample_grid(result: CellResult, store: Store) -> Drawing | Omitted:
    """Describe a grid with a line for each tail class: real train images on the left, synthetic ones on the right."""
    method = result.cell.label
    title = f"Samples: {method}"
    pictures = load_pictures(result, store)
    if pictures is None:
        return Omitted(title, result.skip or "the store holds no synthetic images")
    names = pictures.shown_classes
    real = [[tile(image, _GRID_TILE) for image in pictures.real_of(c, N_REAL)] for c in names]
    made = [[tile(pictures.augmented.images[i], _GRID_TILE) for i in pictures.made_for(c, N_SYNTHETIC)] for c in names]

    def draw(theme: Theme) -> Figure:
        figure, axes = tiles.canvas([N_REAL, N_SYNTHETIC], len(names), _GRID_TILE)
        tiles.mosaic(axes[0], real, N_REAL, _GRID_TILE, rows=names)
        tiles.mosaic(axes[1], made, N_SYNTHETIC, _GRID_TILE)
        axes[0].set_title("real (train)", color=theme.muted)
        axes[1].set_title(f"synthetic: {method}", color=theme.ink, fontweight="bold")
        return figure

    counts = [len(pictures.made_for(c, len(pictures.augmented))) for c in names]
    which = "all" if max(counts) <= N_SYNTHETIC else f"the first {N_SYNTHETIC} of"
    return Drawing(
        name=slug(result.cell.dataset.label, "samples", method),
        title=title,
        caption=f"On the left are up to {N_REAL} train images that have the class, evenly spaced. On the right are "
        f"{which} {span(counts)} images that {method} made for the class (seed {pictures.seed}; they were not "
        "selected). Look at whether the finding is there, whether the anatomy is intact, and whether images repeat.",
        alt=f"Grid of images with a line for each class ({', '.join(names)}): real images on the left, images "
        f"made by {method} on the right.",
        draw=draw,
        photographic=True,
    )


def fusion_strips(results: list[CellResult], store: Store) -> list[Drawing]:
    """Describe how fused images were made, for methods that stored both parents, their maps and the mask.

    Variants of a method that fused the same pairs share a figure, in which each has one of the last columns.
    """
    groups: list[list[Pictures]] = []
    for result in results:
        pictures = load_pictures(result, store)
        if pictures is None or not is_fused(pictures.augmented):
            continue
        same = next((g for g in groups if _same_pairs(g[0], pictures)), None)
        if same is None:
            groups.append([pictures])
        elif pictures.label not in {p.label for p in same}:
            same.append(pictures)
    first_of: dict[tuple[str, ...], list[Pictures]] = {}
    for group in groups:  # other seeds would show the same again, so each set of methods has one figure
        first_of.setdefault(tuple(p.label for p in group), group)
    return [_strip(group, results[0].cell.dataset.label) for group in first_of.values()]


def _same_pairs(a: Pictures, b: Pictures) -> bool:
    same_parents = np.array_equal(a.augmented.parents, b.augmented.parents)
    return same_parents and np.array_equal(a.augmented.extras["mask"], b.augmented.extras["mask"])


def _strip(group: list[Pictures], dataset: str) -> Drawing:
    first = group[0]
    names = first.shown_classes
    maps_of_partners = bool(first.augmented.extras["partner_cam"].any())  # not every way to fuse looks at them
    columns = [
        "anchor",
        "anchor map",
        "mask",
        *["partner map"] * maps_of_partners,
        "partner",
        *(p.label for p in group),
    ]
    shown = [_strip_row(group, int(first.made_for(name, 1)[0]), maps_of_partners) for name in names]
    makers = ", ".join(p.label for p in group)

    def draw(theme: Theme) -> Figure:
        figure, axes = tiles.canvas([len(columns)], len(names), _STRIP_TILE)
        tiles.mosaic(axes[0], shown, len(columns), _STRIP_TILE, rows=names, columns=columns)
        return figure

    return Drawing(
        name=slug(dataset, "fusion", first.label),
        title=f"How a fused image was made: {makers}",
        caption="The first sample that was made for each class. The anchor is a train image that has the class; the "
        "partner is a train image without tail classes. A map is bright where the method takes the finding to be. In "
        "the mask, orange is taken from the anchor and blue from the partner. The last images are the results "
        f"({makers}; seed {first.seed}). Look at whether the map of the anchor covers the finding, and whether the "
        "finding survives in the result.",
        alt=f"For {', '.join(names)}: {', '.join(columns[: -len(group)])}, and the fused images.",
        draw=draw,
        photographic=True,
    )


def _strip_row(group: list[Pictures], sample: int, maps_of_partners: bool) -> list[UInt8]:
    made_of = fused_tiles(group[0], sample, _STRIP_TILE)
    if not maps_of_partners:
        del made_of["partner map"]
    return [*made_of.values(), *(tile(p.augmented.images[sample], _STRIP_TILE) for p in group)]
