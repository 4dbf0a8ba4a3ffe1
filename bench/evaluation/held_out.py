"""Scores on pairs of findings that were never seen together in train or val, beside those on seen combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench import seeds
from bench.data.held_out_pairs import Bools, Pair, has_any_pair, has_pair, of_same_patients, pair_columns
from bench.metrics.equal_counts import precision_at_equal_counts
from bench.tables import Float32, ImageTable, Int64

_MEANS = {"held_out_ap": "ap", "seen_ap": "seen_ap", "held_out_no_skill": "no_skill"}


def held_out_scores(
    table: ImageTable,
    groups: Mapping[str, Sequence[str]],
    pairs: Sequence[Pair],
    scores: Float32,
    labels: Float32,
    rows: Int64,
    seed: int,
) -> dict[str, Any]:
    """Return the scores on held-out pairs; nothing if there are none.

    For each class of a pair, the positives are the test images with both classes of the pair (`ap`), or the test images
    that have the class and none of the held-out pairs (`seen_ap`). Both stand against the same negatives, the test
    images without the class, and at equal numbers of positives; see `bench.metrics.equal_counts`.

    Args:
        table: the data set.
        groups: name of a group → its classes; each has means.
        pairs: the held-out pairs.
        scores: `float32 [n, C]` of the test images, higher means more likely.
        labels: `float32 [n, C]`, their observed labels; an unknown one (NaN) is neither positive nor negative.
        rows: `int64 [n]`, their rows in the table.
        seed: of the draws of positives; equal for all rows of a matrix.
    """
    if not pairs:
        return {}
    columns, patients = pair_columns(pairs, table.class_names), table.patients[rows]
    held_out = has_any_pair(labels, columns)
    by_pair = {}
    for k, mine in enumerate(has_pair(labels, columns).T):
        found = {}
        for c in columns[k]:
            rng = seeds.rng(seed, "held-out-pairs", k, c)
            found[table.class_names[c]] = _of_class(scores[:, c], labels[:, c], mine, held_out, rng)
        figures = {name: {c: values[name] for c, values in found.items()} for name in next(iter(found.values()))}
        by_pair[f"pair_{k + 1}"] = {
            "n_images": int(mine.sum()),
            "n_patients": len(np.unique(patients[mine])),
            **figures,
        }
    return {
        "held_out_pairs": by_pair,
        "n_held_out_images": int(held_out.sum()),
        "n_held_out_patients": len(np.unique(patients[held_out])),
        "n_images_of_held_out_patients": int(of_same_patients(held_out, patients).sum()),
        **_means(by_pair, groups),
    }


def _of_class(
    scores: Float32, labels: Float32, mine: Bools, held_out: Bools, rng: np.random.Generator
) -> dict[str, float | int]:
    """Return the figures of one class of a pair, whose images are `mine`; `held_out` are those of all pairs."""
    seen, negative = (labels == 1) & ~held_out, labels == 0
    ap, seen_ap = precision_at_equal_counts(scores, [mine, seen], negative, rng)
    n, n_negatives = min(int(mine.sum()), int(seen.sum())), int(negative.sum())
    return {
        "ap": ap,
        "seen_ap": seen_ap,
        "no_skill": n / (n + n_negatives),
        "n_positives": n,
        "n_seen": int(seen.sum()),
        "n_negatives": n_negatives,
    }


def _means(by_pair: dict[str, Any], groups: Mapping[str, Sequence[str]]) -> dict[str, float | None]:
    """Return means over the classes of all pairs that are in each group; None for a group without any."""
    found: dict[str, float | None] = {}
    for group, names in groups.items():
        for said, figure in _MEANS.items():
            values = [value for pair in by_pair.values() for c, value in pair[figure].items() if c in names]
            found[f"{said}_{group}"] = float(np.mean(values)) if values else None
    return found
