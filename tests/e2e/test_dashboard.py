"""`bench dashboard`: panels and a report of what was uploaded; every name in them is in the runs."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.matrix.load import load_matrix
from bench.results.cells import read_matrix
from bench.store.store import Store
from reports.paper_table import markdown, parts_of
from tests.conftest import BENCH, ROOT, ToyRun
from tests.dashboard_keys import Held
from tests.e2e.driver import Bench, refused
from tests.track_fixtures import server  # noqa: F401 - a fixture
from tests.wandb_stub import Wandb


def copied(toy_run: ToyRun, folder: Path) -> Path:
    return shutil.copytree(toy_run.store, folder / "store")


@pytest.fixture(scope="module")
def offline(toy_run: ToyRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a store whose cells have offline runs."""
    store = copied(toy_run, tmp_path_factory.mktemp("offline"))
    subprocess.run([*BENCH, "upload", "toy", "--wandb", "offline", "--store", store], cwd=ROOT, check=True)
    return store


def inspected(run: Path) -> dict:
    """Return what W&B's own program reads in an offline run."""
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--summary", "--json", run]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        pytest.skip(f"`wandb leet inspect` is not usable here: {done.stderr[-200:]}")
    return json.loads(done.stdout)


def test_offline_runs_hold_whatever_the_panels_name(bench: Bench, offline: Path) -> None:
    store = offline
    said = bench("dashboard", "toy", "--store", store, "--dry-run")
    assert (said.code, said.err) == (0, "")
    held = Held()
    runs = [inspected(run) for run in store.glob("wandb/offline-run-*")]
    runs = [run for run in runs if "stage" not in run["config"]]  # a shared training is no row
    for run in runs:
        held.config |= {name for name, value in run["config"].items() if value is not None}
        held.summary |= set(run["summary"])  # W&B writes the last value of all that is logged into it
    for table in store.glob("wandb/offline-run-*/files/media/table/*.json"):
        held.columns |= set(json.loads(table.read_text())["columns"])
    found = json.loads(said.out)
    assert {"phantom-fusion-ours-0", "phantom-samples-smote"} <= set(found["figures"])
    held.summary |= set(found["figures"])  # which are logged by these names when the dashboard is saved
    (space,) = found["workspaces"]
    (only,) = space["spec"]["section"]["runSets"][0]["filters"]["filters"]
    assert sorted(only["value"]) == sorted(run["run_id"] for run in runs)
    assert held.lacks(found) == set()
    told = json.dumps(space["spec"])
    names = ("fid_tail", "ap_Fracture", "denoise_steps", "classifier/val_map_tail", "samples", "per_class")
    names += ("pr_curves", "fusion_pairs")
    assert [name for name in names if f'{name}"' not in told and f"{name}.value" not in told] == []


def test_the_report_holds_the_table_as_bench_report_writes_it(bench: Bench, toy_run: ToyRun) -> None:
    matrix, store = load_matrix("toy"), Store(toy_run.store)
    local = markdown(parts_of(matrix, read_matrix(matrix, store), store))
    found = json.loads(bench("dashboard", "toy", "--store", toy_run.store, "--dry-run").out)
    texts = [block["content"] for block in found["report"]["spec"]["blocks"] if block["type"] == "markdown-block"]
    assert texts[1] == local
    for row in toy_run.rows:  # of `bench table --json`
        line = next(line for line in local.splitlines() if line.startswith(f"| {row['method']} | "))
        assert f"| {row['map_head']:.3f} | {row['map_tail']:.3f}" in line


def test_a_dashboard_is_saved_beside_the_runs_and_replaced(
    bench: Bench,
    toy_run: ToyRun,
    server: Wandb,  # noqa: F811
    tmp_path: Path,
) -> None:
    store = copied(toy_run, tmp_path)
    bench("upload", "toy", "--store", store)
    first = bench("dashboard", "toy", "--store", store)
    assert (first.code, first.err) == (0, "")
    space, told = first.out.splitlines()
    assert space.startswith(f"created toy on phantom: {server.url}/me/longtail-bench?nw=")
    assert told.startswith(f"created bench dashboard toy: {server.url}/me/longtail-bench/reports/")
    next(store.rglob("*smote*/wandb.json")).unlink()
    again = bench("dashboard", "toy", "--store", store, "--json")
    assert again.code == 0
    assert "the panels lack 1 of 8 finished cells (phantom/smote/s0), which were not uploaded there" in again.err
    assert f"`bench upload toy --store {store}` sends them" in again.err
    found = json.loads(again.out)
    assert [one["was"] for one in (*found["workspaces"], found["report"])] == ["updated", "updated"]
    assert f"updated toy on phantom: {found['workspaces'][0]['url']}" == space.replace("created", "updated")
    assert sorted(view["type"] for view in server.views.values()) == ["project-view", "runs"]
    (figures,) = [run for run in server.runs.values() if run.get("job_type") == "figures"]
    assert len(figures["history"]) == 2
    assert str(store) not in server.text
    (fused,) = [run for run in server.runs.values() if run["name"] == "phantom/ours@1/s0"]
    assert {"pr_curves", "fusion_pairs"} <= set(fused["summary"])


def test_without_finished_or_uploaded_cells_or_the_library_there_is_one_line(
    bench: Bench, offline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    said = refused(bench, "dashboard", "toy", folder=tmp_path / "empty")
    assert said == "no cell of toy is finished, so there is nothing to show; first: bench run toy"
    store = offline
    said = refused(bench, "dashboard", "toy", "--store", store, folder=store.parent)
    assert said == f"no finished cell was uploaded to W&B; first: bench upload toy --store {store}"
    said = refused(bench, "dashboard", "toy", "--dry-run", "--entity", "me", "--store", store, folder=store.parent)
    assert said == "--dry-run: names no project, since nothing is saved; leave out --entity and --project"
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "wandb_workspaces" else find(name))
    said = refused(bench, "dashboard", "toy", "--dry-run", "--store", store, folder=store.parent)
    assert said == "wandb-workspaces is not installed; install it with: pip install 'longtail-bench[dashboard]'"
