"""The scores stage: figures of test alone, prevalences beside them, predictions kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from bench.data.split import part_rows
from bench.errors import DataError
from bench.evaluation.grouped_scores import GroupedScores
from bench.evaluation.scores import Scores, ScoresSettings
from bench.metrics import patient_bootstrap as bootstrap
from bench.store.store import Store
from tests.unit.classifier.classifier_fixtures import cell

torch.set_num_threads(1)


def test_scores_of_test_match_sklearn_and_stand_beside_the_prevalence(tmp_path: Path) -> None:
    classifier = cell()
    stage, store = Scores(split=classifier.split, classifier=classifier), Store(tmp_path)
    scores = store.get(stage)
    predictions = np.load(store.folder(stage) / "predictions.npy")
    _, labels, _ = part_rows(store, classifier.split, "test")
    table = store.get(classifier.split.dataset)
    assert predictions.shape == labels.shape == (scores["n_test"], 4)
    assert predictions.dtype == np.float32
    for c, name in enumerate(table.class_names):
        known = ~np.isnan(labels[:, c])
        expected = average_precision_score(labels[known, c], predictions[known, c])
        assert scores["ap"][name] == pytest.approx(expected, abs=1e-6)
        assert scores["prevalence"][name] == pytest.approx(labels[known, c].mean())
        assert scores["n_positives"][name] == int(labels[known, c].sum())
    for group, names in (("head", table.head), ("tail", table.tail), ("all", table.class_names)):
        assert scores[f"map_{group}"] == pytest.approx(np.mean([scores["ap"][n] for n in names]))
        assert scores[f"prevalence_{group}"] == pytest.approx(np.mean([scores["prevalence"][n] for n in names]))
    assert scores["selection"] == "best_val_map_all"
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores


def test_tail_classes_of_few_test_patients_are_named_and_left_out_of_a_mean_beside(tmp_path: Path) -> None:
    classifier, store = cell(n_images=100), Store(tmp_path)
    table, split = store.get(classifier.split.dataset), store.get(classifier.split)["test"]
    of = {n: set(table.patients[split][table.labels[split, c] == 1]) for c, n in enumerate(table.class_names)}
    fewest, other = sorted(table.tail, key=lambda name: len(of[name]))
    assert len(of[fewest]) < len(of[other])
    chosen = ScoresSettings(n_bootstrap=0, min_patients=len(of[other]))
    scores = store.get(Scores(split=classifier.split, classifier=classifier, settings=chosen))
    assert scores["n_positive_patients"] == {name: len(patients) for name, patients in of.items()}
    assert scores["few_patients"] == {fewest: len(of[fewest])}
    assert scores["map_tail_supported"] == scores["ap"][other]
    assert scores["prevalence_tail_supported"] == scores["prevalence"][other]
    chosen = ScoresSettings(n_bootstrap=0, min_patients=0)
    scores = store.get(Scores(split=classifier.split, classifier=classifier, settings=chosen))
    assert scores["few_patients"] == {}
    assert scores["map_tail_supported"] == scores["map_tail"]


def test_average_precision_is_of_the_order_of_the_logits_where_probabilities_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, store = cell(), Store(tmp_path)
    store.get(classifier)
    _, labels, _ = part_rows(store, classifier.split, "test")
    logits = 30 + np.random.default_rng(0).standard_normal(labels.shape).astype(np.float32)  # each is 1 as a float32
    monkeypatch.setattr("bench.classifier.networks.in_batches", lambda *_: logits)
    scores = store.get(Scores(split=classifier.split, classifier=classifier))
    for c, name in enumerate(scores["ap"]):
        known = ~np.isnan(labels[:, c])
        expected = average_precision_score(labels[known, c], logits[known, c])
        assert scores["ap"][name] == pytest.approx(expected, abs=1e-6)


def test_bootstrap_surrounds_the_scores_and_is_of_whole_patients(tmp_path: Path) -> None:
    classifier, store = cell(n_images=200), Store(tmp_path)
    stage = Scores(split=classifier.split, classifier=classifier, settings=ScoresSettings(n_bootstrap=200))
    scores = store.get(stage)
    replicates = stage.replicates(store.folder(stage))
    saved = np.load(store.folder(stage) / "bootstrap.npy")
    assert (saved.shape, saved.dtype) == ((200, 3), np.float32)
    assert scores["n_bootstrap"] == 200
    for group in ("head", "tail", "all"):
        values = replicates[f"map_{group}"]
        low, high = scores[f"map_{group}_low"], scores[f"map_{group}_high"]
        assert low < scores[f"map_{group}"] < high
        assert (low, high) == pytest.approx(np.nanquantile(values, [0.025, 0.975]))


def test_two_classifiers_of_a_split_see_the_same_resamples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, draw = [], bootstrap.patient_weights

    def recorded(*args: object) -> list[np.ndarray]:
        seen.append(list(draw(*args)))
        return seen[-1]

    monkeypatch.setattr(bootstrap, "patient_weights", recorded)
    store = Store(tmp_path)
    for classifier in (cell(seed=0), cell(seed=1, per_class=3)):
        store.get(Scores(split=classifier.split, classifier=classifier, settings=ScoresSettings(n_bootstrap=20)))
    assert np.array_equal(np.concatenate(seen[0], axis=1), np.concatenate(seen[1], axis=1))


def test_the_bootstrap_can_be_left_out(tmp_path: Path) -> None:
    classifier, store = cell(), Store(tmp_path)
    stage = Scores(split=classifier.split, classifier=classifier, settings=ScoresSettings(n_bootstrap=0))
    assert store.get(stage)["map_tail_low"] is None
    assert len(stage.replicates(store.folder(stage))["map_tail"]) == 0


def test_medium_classes_are_the_rarest_outside_of_the_tail_and_leave_the_head(tmp_path: Path) -> None:
    classifier, store = cell(n_images=100), Store(tmp_path)
    settings = ScoresSettings(n_bootstrap=40)
    plain = Scores(split=classifier.split, classifier=classifier, settings=settings)
    grouped = GroupedScores(split=classifier.split, classifier=classifier, settings=settings, n_medium=1)
    assert plain.key != grouped.key
    before, scores = store.get(plain), store.get(grouped)
    assert not [name for name in before if "medium" in name]
    table, train = store.get(classifier.split.dataset), store.get(classifier.split)["train"]
    positives = {n: np.nansum(table.labels[train, c]) for c, n in enumerate(table.class_names) if n in table.head}
    medium = min(positives, key=lambda name: positives[name])
    (head,) = set(table.head) - {medium}
    for figure in ("auroc", "f1", "calibration_error"):
        assert scores[f"{figure}_medium"] == scores[figure][medium] == before[figure][medium]
        assert scores[f"{figure}_head"] == scores[figure][head]
    assert (scores["map_medium"], scores["prevalence_medium"]) == (scores["ap"][medium], scores["prevalence"][medium])
    assert scores["map_head"] == scores["ap"][head]
    assert (scores["map_tail"], scores["map_all"]) == (before["map_tail"], before["map_all"])
    replicates, old = grouped.replicates(store.folder(grouped)), plain.replicates(store.folder(plain))
    assert list(replicates) == ["map_head", "map_medium", "map_tail", "map_all"]
    np.testing.assert_allclose((replicates["map_head"] + replicates["map_medium"]) / 2, old["map_head"], rtol=1e-5)
    np.testing.assert_array_equal(replicates["map_tail"], old["map_tail"])
    low, high = np.quantile(replicates["map_medium"], [0.025, 0.975])
    assert (scores["map_medium_low"], scores["map_medium_high"]) == pytest.approx((low, high))


def test_medium_classes_that_leave_no_head_are_refused(tmp_path: Path) -> None:
    classifier, store = cell(), Store(tmp_path)
    table = store.get(classifier.split.dataset)
    grouped = GroupedScores(split=classifier.split, classifier=classifier, n_medium=len(table.head))
    with pytest.raises(
        DataError, match="n_medium: want fewer than the 2 classes of the head, so that one is left; got 2"
    ):
        grouped.medium(table, store.get(classifier.split)["train"])
