"""`bench upload`: what W&B lacks is sent, nothing is computed, and the exit code says whether anything is lacking."""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest

from tests.conftest import ToyRun
from tests.e2e.driver import Bench, refused
from tests.track_fixtures import server  # noqa: F401 - a fixture
from tests.wandb_stub import Wandb


def stages(store: Path) -> set[Path]:
    return {path.parent for path in store.glob("*/*/manifest.json")}


def test_what_is_lacking_is_sent_and_the_exit_code_tells(
    bench: Bench,
    toy_run: ToyRun,
    server: Wandb,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = tmp_path / "store"
    shutil.copytree(toy_run.store, store)
    before = stages(store)
    server.faults = {"fs409"}
    few = ["--set", "methods=[baseline, duplicate]", "--set", "settings={}"]
    failed = bench("upload", "toy", *few, "--store", store)
    assert (failed.code, failed.out) == (1, "sent 0; W&B has 0 of 2 finished cells\n")
    assert "warning: W&B (online) lacks 2 of 2 runs (phantom/baseline/s0, phantom/duplicate/s0): " in failed.err
    command = shlex.join(["bench", "upload", "toy", *few, "--store", str(store)])
    assert f"`{command}` sends what is missing" in failed.err
    server.faults, n = set(), len(toy_run.rows)
    done = bench("upload", "toy", "--store", store)
    said = f"all {n + 1} runs, of {n} finished cells and 1 training that cells share"
    assert (done.code, done.out, done.err) == (0, f"sent {n + 1}; W&B has {said}\n", "")
    cells = {run["name"]: run for run in server.runs.values() if run["job_type"] != "stage"}
    assert sorted(cells) == sorted(f"phantom/{r['method']}/s0" for r in toy_run.rows)
    (codec,) = (run for run in server.runs.values() if run["job_type"] == "stage")
    users = {name for name, run in cells.items() if run["config"].get("stages") == {"codec": codec["name"]}}
    assert users == {f"phantom/ours@{d}/s0" for d in (0, 1, 2)}
    assert (codec["group"], codec["config"]["stage"], codec["config"]["dataset"]) == ("toy", "codec", "phantom")
    assert codec["config"]["settings"]["settings"]["generations"] == 2
    name = "codec/codec/generations/reconstruction_l1"
    losses = [row[name] for row in codec["history"].values() if name in row]
    (written,) = (json.loads(path.read_text()) for path in store.glob("codec/*/codec.json"))
    assert losses == [row["reconstruction_l1"] for row in written["generations"]]  # one a generation
    assert not any(key.startswith("codec/") for run in cells.values() for r in run["history"].values() for key in r)
    again = bench("upload", "toy", "--store", store, "--json")
    assert again.code == 0
    assert json.loads(again.out) == {"sent": 0, "there": n + 1, "lacking": {}, "unfinished": 0, "stages": 1}
    more = bench("upload", "toy", "--store", store, "--set", "seeds=[0,1]")
    assert more.code == 0
    assert more.out.startswith(f"nothing is missing: W&B has {said}; {n} more cells are not finished")
    assert stages(store) == before


def test_nothing_is_sent_without_results(bench: Bench, server: Wandb, tmp_path: Path) -> None:  # noqa: F811
    found = bench("upload", "toy", "--store", tmp_path / "store")
    assert (found.code, found.out) == (0, "no cell is finished, so there is nothing to send\n")
    assert server.ops == []
    assert not (tmp_path / "store").exists()


def test_a_mode_that_sends_nothing_is_refused(bench: Bench, tmp_path: Path) -> None:
    assert "--wandb off: nothing would be sent; give online or offline" in refused(
        bench, "upload", "toy", "--wandb", "off", folder=tmp_path
    )
