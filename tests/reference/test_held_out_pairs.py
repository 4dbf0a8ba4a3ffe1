"""Scores on held-out pairs, against a loop with scikit-learn's average precision."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score

from bench import seeds
from bench.evaluation.held_out import held_out_intervals, held_out_replicates, held_out_scores
from bench.metrics.equal_counts import N_DRAWS, precision_at_equal_counts
from bench.metrics.patient_bootstrap import patient_weights
from bench.tables import ImageTable

NAMES = ("a", "b", "c", "d")
PAIRS = (("a", "c"), ("d", "b"))
GROUPS = {"head": NAMES[:2], "tail": NAMES[2:], "all": NAMES}


def drawn(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray, ImageTable]:
    """Return scores with ties, labels with gaps, and the table they are rows of."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 4)) < [0.5, 0.4, 0.25, 0.1]).astype(np.float32)
    scores = (labels + rng.normal(0, 1, labels.shape)).round(1).astype(np.float32)
    labels[rng.random(labels.shape) < 0.1] = np.nan
    images = np.zeros((n, 1, 1), np.uint8)
    return scores, labels, ImageTable(images, labels, np.arange(n) // 2, NAMES, NAMES[:2], NAMES[2:])


def by_a_loop(scores: np.ndarray, positives: np.ndarray, negatives: np.ndarray, least: int, rng) -> float:
    """Return the mean average precision over draws of `least` of the positives against all negatives."""
    rows = np.sort(np.r_[positives, negatives])
    places = np.flatnonzero(np.isin(rows, positives))
    found = []
    for _ in range(N_DRAWS if len(positives) > least else 1):
        chosen = np.r_[rows[rng.choice(places, least, replace=False)], negatives]
        truth = np.arange(len(chosen)) < least
        found.append(average_precision_score(truth, scores[chosen]))
    return float(np.mean(found))


@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_a_loop_with_scikit_learn(seed: int) -> None:
    scores, labels, table = drawn(seed)
    found = held_out_scores(table, GROUPS, PAIRS, scores, labels, np.arange(len(labels)), seed=3)
    has = {pair: np.all([labels[:, NAMES.index(n)] == 1 for n in pair], axis=0) for pair in PAIRS}
    any_pair = np.any(list(has.values()), axis=0)
    entries: dict[str, list[tuple[str, float]]] = {"ap": [], "seen_ap": [], "no_skill": []}
    for k, pair in enumerate(PAIRS):
        mine = found["held_out_pairs"][f"pair_{k + 1}"]
        assert mine["n_images"] == has[pair].sum()
        for name in pair:
            c = NAMES.index(name)
            held, seen = np.flatnonzero(has[pair]), np.flatnonzero((labels[:, c] == 1) & ~any_pair)
            negatives, least = np.flatnonzero(labels[:, c] == 0), min(len(held), len(seen))
            rng = seeds.rng(3, "held-out-pairs", k, c)
            wanted = [by_a_loop(scores[:, c], p, negatives, least, rng) for p in (held, seen)]
            assert [mine["ap"][name], mine["seen_ap"][name]] == pytest.approx(wanted, abs=1e-9)
            assert mine["no_skill"][name] == least / (least + len(negatives))
            counts = [mine[key][name] for key in ("n_positives", "n_seen", "n_negatives")]
            assert counts == [least, len(seen), len(negatives)]
            for key, values in entries.items():
                values.append((name, mine[key][name]))
    for said, key in (("held_out_ap", "ap"), ("seen_ap", "seen_ap"), ("held_out_no_skill", "no_skill")):
        for group, names in GROUPS.items():
            assert found[f"{said}_{group}"] == pytest.approx(np.mean([v for n, v in entries[key] if n in names]))
    assert found["n_held_out_images"] == any_pair.sum()
    assert found["n_images_of_held_out_patients"] == np.isin(table.patients, table.patients[any_pair]).sum()


def test_without_skill_both_sets_are_equal_whatever_their_sizes() -> None:
    """With their own numbers of positives, the larger set would have three times the average precision."""
    rng, gaps, levels = np.random.default_rng(0), [], []
    for i in range(60):
        kind = rng.permutation(np.repeat([0, 1, 2], [30, 100, 900]))
        scores = rng.random(len(kind))
        few, many = precision_at_equal_counts(scores, [kind == 0, kind == 1], kind == 2, np.random.default_rng(i))
        gaps.append(few - many)
        levels.append(many)
    assert abs(np.mean(gaps)) < 3 * np.std(gaps) / np.sqrt(len(gaps))
    assert np.mean(levels) < 0.05 < 100 / 1000


def test_the_draws_do_not_depend_on_the_scores() -> None:
    scores, labels, table = drawn(0)
    rows = np.arange(len(labels))
    once, again = (held_out_scores(table, GROUPS, PAIRS, s, labels, rows, seed=1) for s in (scores, 3 * scores + 1))
    assert once == again


def test_nothing_is_added_without_pairs() -> None:
    scores, labels, table = drawn(0)
    rows = np.arange(len(labels))
    assert held_out_scores(table, GROUPS, (), scores, labels, rows, seed=1) == {}
    assert held_out_replicates(table, GROUPS, (), scores, labels, rows, 9, np.random.default_rng(0)) == {}
    assert held_out_intervals({}, {}) == {}


def test_resamples_are_those_of_a_loop_that_draws_positives_in_each() -> None:
    """The loop is `precision_at_equal_counts` on the images of a resample, which draws 200 times and so is near it."""
    scores, labels, table = drawn(2)
    rows, rng = np.arange(len(labels)), np.random.default_rng(8)
    found = held_out_replicates(table, GROUPS, PAIRS, scores, labels, rows, 6, np.random.default_rng(4))
    columns = [(pair, NAMES.index(name)) for pair in PAIRS for name in pair]
    has = {pair: np.all([labels[:, NAMES.index(n)] == 1 for n in pair], axis=0) for pair in PAIRS}
    sets = [
        (has[pair], (labels[:, c] == 1) & ~np.any(list(has.values()), axis=0), labels[:, c] == 0) for pair, c in columns
    ]
    kept = np.stack([part for three in sets for part in three], axis=1)
    (weights,) = patient_weights(table.patients, kept, 6, np.random.default_rng(4))
    for b, counts in enumerate(weights.T):
        again = np.repeat(rows, counts)
        wanted = [
            precision_at_equal_counts(scores[again, c], [held[again], seen[again]], negative[again], rng)
            for (_, c), (held, seen, negative) in zip(columns, sets, strict=True)
        ]
        for group, names in GROUPS.items():
            ap, seen_ap = np.mean([w for w, (_, c) in zip(wanted, columns, strict=True) if NAMES[c] in names], axis=0)
            assert found[f"held_out_ap_{group}"][b] == pytest.approx(ap, abs=0.01)
            assert found[f"seen_ap_{group}"][b] == pytest.approx(seen_ap, abs=0.01)
            assert found[f"held_out_gap_{group}"][b] == pytest.approx(seen_ap - ap, abs=0.015)


def test_intervals_surround_the_scores_and_their_difference_is_paired() -> None:
    scores, labels, table = drawn(0)
    given = table, GROUPS, PAIRS, scores, labels, np.arange(len(labels))
    found, replicates = held_out_scores(*given, 1), held_out_replicates(*given, 300, np.random.default_rng(0))
    told = held_out_intervals(found, replicates)["held_out"]
    assert told["n_bootstrap"] == 300
    for group in GROUPS:
        assert told[f"ap_{group}_low"] < found[f"held_out_ap_{group}"] < told[f"ap_{group}_high"]
        assert told[f"gap_{group}"] == found[f"seen_ap_{group}"] - found[f"held_out_ap_{group}"]
        paired = replicates[f"seen_ap_{group}"] - replicates[f"held_out_ap_{group}"]
        ends = told[f"gap_{group}_low"], told[f"gap_{group}_high"]
        assert ends == pytest.approx(np.quantile(paired, [0.025, 0.975]), abs=1e-6)
        assert ends[0] < told[f"gap_{group}"] < ends[1]
