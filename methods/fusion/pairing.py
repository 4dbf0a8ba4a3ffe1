"""Neighbours: for every anchor's map, the nearest maps among images with no tail class (paper, section 3.3)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import Field

from bench.contract import Settings, Stage, TrainSet, train_set
from bench.types import Float32, Int64
from methods.fusion.saliency import Saliency, SaliencyTable

if TYPE_CHECKING:
    from collections.abc import Callable

_QUERIES_AT_ONCE = 1024


class PairingSettings(Settings):
    """How partners are found."""

    k_neighbors: int = Field(3, ge=1, le=1000, description="nearest maps that a partner is drawn from")


@dataclass(frozen=True)
class PairTable:
    """Possible partners of every anchor map. Every number here is a row of the train split, never of a subset.

    Attributes:
        anchors: `int64 [m]`, train row of each anchor map, ascending.
        classes: `int64 [m]`, the tail class that the map is of.
        partners: `int64 [m, k]`, train rows, nearest first; k is smaller where there are fewer candidates.
        distances: `float32 [m, k]`, Euclidean, between the maps.
    """

    anchors: Int64
    classes: Int64
    partners: Int64
    distances: Float32

    def of(self, row: int, target_class: int) -> Int64:
        """Return the possible partners of an anchor for a class, `int64 [k]`; of its only map if that is another's."""
        found = np.arange(*np.searchsorted(self.anchors, [row, row + 1]))
        return self.partners[found[np.argmax(self.classes[found] == target_class)]]


class Pairs(Stage):
    """The nearest head-only images of every anchor, by their maps."""

    saliency: Saliency
    settings: PairingSettings = PairingSettings()

    def compute(self, work: Any) -> None:
        """Write `anchors`, `classes`, `partners`, `distances` as npy and `pairs.json`."""
        train = train_set(work, self.saliency.codec.train)
        table = pair(train, work.get(self.saliency), self.settings.k_neighbors, work.progress)
        for name in ("anchors", "classes", "partners", "distances"):
            np.save(work.out / f"{name}.npy", getattr(table, name))
        record = {
            "anchor_maps": len(table.anchors),
            "candidates": int(head_only(train).sum()),
            "distinct_partners": len(np.unique(table.partners)),
            "mean_distance": float(table.distances.mean()) if table.distances.size else None,
        }
        (work.out / "pairs.json").write_text(json.dumps(record, indent=1), encoding="utf-8")

    def open(self, folder: Path) -> PairTable:
        """Return the table."""
        return PairTable(*(np.load(folder / f"{name}.npy") for name in ("anchors", "classes", "partners", "distances")))


def head_only(train: TrainSet) -> np.ndarray:
    """Return `bool [n]`: the rows with no observed tail class, the candidates for a partner."""
    return ~(train.labels[:, train.tail_index] == 1).any(axis=1)


def pair(
    train: TrainSet,
    saliency: SaliencyTable,
    k: int,
    progress: Callable[[float, float, str], None] = lambda done, total, note: None,
) -> PairTable:
    """Return the k nearest candidates of every anchor map (all of them where there are fewer than k)."""
    from sklearn.neighbors import NearestNeighbors

    candidate = head_only(train)[saliency.rows]
    candidate_rows, anchor_at = saliency.rows[candidate], np.flatnonzero(~candidate)
    k = min(k, len(candidate_rows))
    partners = np.empty((len(anchor_at), k), dtype=np.int64)
    distances = np.empty((len(anchor_at), k), dtype=np.float32)
    if k and len(anchor_at):
        search = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(_flat(saliency.cams[candidate]))
        for start in range(0, len(anchor_at), _QUERIES_AT_ONCE):
            part = slice(start, start + _QUERIES_AT_ONCE)
            distances[part], found = search.kneighbors(_flat(saliency.cams[anchor_at[part]]))
            partners[part] = candidate_rows[found]  # positions among the candidates become train rows here, once
            progress(min(part.stop, len(anchor_at)), len(anchor_at), "neighbours")
    return PairTable(saliency.rows[anchor_at], saliency.classes[anchor_at], partners, distances)


def _flat(cams: Float32) -> Float32:
    return cams.reshape(len(cams), -1)
