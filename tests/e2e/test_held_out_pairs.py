"""The matrix `compositional`, shrunk: the pairs from `describe` and `--dry-run` to the scores, the table and the report."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np

from bench.matrix.load import load_matrix
from bench.privacy.border import aggregates
from bench.privacy.names import stand_ins
from bench.store.store import Store
from tests.e2e.driver import Bench

SETS = {
    "datasets.0.n_images": 400,
    "datasets.0.image_px": 32,
    "datasets.0.prevalence_floor": 0.06,
    "split.min_positives": 1,
    "augment.per_class": 2,
    "methods": "[baseline, duplicate]",
    "classifier": "{architecture: resnet18, steps: 2, batch_size: 8, n_validations: 1}",
    "seeds": "[0]",
    "n_medium": 1,
    "scores.n_bootstrap": 50,
}
PAIRS = [
    ["Pneumothorax", "Pleural Effusion"],
    ["Enlarged Cardiomediastinum", "Lung Opacity"],
    ["Enlarged Cardiomediastinum", "Fracture"],
]


def test_pairs_are_told_before_held_out_and_scored(tmp_path: Path, bench: Bench) -> None:
    store = tmp_path / "store"
    given = [x for k, v in SETS.items() for x in ("--set", f"{k}={v}")] + ["--store", store]
    before = bench("run", "compositional", *given, "--dry-run")
    assert (
        "phantom: held out: counted once the data set is read; to read it: bench describe compositional" in before.out
    )
    told = json.loads(bench("describe", "compositional", *given, "--json").out)["held_out_pairs"]
    assert [pair["classes"] for pair in told["pairs"]] == PAIRS
    dry = bench("run", "compositional", *given, "--dry-run").out
    assert f"phantom: held out: Pneumothorax + Pleural Effusion, {told['pairs'][0]['images']} images of" in dry
    assert f"phantom: held out: {told['images_of_patients']} images (all images of" in dry

    assert bench("run", "compositional", *given, "--wandb", "off", "--jobs", "1").code == 0
    cell = load_matrix("compositional", [f"{k}={v}" for k, v in SETS.items()]).cells[1]
    scores, table = Store(store).open(cell.scores), Store(store).open(cell.dataset)
    parts = Store(store).open(cell.split)
    for k, pair in enumerate(PAIRS, start=1):
        a, b = (table.class_names.index(name) for name in pair)
        both = np.flatnonzero((table.labels[:, a] == 1) & (table.labels[:, b] == 1))
        assert set(both) <= set(parts["test"])
        assert scores["held_out_pairs"][f"pair_{k}"]["n_images"] == len(both) == told["pairs"][k - 1]["images"]

    asked = [*given, "--metrics", "held_out_ap", "--metrics", "seen_ap"]
    rows = {row["method"]: row for row in json.loads(bench("table", "compositional", *asked, "--json").out)}
    assert rows["duplicate"]["held_out_ap_tail"] == scores["held_out_ap_tail"]
    assert f"{scores['seen_ap_all']:.3f}" in bench("table", "compositional", *asked).out
    told, gap = scores["held_out"], scores["seen_ap_tail"] - scores["held_out_ap_tail"]
    assert told["gap_tail"] == gap
    asked = [*given, "--metrics", "held_out_gap"]
    rows = {row["method"]: row for row in json.loads(bench("table", "compositional", *asked, "--json").out)}
    assert rows["duplicate"]["held_out_gap_tail"] == gap
    notes = bench("table", "compositional", *given, "--notes").out
    assert f"drawn again ({told['n_bootstrap']} times), the held-out AP head of a row changes by ±" in " ".join(
        notes.split()
    )
    effects = json.loads(bench("effects", "compositional", *given, "--column", "held_out_ap_tail", "--json").out)
    assert {row["interval_over"] for row in effects} == {"test_patients"}
    assert aggregates(scores, stand_ins(table.class_names, "class"))["held_out"] == told  # may leave the machine
    refused = bench("table", "compositional", *given, "--metrics", "accuracy")
    assert (refused.code, len(refused.err.splitlines())) == (2, 1)
    assert "column 'accuracy': accuracy is for data in which every test image has exactly one class" in refused.err
    folder = tmp_path / "report"
    assert bench("report", "compositional", *given, "--out", folder).code == 0
    shown = scores["held_out_pairs"]["pair_3"]["ap"]["Fracture"]
    for name in ("report.html", "table.md"):
        text = (folder / name).read_text(encoding="utf-8")
        assert "Held-out pair: Enlarged Cardiomediastinum + Fracture" in text
        assert "No image of train or val has both findings of a held-out pair" in text
        assert f"{shown:.3f}" in text
    with (folder / "table.csv").open(encoding="utf-8") as file:
        written = {row["method"]: row for row in csv.DictReader(file)}["duplicate"]
    assert float(written["held_out_gap_tail"]) == gap
    for end in ("low", "high"):
        assert float(written[f"held_out_ap_tail_{end}"]) == told[f"ap_tail_{end}"]
        assert float(written[f"held_out_gap_tail_{end}"]) == told[f"gap_tail_{end}"]


def test_the_header_of_the_matrix_counts_what_its_labels_hold() -> None:
    from bench.data.dataset import KnownLabels
    from bench.data.describe import held_out_pairs
    from bench.data.kinds.phantom.labels import facts
    from bench.data.kinds.phantom.settings import CLASS_NAMES, HEAD, TAIL
    from bench.data.split import checked_parts

    matrix = load_matrix("compositional")
    drawn = [facts(matrix.cells[0].dataset, i) for i in range(3000)]
    labels, patients = np.array([f.observed_labels for f in drawn], np.float32), np.array([f.patient for f in drawn])
    known = KnownLabels(CLASS_NAMES, labels, patients, None, HEAD, TAIL)
    found = held_out_pairs(known, matrix.settings.split)
    assert [(p["images"], p["patients"]) for p in found["pairs"]] == [(64, 58), (157, 143), (31, 31)]
    assert (found["images"], found["patients"], found["images_of_patients"]) == (220, 189, 513)
    part = checked_parts(known, matrix.settings.split)
    assert np.bincount(part).tolist() == [1244, 497, 1259]
    tail = [CLASS_NAMES.index(name) for name in ("Pneumothorax", "Fracture", "Enlarged Cardiomediastinum")]
    assert labels[part == 0][:, tail].sum(axis=0).tolist() == [36, 29, 75]
