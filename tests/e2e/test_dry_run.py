"""`bench run --dry-run`: what is missing, what would run, how long, how much disk; nothing computed or written."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from bench.cost import NoEstimate, Sizes
from bench.diffusion import SHIPPED, DiffusionModel
from bench.diffusion_folder import digest
from bench.flops import diffusion_flops
from bench.matrix import load_matrix
from bench.rebuilt import rebuilt
from bench.stage import walk
from bench.store import Store
from tests.conftest import ToyRun
from tests.e2e.driver import Bench

ONCE = {"dataset-phantom", "split", "train", "latents", "codec", "saliency", "pairs", "fused", "realfeatures"}


def files(folder: Path) -> dict[str, int]:
    return {str(p): p.stat().st_mtime_ns for p in folder.rglob("*")}


def stages(told: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {row["stage"]: row for row in told["stages"]}


def test_on_an_empty_disk_everything_is_computed_once_and_nothing_written(bench: Bench, tmp_path: Path) -> None:
    said = bench("run", "toy", "--dry-run", "--json", "--store", tmp_path / "store", "--jobs", 4)
    assert (said.code, said.err) == (0, "")
    assert list(tmp_path.iterdir()) == []
    told, rows = json.loads(said.out), stages(json.loads(said.out))
    assert (told["matrix"], told["cells"], told["ready"], told["missing"]) == ("toy", 8, True, [])
    assert {name: rows[name]["compute"] for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert rows["classifier"]["compute"] == rows["scores"]["compute"] == 8
    assert rows["augmented ours@0"]["compute"] == 1
    assert {(r["reused"], r["not_estimated"]) for r in told["stages"]} == {(0, 0)}
    total = told["total"]
    assert total["tflop"] == pytest.approx(sum(r["tflop"] for r in told["stages"]))
    assert 0.249 * total["cpu_seconds"] <= total["cpu_wall_seconds"] <= total["cpu_seconds"]
    assert total["gpu_wall_seconds"] > 0.26 * total["gpu_seconds"]  # the chain to a fused image has no second at once
    assert rows["classifier"]["cpu_basis"]["origin"] == "shipped"
    assert rows["classifier"]["gpu_basis"] == {"measured": False}
    assert rows["dataset-phantom"]["gpu_basis"]["measured"]  # no network: measured on a processor


def test_what_is_finished_is_reused_and_tells_how_fast_the_machine_is(bench: Bench, toy_run: ToyRun) -> None:
    before = files(toy_run.store)
    said = bench("run", "toy", "--dry-run", "--json", "--store", toy_run.store)
    told = json.loads(said.out)
    assert said.code == 0
    assert (told["total"]["compute"], told["total"]["cpu_seconds"], told["total"]["bytes"]) == (0, 0, 0)
    assert stages(told)["codec"]["reused"] == 1
    said = bench("run", "toy", "--dry-run", "--json", "--store", toy_run.store, "--set", "classifier.steps=5")
    rows = stages(json.loads(said.out))
    assert {name for name, row in rows.items() if row["compute"]} == {"classifier", "scores"}
    took = [m["seconds"] for m in Store(toy_run.store).manifests() if m["stage"] == "classifier"]
    basis = rows["classifier"]["cpu_basis"]
    assert (basis["origin"], basis["n"]) == ("this store", 8)
    assert 1 <= basis["times"] < 1.3
    assert 0.9 * 8 * min(took) < rows["classifier"]["cpu_seconds"] < 1.3 * 8 * max(took)
    text = bench("run", "toy", "--dry-run", "--store", toy_run.store, "--set", "classifier.steps=5").out
    assert "finished stages of this store" in text
    assert "is an ASSUMPTION (--tflops), not a measurement" in text
    assert files(toy_run.store) == before


def test_what_failed_before_is_left_out_as_a_run_leaves_it(bench: Bench, tmp_path: Path) -> None:
    store, matrix = Store(tmp_path / "store"), load_matrix("toy")
    codec = next(s for s in walk([s for c in matrix.cells for s in c.targets]) if s.stage_name() == "codec")
    store.record_failure(codec, ValueError("the loss is no number"))
    said = bench("run", "toy", "--dry-run", "--json", "--store", store.root)
    told, rows = json.loads(said.out), stages(json.loads(said.out))
    assert (said.code, told["ready"]) == (1, False)
    assert (rows["codec"]["compute"], rows["codec"]["stopped"]) == (0, 1)
    assert rows["augmented ours@0"]["stopped"] == 1
    assert rows["augmented smote"]["stopped"] == 0
    assert told["failed"] == [f"codec {codec.key[:8]}: ValueError: the loss is no number"]
    plain = bench("run", "toy", "--dry-run", "--store", store.root)
    assert f"{told['total']['stopped']} stages failed before, or wait for such a one" in plain.out
    again = bench("run", "toy", "--dry-run", "--retry-failed", "--json", "--store", store.root)
    assert (again.code, json.loads(again.out)["total"]["stopped"]) == (0, 0)


def test_bytes_are_those_that_a_run_leaves(toy_run: ToyRun) -> None:
    planned = walk([s for c in load_matrix("toy").cells for s in c.targets])
    sizes, told, left = Sizes(), defaultdict(float), defaultdict(float)
    for stage in planned:
        cost = stage.cost(sizes)
        assert cost is not None
        told[stage.stage_name()] += cost.bytes
    for manifest in Store(toy_run.store).manifests():
        left[manifest["stage"]] += manifest["bytes"]
    large = {name: n for name, n in left.items() if n > 50_000}
    assert {"classifier", "codec", "latents", "dataset-phantom", "scores", "realfeatures"} <= large.keys()
    assert {name: told[name] for name in large} == pytest.approx(large, rel=0.05)
    assert sum(told.values()) == pytest.approx(sum(left.values()), rel=0.02)


def test_a_manifest_tells_what_its_stage_took(toy_run: ToyRun) -> None:
    planned = {s.key: s for s in walk([s for c in load_matrix("toy").cells for s in c.targets])}
    store, sizes = Store(toy_run.store), Sizes()
    found = {stage.key: stage for stage, _ in rebuilt(store, {digest(SHIPPED): str(SHIPPED)})}
    assert found.keys() == planned.keys()
    of_store = Sizes(store)
    for key, stage in found.items():
        mine, own = stage.cost(of_store), planned[key].cost(sizes)
        assert mine is not None
        assert (mine.flop, mine.host, mine.images) == (own.flop, own.host, own.images)  # type: ignore[union-attr]
    assert all(m["device_name"] for m in store.manifests())


def test_the_paper_without_data_weights_or_gpu_is_told_and_refused(bench: Bench, tmp_path: Path) -> None:
    bench.monkeypatch.chdir(tmp_path)
    said = bench("run", "paper", "--dry-run", "--json", "--tflops", 20)
    assert said.code == 1
    told, rows = json.loads(said.out), stages(json.loads(said.out))
    assert not told["ready"]
    missing = " ".join(m["what"] + m["said"] for m in told["missing"])
    assert all(word in missing for word in ("data/cxr-lt", "data/mimic-cxr-jpg", "weights/roentgen"))
    assert "documented, not counted" in told["documented"]["mimic-cxr-lt"]
    assert (rows["codec"]["compute"], rows["latents"]["compute"], rows["classifier"]["compute"]) == (3, 1, 21)
    assert told["total"]["not_estimated"] == 0
    assert told["gpu"] == {"name": None, "assumed_tflops": 20}
    assert rows["latents"]["gpu_seconds"] == pytest.approx(rows["latents"]["tflop"] / 20, rel=0.01)
    pilot = bench("run", "paper", "--dry-run", "--json", *(a for s in told["pilot"] for a in ("--set", s)))
    smaller = json.loads(pilot.out)["total"]
    assert smaller["compute"] < told["total"]["compute"]
    assert smaller["tflop"] < told["total"]["tflop"] / 20
    text = bench("run", "paper", "--dry-run").out
    assert text.count("MISSING") == len(told["missing"])
    assert list(tmp_path.iterdir()) == []


def test_a_preset_is_counted_without_its_folder_and_any_other_model_is_not() -> None:
    roentgen = diffusion_flops(DiffusionModel(preset="roentgen-v1", folder="/nowhere"))
    assert roentgen.latent_shape(512) == (4, 64, 64)
    once = roentgen.denoise(512, 1, 75, 1.0)
    assert once == pytest.approx(2 * 401e9, rel=0.01)  # of Stable Diffusion 1's UNet, at 64 x 64
    assert roentgen.denoise(512, 75, 75, 4.0) == 76 * 2 * once  # with and without words, PNDM's second step twice
    assert roentgen.denoise(512, 0, 75, 4.0) == 0
    with pytest.raises(NoEstimate, match="not there"):
        diffusion_flops(DiffusionModel(folder="/nowhere"))


def test_an_assumption_without_a_dry_run_is_refused(bench: Bench, tmp_path: Path) -> None:
    said = bench("run", "toy", "--tflops", 20, "--store", tmp_path / "store")
    assert (said.code, said.out) == (2, "")
    assert said.err == "error: --tflops: is an assumption of --dry-run; leave it out, or add --dry-run\n"
