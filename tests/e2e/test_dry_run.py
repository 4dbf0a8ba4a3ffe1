"""`bench run --dry-run` and `--pilot`: what is missing, what would run, how long, how much disk; nothing guessed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench.matrix.load import load_matrix
from bench.pipeline.stage import walk
from bench.store.store import Store
from tests.conftest import ToyRun
from tests.e2e.driver import Bench

ONCE = {"dataset-phantom", "split", "train", "latents", "codec", "saliency", "pairs", "fused", "realfeatures"}


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


def stages(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in found["stages"]}


def test_on_an_empty_disk_everything_is_computed_once_and_no_time_is_guessed(bench: Bench, tmp_path: Path) -> None:
    said = bench("run", "toy", "--dry-run", "--json", "--store", tmp_path / "store", "--jobs", 4)
    assert (said.code, said.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    found, rows = json.loads(said.out), stages(json.loads(said.out))
    assert (found["matrix"], found["cells"], found["ready"], found["missing"]) == ("toy", 8, True, [])
    assert {name: rows[name]["compute"] for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert rows["classifier"]["compute"] == rows["scores"]["compute"] == 8
    assert rows["augmented ours@0"]["compute"] == 1
    assert {(r["reused"], r["seconds"], r["bytes"]) for r in found["stages"]} == {(0, None, None)}
    assert found["total"]["unknown"] == found["total"]["compute"]
    text = bench("run", "toy", "--dry-run", "--store", tmp_path / "store").out
    assert f"bench run toy --pilot --store {tmp_path / 'store'}" in text
    assert "time:" not in text


def test_what_is_finished_is_reused_and_measures_what_is_left(bench: Bench, toy_run: ToyRun) -> None:
    before = files(toy_run.store)
    said = bench("run", "toy", "--dry-run", "--json", "--store", toy_run.store)
    found = json.loads(said.out)
    assert said.code == 0
    assert (found["total"]["compute"], found["total"]["seconds"], found["total"]["bytes"]) == (0, 0, 0)
    assert stages(found)["codec"]["reused"] == 1
    said = bench("run", "toy", "--dry-run", "--json", "--store", toy_run.store, "--set", "classifier.steps=12")
    rows = stages(json.loads(said.out))
    assert {name for name, row in rows.items() if row["compute"]} == {"classifier", "scores"}
    took = [m["seconds"] for m in Store(toy_run.store).manifests() if m["stage"] == "classifier"]
    steps = load_matrix("toy").settings.classifier.steps
    assert rows["classifier"]["ratio"] == pytest.approx(12 / steps)
    assert 8 * min(took) * 12 / steps <= rows["classifier"]["seconds"] <= 8 * max(took) * 12 / steps
    assert files(toy_run.store) == before


def test_what_failed_before_is_left_out_as_a_run_leaves_it(bench: Bench, tmp_path: Path) -> None:
    store, matrix = Store(tmp_path / "store"), load_matrix("toy")
    codec = next(s for s in walk([s for c in matrix.cells for s in c.targets]) if s.stage_name() == "codec")
    store.record_failure(codec, ValueError("the loss is no number"))
    said = bench("run", "toy", "--dry-run", "--json", "--store", store.root)
    found, rows = json.loads(said.out), stages(json.loads(said.out))
    assert (said.code, found["ready"]) == (1, False)
    assert (rows["codec"]["compute"], rows["codec"]["stopped"]) == (0, 1)
    assert rows["augmented ours@0"]["stopped"] == 1
    assert rows["augmented smote"]["stopped"] == 0
    assert found["failed"] == [f"codec {codec.key[:8]}: ValueError: the loss is no number"]
    plain = bench("run", "toy", "--dry-run", "--store", store.root)
    assert f"{found['total']['stopped']} stages failed before, or need one that did" in plain.out
    again = bench("run", "toy", "--dry-run", "--retry-failed", "--json", "--store", store.root)
    assert (again.code, json.loads(again.out)["total"]["stopped"]) == (0, 0)


def test_the_paper_without_data_or_weights_is_planned_and_refused(bench: Bench, tmp_path: Path) -> None:
    bench.monkeypatch.chdir(tmp_path)
    said = bench("run", "paper", "--dry-run", "--json")
    assert said.code == 1
    found, rows = json.loads(said.out), stages(json.loads(said.out))
    assert not found["ready"]
    missing = " ".join(m["what"] + m["said"] for m in found["missing"])
    assert all(word in missing for word in ("data/cxr-lt", "data/mimic-cxr-jpg", "weights/roentgen"))
    assert (rows["codec"]["compute"], rows["latents"]["compute"], rows["classifier"]["compute"]) == (3, 1, 21)
    text = bench("run", "paper", "--dry-run").out
    assert text.count("MISSING") == len(found["missing"])
    assert list(tmp_path.iterdir()) == []


def test_a_pilot_measures_every_kind_in_a_store_of_its_own(bench: Bench, tmp_path: Path) -> None:
    rows = ["--set", "methods=[baseline, duplicate]", "--store", str(tmp_path / "store")]
    done = bench("run", "toy", "--pilot", "--quiet", *rows)
    assert done.code == 0, done.err
    assert not (tmp_path / "store").exists()
    assert (tmp_path / "store-pilot" / "classifier").is_dir()
    assert "bench run toy --dry-run --set 'methods=[baseline, duplicate]'" in done.err
    found = json.loads(bench("run", "toy", "--dry-run", "--json", *rows).out)
    assert found["total"]["unknown"] == 0
    assert found["total"]["reused"] == 0
    assert found["total"]["seconds"] > 0
    refused = bench("run", "toy", "--pilot", "--dry-run", *rows)
    assert refused.code == 2
    assert "--pilot: computes, and --dry-run does not" in refused.err
