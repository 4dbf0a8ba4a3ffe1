"""Figures made of images: real beside synthetic for every tail class, and how fused images came about."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from reports.figures import tiles
from reports.figures.style import Drawing, Omitted, Theme, slug
from reports.run_facts import span

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from bench.results.cells import CellResult
    from bench.store.store import Store
    from bench.tables import AugmentedSet, ImageTable, UInt8

N_REAL, N_SYNTHETIC = 4, 8
_GRID_TILE, _STRIP_TILE = 132, 180  # side of an image in pixels, two of them a CSS pixel on the page
FUSED_EXTRAS = ("anchor_cam", "mask", "partner_cam")


@dataclass(frozen=True)
class Pictures:
    """The images of one cell: the data set's table, its train rows, the synthetic set."""

    label: str
    seed: int
    table: ImageTable
    train_rows: np.ndarray
    augmented: AugmentedSet

    def made_for(self, name: str, n: int) -> np.ndarray:
        """Return the first `n` samples made for a class (their order is random already)."""
        return np.flatnonzero(self.augmented.target_class == self.table.class_names.index(name))[:n]

    def real_of(self, name: str, n: int) -> UInt8:
        """Return `n` train images having the class, evenly spaced, so that they are not one patient's."""
        labels = self.table.labels[self.train_rows, self.table.class_names.index(name)]
        rows = self.train_rows[labels == 1]
        return np.array(self.table.images[np.sort(rows[_evenly(len(rows), n)])])

    def parent(self, sample: int, which: int) -> UInt8:
        """Return a parent's image."""
        return np.array(self.table.images[self.train_rows[self.augmented.parents[sample, which]]])

    @property
    def shown_classes(self) -> list[str]:
        """Tail classes, or whatever classes images were made for."""
        made = {self.table.class_names[c] for c in np.unique(self.augmented.target_class)}
        return [c for c in (*self.table.tail, *sorted(made - set(self.table.tail))) if c in made]


def _evenly(length: int, n: int) -> np.ndarray:
    return np.unique(np.linspace(0, length - 1, min(n, length)).astype(int)) if length else np.zeros(0, dtype=int)


def load_pictures(result: CellResult, store: Store) -> Pictures | None:
    """Return the images behind a cell, or None where the store lacks any part or nothing was made."""
    cell = result.cell
    if not all(store.has(stage) for stage in (cell.dataset, cell.split, cell.augmented)):
        return None
    augmented = cell.augmented.open(store.folder(cell.augmented))
    if not len(augmented):
        return None
    rows = cell.split.open(store.folder(cell.split))["train"]
    table = cell.dataset.open(store.folder(cell.dataset))
    return Pictures(cell.label, cell.seed, table, rows, augmented)


def sample_grid(result: CellResult, store: Store) -> Drawing | Omitted:
    """Describe a grid: a row a tail class, real train images left, the method's images right."""
    method = result.cell.label
    title = f"Samples: {method}"
    pictures = load_pictures(result, store)
    if pictures is None:
        return Omitted(title, result.skip or "no synthetic images in the store")
    names = pictures.shown_classes
    real = [[tiles.grey(image, _GRID_TILE) for image in pictures.real_of(c, N_REAL)] for c in names]
    made = [
        [tiles.grey(pictures.augmented.images[i], _GRID_TILE) for i in pictures.made_for(c, N_SYNTHETIC)] for c in names
    ]

    def draw(theme: Theme) -> Figure:
        figure, axes = tiles.canvas([N_REAL, N_SYNTHETIC], len(names), _GRID_TILE)
        tiles.mosaic(axes[0], real, N_REAL, _GRID_TILE, rows=names)
        tiles.mosaic(axes[1], made, N_SYNTHETIC, _GRID_TILE)
        axes[0].set_title("real (train)", color=theme.muted)
        axes[1].set_title(f"synthetic: {method}", color=theme.ink, fontweight="bold")
        return figure

    n_made = span(len(pictures.made_for(c, len(pictures.augmented))) for c in names)
    return Drawing(
        name=slug(result.cell.dataset.label, "samples", method),
        title=title,
        caption=f"Left: {N_REAL} train images having the class, evenly spaced. Right: the first {N_SYNTHETIC} of "
        f"{n_made} images made for it by {method} (seed {pictures.seed}, not picked). Look for: is the finding "
        "of the row there, is the anatomy intact, do images repeat.",
        alt=f"Grid of chest images, a row a class ({', '.join(names)}): real ones left, images made by {method} right.",
        draw=draw,
        photographic=True,
    )


def fusion_strips(results: list[CellResult], store: Store) -> list[Drawing]:
    """Describe how fused images came about, for sets that stored both parents, their maps and the mask.

    Sets that fused the same pairs (variants of one method) share a figure, one last column each.
    """
    groups: list[list[Pictures]] = []
    for result in results:
        pictures = load_pictures(result, store)
        if pictures is None or not _is_fused(pictures.augmented):
            continue
        same = next((g for g in groups if _same_pairs(g[0], pictures)), None)
        if same is None:
            groups.append([pictures])
        elif pictures.label not in {p.label for p in same}:
            same.append(pictures)
    first_of: dict[tuple[str, ...], list[Pictures]] = {}
    for group in groups:  # other seeds show the same thing again: one figure a set of methods
        first_of.setdefault(tuple(p.label for p in group), group)
    return [_strip(group, results[0].cell.dataset.label) for group in first_of.values()]


def _is_fused(augmented: AugmentedSet) -> bool:
    parents = augmented.parents
    has_maps = all(name in augmented.extras for name in FUSED_EXTRAS)
    return has_maps and parents.shape[1] >= 2 and bool((parents >= 0).all())


def _same_pairs(a: Pictures, b: Pictures) -> bool:
    same_parents = np.array_equal(a.augmented.parents, b.augmented.parents)
    return same_parents and np.array_equal(a.augmented.extras["mask"], b.augmented.extras["mask"])


def _strip(group: list[Pictures], dataset: str) -> Drawing:
    first = group[0]
    names = first.shown_classes
    columns = ["anchor", "anchor CAM", "mask", "partner CAM", "partner", *(p.label for p in group)]
    shown = [_strip_row(group, int(first.made_for(name, 1)[0])) for name in names]
    makers = ", ".join(p.label for p in group)

    def draw(theme: Theme) -> Figure:
        figure, axes = tiles.canvas([len(columns)], len(names), _STRIP_TILE)
        tiles.mosaic(axes[0], shown, len(columns), _STRIP_TILE, rows=names, columns=columns)
        return figure

    return Drawing(
        name=slug(dataset, "fusion", first.label),
        title=f"How a fused image came about: {makers}",
        caption="The first sample made for each class. Anchor: a train image having the class; partner: one without "
        "tail classes; CAM: where the classifier of the code looks (bright = strongly). Mask: orange is taken from "
        f"the anchor, blue from the partner. Last: the result ({makers}; seed {first.seed}). Look for: does the "
        "anchor's map cover the finding, and does the finding survive in the result.",
        alt=f"For {', '.join(names)}: anchor, its map, the mask, the partner's map, the partner, and the fused image.",
        draw=draw,
        photographic=True,
    )


def _strip_row(group: list[Pictures], sample: int) -> list[UInt8]:
    first = group[0]
    extras = first.augmented.extras
    anchor, partner = first.parent(sample, 0), first.parent(sample, 1)
    return [
        tiles.grey(anchor, _STRIP_TILE),
        tiles.overlay(anchor, extras["anchor_cam"][sample], _STRIP_TILE),
        tiles.two_colours(extras["mask"][sample], _STRIP_TILE),
        tiles.overlay(partner, extras["partner_cam"][sample], _STRIP_TILE),
        tiles.grey(partner, _STRIP_TILE),
        *(tiles.grey(p.augmented.images[sample], _STRIP_TILE) for p in group),
    ]
