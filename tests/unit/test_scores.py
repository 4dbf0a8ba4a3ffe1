"""The scores stage: figures of test alone, prevalences beside them, predictions kept."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from bench.scores import Scores
from bench.split import part_rows
from bench.store import Store
from tests.unit.classifier_fixtures import cell

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


def test_average_precision_is_of_the_order_of_the_logits_where_probabilities_saturate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    classifier, store = cell(), Store(tmp_path)
    store.get(classifier)
    _, labels, _ = part_rows(store, classifier.split, "test")
    logits = 30 + np.random.default_rng(0).standard_normal(labels.shape).astype(np.float32)  # each is 1 as a float32
    monkeypatch.setattr("bench.networks.in_batches", lambda *_: logits)
    scores = store.get(Scores(split=classifier.split, classifier=classifier))
    for c, name in enumerate(scores["ap"]):
        known = ~np.isnan(labels[:, c])
        expected = average_precision_score(labels[known, c], logits[known, c])
        assert scores["ap"][name] == pytest.approx(expected, abs=1e-6)
