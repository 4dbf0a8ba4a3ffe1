"""Pairing: for every map of an anchor, the nearest images without a tail class (paper, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from bench.contract import (
    NO_CLASS,
    Float32,
    Int64,
    PromptSaliency,
    Resources,
    SaliencyTable,
    Settings,
    Stage,
    TrainSet,
    Work,
    seeds,
    train_set,
    write_strict_json,
)
from bench.metrics.neighbours import nearest
from methods.fusion.codec import Codec
from methods.fusion.saliency import Saliency, batch_size, drawn_latents
from methods.fusion.settings import Checkpoint

IndexSpace = Literal["global", "released"]
Vectors = Callable[[Int64], Float32]  # Entries of a saliency table → the vectors to compare, [len(entries), d].

_AT_ONCE = 512  # Vectors in memory on either side. At paper scale a single code has a megabyte.


class PairingSettings(Settings):
    """How partners are found."""

    by: Literal["cam", "code", "latent", "random"] = Field(
        "cam", description="Euclidean distance between maps (the paper), codes or latents; random: any head-only image"
    )
    match: Literal["none", "head_labels"] = Field(
        "none",
        description="head_labels: first the images whose head labels differ least from the anchor's, then the nearest "
        "of these; so findings occur together as in real images; an unknown label counts as absent",
    )
    k_neighbors: int = Field(3, ge=1, le=1000, description="number of nearest images that a partner is drawn from")


@dataclass(frozen=True)
class PairTable:
    """The possible partners of every anchor map. Anchors and partners are used as train rows.

    Attributes:
        anchors: `int64 [m]`, the train row of each anchor map, ascending.
        classes: `int64 [m]`, the tail class of each map.
        partners: `int64 [m, k]`, train rows, nearest first; k is smaller if there are fewer candidates.
        distances: `float32 [m, k]`, Euclidean distances between the compared vectors (for random: between maps, or NaN
            if partners have none).
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

    saliency: Saliency | PromptSaliency
    settings: PairingSettings = PairingSettings()
    index_space: IndexSpace = "global"
    codec: Codec | None = None  # Only for a search by codes.
    checkpoint: Checkpoint = "last"

    @property
    def resources(self) -> Resources:  # type: ignore[override]
        """A GPU only to encode: maps and latents are compared on the CPU."""
        return Resources(gpu=self.settings.by == "code")

    def compute(self, work: Work) -> None:
        """Write `anchors`, `classes`, `partners`, `distances` as npy and `pairs.json`."""
        train, saliency = train_set(work, self.saliency.train), work.get(self.saliency)
        seed = seeds.derive(self.saliency.seed, "pairs")
        vectors = self._vectors(work, saliency)
        table = pair(train, saliency, self.settings, self.index_space, vectors, seed, work.progress)
        for name in ("anchors", "classes", "partners", "distances"):
            np.save(work.out / f"{name}.npy", getattr(table, name))
        candidate = train.without_tail
        apart = head_labels_apart(train, table.anchors, table.partners)
        record = {
            "anchor_maps": len(table.anchors),
            "candidates": int(candidate.sum()),
            "distinct_partners": len(np.unique(table.partners)),
            "partners_head_only": float(candidate[table.partners].mean()) if table.partners.size else None,
            "mean_distance": None
            if np.isnan(table.distances).any() or not table.distances.size
            else float(table.distances.mean()),
            "head_labels_apart": float(apart.mean()) if apart.size else None,
        }
        write_strict_json(work.out / "pairs.json", record)

    def open(self, folder: Path) -> PairTable:
        """Return the table."""
        return PairTable(*(np.load(folder / f"{name}.npy") for name in ("anchors", "classes", "partners", "distances")))

    def _vectors(self, work: Work, saliency: SaliencyTable) -> Vectors | None:
        """Return the function that gives the vectors to compare, or None to compare the maps themselves."""
        latents, seed = self.saliency.latents, self.saliency.seed
        if self.settings.by == "latent":
            return lambda entries: _flat(drawn_latents(work, latents, saliency.rows[entries], seed))
        if self.settings.by != "code":
            return None
        if self.codec is None:
            raise TypeError("a search by codes needs a codec")
        import torch

        networks = work.get(self.codec).load(work.device, self.checkpoint)
        size = batch_size(work.get(latents).shape)

        def codes(entries: Int64) -> Float32:
            with torch.inference_mode():
                encoded = [
                    networks.encode(torch.from_numpy(drawn_latents(work, latents, rows, seed)).to(work.device))
                    .cpu()
                    .numpy()
                    for rows in _parts(saliency.rows[entries], size)
                ]
            return _flat(np.concatenate(encoded))

        return codes


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
    candidate = train.without_tail[saliency.rows]
    candidates, anchors = np.flatnonzero(candidate), np.flatnonzero(~candidate)
    k = min(settings.k_neighbors, len(candidates))
    compared: Vectors = vectors or (lambda entries: _flat(saliency.cams[entries]))
    told_apart = vectors is not None or (saliency.classes[candidates] != NO_CLASS).any()
    positions = np.empty((len(anchors), k), dtype=np.int64)
    distances = np.empty((len(anchors), k), dtype=np.float32)
    done = 0
    for group, levels in _levels(train, saliency.rows[anchors], saliency.rows[candidates], settings.match):
        filled = 0
        for level in levels:
            if not (take := min(k - filled, len(level))):
                break
            columns = slice(filled, filled + take)
            if settings.by == "random":
                found = _random(group, level, take, seed, filled)
                apart = _apart(compared, anchors[group], candidates[found]) if told_apart else np.nan
            else:
                apart, found = _nearest(compared, anchors[group], candidates[level], take)
                found = level[found]
            positions[group, columns], distances[group, columns] = found, apart
            filled += take
        done += len(group)
        progress(done, len(anchors), "neighbours")
    partners = saliency.rows[candidates[positions]] if index_space == "global" else positions
    return PairTable(saliency.rows[anchors], saliency.classes[anchors], partners, distances)


def head_labels_apart(train: TrainSet, anchors: Int64, partners: Int64) -> Float32:
    """Return in how many head labels each anchor `[m]` and each of its partners `[m, k]` differ, `float32 [m, k]`.

    An unknown label counts as absent.
    """
    labels = _head_labels(train)
    return np.abs(labels[partners] - labels[anchors][:, None]).sum(axis=2, dtype=np.float32)


def _head_labels(train: TrainSet) -> Float32:
    return np.nan_to_num(train.labels[:, train.head_index]).astype(np.float32)


def _levels(train: TrainSet, anchors: Int64, candidates: Int64, match: str) -> Iterator[tuple[Int64, list[Int64]]]:
    """Yield positions of anchors, with the positions of the candidates that they prefer, best level first.

    Without a match all candidates are one level. Otherwise anchors with equal head labels come together, and a level
    holds the candidates whose head labels differ from theirs equally much.
    """
    if match == "none":
        for group in _parts(np.arange(len(anchors)), _AT_ONCE):
            yield group, [np.arange(len(candidates))]
        return
    labels = _head_labels(train)
    patterns, of_anchor = np.unique(labels[anchors], axis=0, return_inverse=True)
    for i, pattern in enumerate(patterns):
        apart = np.abs(labels[candidates] - pattern).sum(axis=1)
        levels = [np.flatnonzero(apart == value) for value in np.unique(apart)]
        for group in _parts(np.flatnonzero(of_anchor == i), _AT_ONCE):
            yield group, levels


def _random(group: Int64, level: Int64, take: int, seed: int, filled: int) -> Int64:
    """Return `take` candidates of a level for each anchor, drawn from the anchor's own generator, `[n, take]`."""
    axes = [(int(i), filled) if filled else (int(i),) for i in group]
    drawn = [seeds.rng(seed, "partners", *a).choice(len(level), take, replace=False) for a in axes]
    return level[np.array(drawn).reshape(len(group), take)]


def _apart(compared: Vectors, anchors: Int64, found: Int64) -> Float32:
    """Return the distances between anchors `[n]` and the candidates that were drawn for them `[n, k]`."""
    rows = [
        np.linalg.norm(compared(f) - compared(a[None]), axis=1).astype(np.float32)
        for a, f in zip(anchors, found, strict=True)
    ]
    return np.stack(rows)


def _nearest(compared: Vectors, anchors: Int64, candidates: Int64, k: int) -> tuple[Float32, Int64]:
    blocks = (compared(block) for block in _parts(candidates, _AT_ONCE))
    distances, found = nearest(compared(anchors), blocks, k)
    return distances.astype(np.float32), found


def _parts(values: Int64, size: int) -> list[Int64]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _flat(arrays: Float32) -> Float32:
    return arrays.reshape(len(arrays), -1)
