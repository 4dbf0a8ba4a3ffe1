"""Pairing: for every map of an anchor, the nearest images without a tail class (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bench.contract import (
    Float32,
    Int64,
    Resources,
    Settings,
    Stage,
    TrainSet,
    Work,
    seeds,
    train_set,
    write_strict_json,
)
from bench.metrics.neighbours import nearest
from methods.fusion.saliency import Saliency, SaliencyTable, codec_latents

IndexSpace = Literal["global", "released"]
Vectors = Callable[[Int64], Float32]  # Entries of a saliency table → the vectors to compare, [len(entries), d].

_AT_ONCE = 512  # Vectors in memory on either side. At paper scale a single code has a megabyte.
_BATCH = 64  # Fixed, so that a code does not depend on the machine.


class PairingSettings(Settings):
    """How partners are found."""

    by: Literal["cam", "code", "latent", "random"] = Field(
        "cam", description="Euclidean distance between maps (the paper), codes or latents; random: any head-only image"
    )
    k_neighbors: int = Field(3, ge=1, le=1000, description="number of nearest images that a partner is drawn from")


@dataclass(frozen=True)
class PairTable:
    """The possible partners of every anchor map. Anchors and partners are used as train rows.

    Attributes:
        anchors: `int64 [m]`, the train row of each anchor map, ascending.
        classes: `int64 [m]`, the tail class of each map.
        partners: `int64 [m, k]`, train rows, nearest first; k is smaller if there are fewer candidates.
        distances: `float32 [m, k]`, Euclidean distances between the compared vectors (for random: between maps).
    """

    anchors: Int64
    classes: Int64
    partners: Int64
    distances: Float32

    def of(self, row: int, target_class: int) -> Int64:
        """Return the possible partners of an anchor for a class, `int64 [k]`.

        If the anchor has no map for the class, those of its first map are returned.
        """
        found = np.arange(*np.searchsorted(self.anchors, [row, row + 1]))
        return self.partners[found[np.argmax(self.classes[found] == target_class)]]


class Pairs(Stage):
    """The nearest head-only images of every anchor.

    The search runs over a subset of the train split, so it finds positions in the subset. `index_space` says what
    happens to them, here and in `Fused`. With `global` they are translated back to train rows. With `released` they
    are not, as in the paper's released code: a position among the head-only images is used as a train row. The partner
    is then another image than the neighbour, and may even have a tail class.
    """

    resources: ClassVar[Resources] = Resources(gpu=True)

    saliency: Saliency
    settings: PairingSettings = PairingSettings()
    index_space: IndexSpace = "global"

    def compute(self, work: Work) -> None:
        """Write `anchors`, `classes`, `partners`, `distances` as npy and `pairs.json`."""
        train, saliency = train_set(work, self.saliency.codec.train), work.get(self.saliency)
        seed = seeds.derive(self.saliency.codec.seed, "pairs")
        vectors = self._vectors(work, saliency)
        table = pair(train, saliency, self.settings, self.index_space, vectors, seed, work.progress)
        for name in ("anchors", "classes", "partners", "distances"):
            np.save(work.out / f"{name}.npy", getattr(table, name))
        candidate = head_only(train)
        record = {
            "anchor_maps": len(table.anchors),
            "candidates": int(candidate.sum()),
            "distinct_partners": len(np.unique(table.partners)),
            "partners_head_only": float(candidate[table.partners].mean()) if table.partners.size else None,
            "mean_distance": float(table.distances.mean()) if table.distances.size else None,
        }
        write_strict_json(work.out / "pairs.json", record)

    def open(self, folder: Path) -> PairTable:
        """Return the table."""
        return PairTable(*(np.load(folder / f"{name}.npy") for name in ("anchors", "classes", "partners", "distances")))

    def _vectors(self, work: Work, saliency: SaliencyTable) -> Vectors | None:
        """Return the function that gives the vectors to compare, or None to compare the maps themselves."""
        codec = self.saliency.codec
        if self.settings.by == "latent":
            return lambda entries: _flat(codec_latents(work, codec, saliency.rows[entries]))
        if self.settings.by != "code":
            return None
        import torch

        networks = work.get(codec).load(work.device, self.saliency.checkpoint)

        def codes(entries: Int64) -> Float32:
            with torch.inference_mode():
                encoded = [
                    networks.encode(torch.from_numpy(codec_latents(work, codec, rows)).to(work.device)).cpu().numpy()
                    for rows in _parts(saliency.rows[entries], _BATCH)
                ]
            return _flat(np.concatenate(encoded))

        return codes


def head_only(train: TrainSet) -> npt.NDArray[np.bool_]:
    """Return `bool [n]`, True for train rows without an observed tail class: the candidates for a partner."""
    return ~(train.labels[:, train.tail_index] == 1).any(axis=1)


def pair(
    train: TrainSet,
    saliency: SaliencyTable,
    settings: PairingSettings,
    index_space: IndexSpace = "global",
    vectors: Vectors | None = None,
    seed: int = 0,
    progress: Callable[[float, float, str], None] = lambda done, total, note: None,
) -> PairTable:
    """Return the k nearest (or k random) candidates of every anchor map, or all candidates if there are fewer.

    Args:
        train: the train split.
        saliency: its maps; every candidate has exactly one.
        settings: the settings of the search.
        index_space: `global` or `released`, see `Pairs`.
        vectors: returns the vectors to compare for entries of `saliency`; None compares the maps.
        seed: seed of random partners.
        progress: called with (done, total, note).
    """
    # Three index spaces: `positions` count within `candidates`, `candidates` and `anchors` are entries of the saliency
    # table, and `saliency.rows` turns entries into train rows. With `released` the positions are not translated.
    candidate = head_only(train)[saliency.rows]
    candidates, anchors = np.flatnonzero(candidate), np.flatnonzero(~candidate)
    k = min(settings.k_neighbors, len(candidates))
    compared: Vectors = vectors or (lambda entries: _flat(saliency.cams[entries]))
    positions = np.empty((len(anchors), k), dtype=np.int64)
    distances = np.empty((len(anchors), k), dtype=np.float32)
    if k and settings.by == "random":
        for i in range(len(anchors)):
            positions[i] = seeds.rng(seed, "partners", i).choice(len(candidates), k, replace=False)
            distances[i] = np.linalg.norm(compared(candidates[positions[i]]) - compared(anchors[i : i + 1]), axis=1)
    elif k:
        for start in range(0, len(anchors), _AT_ONCE):
            part = slice(start, min(start + _AT_ONCE, len(anchors)))
            blocks = (compared(block) for block in _parts(candidates, _AT_ONCE))
            distances[part], positions[part] = nearest(compared(anchors[part]), blocks, k)
            progress(part.stop, len(anchors), "neighbours")
    partners = saliency.rows[candidates[positions]] if index_space == "global" else positions
    return PairTable(saliency.rows[anchors], saliency.classes[anchors], partners, distances)


def _parts(values: Int64, size: int) -> list[Int64]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _flat(arrays: Float32) -> Float32:
    return arrays.reshape(len(arrays), -1)
