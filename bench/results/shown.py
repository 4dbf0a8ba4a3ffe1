"""Pick what a tracker shows of a finished cell beside its numbers: precision-recall curves, and how images were fused.

    <store>/cells/<matrix>/<data set>__<method>__s<seed>/shown.npz    beside the record

It is written before a cell is sent, and only if its images may leave. Whether they do is decided again when it is read
(`bench.privacy.border`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from bench.errors import StoreError
from bench.metrics.precision_recall import precisions, recalls
from bench.privacy.media import Medium, Picture, Table, key_of, write_media
from bench.results.cells import CellResult
from bench.results.pictures import Pictures, fused_tiles, is_fused, load_pictures
from bench.results.tiles import tile
from bench.store.store import Store
from bench.tables import Float32, ImageTable

_N_RECALLS = 50
_MOST_POINTS = 10_000  # W&B cuts longer tables off without a word
_EACH, _MOST_ROWS, _LARGEST_TILE = 2, 20, 128  # samples of a class, rows, and pixels of a tile


def write_shown(store: Store, result: CellResult, folder: Path) -> None:
    """Write what is shown of a finished cell into the folder of its record, unless it is there.

    What is there stays: it may have been sent in part, and the rest has to fit.

    Raises:
        OSError: if it cannot be written.
        StoreError: if the store's results of the cell cannot be read.
    """
    if key_of(folder) != result.cell.key:
        write_media(folder, result.cell.key, _picked(store, result))


def _picked(store: Store, result: CellResult) -> dict[str, Medium]:
    found = {"pr_curves": _curves(store, result), "fusion_pairs": _pairs(store, result)}
    return {name: table for name, table in found.items() if table is not None and table.rows}


def _curves(store: Store, result: CellResult) -> Table | None:
    """Return the precision of each class at fixed recalls on test; None if the store lacks something of it."""
    cell = result.cell
    if not all(store.has(stage) for stage in (cell.dataset, cell.split, cell.scores)):
        return None
    table: ImageTable = store.open(cell.dataset)
    labels = table.labels[store.open(cell.split)["test"]]
    at = recalls(min(_N_RECALLS, _MOST_POINTS // len(table.class_names)))
    found = precisions(_logits(store.folder(cell.scores), labels.shape), labels, at)
    prevalence = (labels == 1).sum(axis=0) / np.maximum((~np.isnan(labels)).sum(axis=0), 1)
    rows = [
        [name, float(recall), float(precision), float(no_skill)]
        for name, curve, no_skill in zip(table.class_names, found, prevalence, strict=True)
        if curve is not None
        for recall, precision in zip(at, curve, strict=True)
    ]
    return Table(("class", "recall", "precision", "no_skill"), rows)


def _logits(folder: Path, shape: tuple[int, ...]) -> Float32:
    try:
        found: Float32 = np.load(folder / "logits.npy", allow_pickle=False)
        if found.shape != shape:
            raise ValueError(f"it holds {found.shape}, want {shape}")
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{folder} is damaged (logits.npy: {error}); delete it to compute it anew") from error
    return found


def _pairs(store: Store, result: CellResult) -> Table | None:
    """Return how the first images of each class were fused; None unless both parents, maps and masks were stored."""
    pictures = load_pictures(result, store)
    if pictures is None or not is_fused(pictures.augmented):
        return None
    classes = pictures.shown_classes
    each = _EACH if _EACH * len(classes) <= _MOST_ROWS else 1
    shown = [(name, int(i)) for name in classes for i in pictures.made_for(name, each)][:_MOST_ROWS]
    labelled = result.cell.classifier.labelled
    labels = store.open(labelled) if labelled and store.has(labelled) else pictures.augmented.labels
    rows = [_pair(pictures, name, i, labels[i]) for name, i in shown]
    return Table(("class", "anchor", "anchor map", "mask", "partner map", "partner", "result", "labels"), rows)


def _pair(pictures: Pictures, name: str, sample: int, labels: Float32) -> list[object]:
    px = min(_LARGEST_TILE, pictures.table.image_px)
    tiles = fused_tiles(pictures, sample, px) | {"result": tile(pictures.augmented.images[sample], px)}
    without = () if pictures.augmented.extras["partner_cam"][sample].any() else ("partner map",)  # not all look at it
    said = [
        label if share == 1 else f"{label} {share:.2f}"
        for label, share in zip(pictures.table.class_names, labels.tolist(), strict=True)
        if share > 0
    ]
    shown = [None if column in without else Picture(tile) for column, tile in tiles.items()]
    return [name, *shown, ", ".join(said)]
