"""Scores on pairs of findings that were never seen together in train or val, beside those on seen combinations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bench import seeds
from bench.data.held_out_pairs import Bools, Pair, has_any_pair, has_pair, of_same_patients, pair_columns
from bench.metrics.equal_counts import precision_at_equal_counts, resampled_at_equal_counts
from bench.metrics.patient_bootstrap import intervals, patient_weights
from bench.tables import Float32, ImageTable, Int64

_OF_PAIRS = "held_out_"
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


def held_out_replicates(
    table: ImageTable,
    groups: Mapping[str, Sequence[str]],
    pairs: Sequence[Pair],
    scores: Float32,
    labels: Float32,
    rows: Int64,
    n_resamples: int,
    rng: np.random.Generator,
) -> dict[str, Float32]:
    """Return the means of `held_out_scores` in each resample of the test patients; nothing without pairs.

    They are `held_out_ap_tail`, `seen_ap_tail` and `held_out_gap_tail`, each `float32 [B]`, and so on for each group
    that has a class of a pair. The gap is seen minus held-out AP in the same resample. Every resample has images of
    each pair, of each class without a pair, and without each class; one that lost all patients of these is drawn again.

    Args:
        table: the data set.
        groups: name of a group → its classes; each has means.
        pairs: the held-out pairs.
        scores: `float32 [n, C]` of the test images, higher means more likely.
        labels: `float32 [n, C]`, their observed labels, see `held_out_scores`.
        rows: `int64 [n]`, their rows in the table.
        n_resamples: the number of resamples, B; there are fewer if resamples that keep all of this are too rare.
        rng: draws the resamples and is used for nothing else.
    """
    columns = pair_columns(pairs, table.class_names)
    held_out, has = has_any_pair(labels, columns), has_pair(labels, columns)
    cases = [
        (c, (has[:, k], (labels[:, c] == 1) & ~held_out), labels[:, c] == 0)
        for k, pair in enumerate(columns)
        for c in pair
    ]
    if not cases:
        return {}
    kept = np.stack([part for _, sets, negative in cases for part in (*sets, negative)], axis=1)
    blocks = [np.zeros((len(cases), 2, 0))]
    for weights in patient_weights(table.patients[rows], kept, n_resamples, rng):
        drawn = [resampled_at_equal_counts(scores[:, c], sets, negative, weights) for c, sets, negative in cases]
        blocks.append(np.stack(drawn))
    resampled = np.concatenate(blocks, axis=2)
    found: dict[str, Float32] = {}
    for group, names in groups.items():
        if mine := [i for i, (c, _, _) in enumerate(cases) if table.class_names[c] in names]:
            ap, seen = resampled[mine].mean(axis=0).astype(np.float32)
            found |= {f"held_out_ap_{group}": ap, f"seen_ap_{group}": seen, f"held_out_gap_{group}": seen - ap}
    return found


def held_out_intervals(found: Mapping[str, Any], replicates: Mapping[str, Float32]) -> dict[str, Any]:
    """Return `held_out`: the 95 % intervals of `held_out_scores`, and seen minus held-out AP; nothing without pairs.

    Its names are `ap_tail_low`, `ap_tail_high`, `gap_tail`, `gap_tail_low`, `gap_tail_high` and so on for each group
    that has a class of a pair, and `n_bootstrap`.

    Args:
        found: what `held_out_scores` returns.
        replicates: what `held_out_replicates` returns.
    """
    # These stand in a mapping of their own, because the border keeps back a mapping of more than 64 single numbers.
    if not found:
        return {}
    groups = [name.removeprefix("seen_ap_") for name in replicates if name.startswith("seen_ap_")]
    gaps = {f"gap_{group}": found[f"seen_ap_{group}"] - found[f"held_out_ap_{group}"] for group in groups}
    drawn = {name.removeprefix(_OF_PAIRS): v for name, v in replicates.items() if name.startswith(_OF_PAIRS)}
    return {"held_out": gaps | intervals(drawn) | {"n_bootstrap": len(next(iter(drawn.values())))}}


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
