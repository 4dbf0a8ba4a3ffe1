"""A real matrix on SLURM: its driver is stopped, a worker is killed, and the table is that of a run in processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.store.store import Store
from tests.conftest import BENCH, ROOT, ToyRun
from tests.reliability.helpers import until
from tests.slurm.cluster import Cluster

METHODS = ["baseline", "smote"]
MACHINE = """
executor: slurm
device: cpu
slurm:
  poll_s: 0.5
  settle_s: 1
  cpu: {cpus: 1, memory_gb: 2, minutes: 20}
  gpu: {cpus: 1, memory_gb: 2, minutes: 20, gpus: 0}
"""


@pytest.fixture
def command(tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the options that every verb takes here."""
    for name, value in cluster.env.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "machine.yaml").write_text(MACHINE, encoding="utf-8")
    monkeypatch.setenv("BENCH_MACHINE", str(tmp_path / "machine.yaml"))
    return ["toy", "--set", f"methods=[{', '.join(METHODS)}]", "--store", str(tmp_path / "store")]


def bench(verb: str, *args: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*BENCH, verb, *args], cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_a_matrix_goes_on_without_its_driver_and_after_a_killed_worker(
    command: list[str], tmp_path: Path, toy_run: ToyRun
) -> None:
    root = tmp_path / "store"
    driver = subprocess.Popen(
        [*BENCH, "run", *command, "--wandb", "off"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    assert until(lambda: list(root.glob("classifier/*.work/progress.json")), 240)
    driver.send_signal(signal.SIGTERM)  # a background shell has its children ignore SIGINT
    _, said = driver.communicate(timeout=60)
    assert driver.returncode == 130
    assert "the SLURM jobs go on without this command. Watch them again with: bench run toy" in said
    holders = list(Store(root).locks.held())
    assert all(h["job"] for h in holders)
    os.kill(holders[0]["pid"], signal.SIGKILL)
    rows = {r["cell"]: r for r in json.loads(bench("status", *command, "--json").stdout)}
    assert len(rows) == len(METHODS)
    done = bench("run", *command, "--wandb", "off", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout) == [r for r in toy_run.rows if r["method"] in METHODS]
    computed = {
        path.stem: path.read_text(encoding="utf-8").count(" computed in ") for path in root.glob("logs/*/*.log")
    }
    assert set(computed.values()) == {1}
    assert " job " in bench("logs", *command, "smote").stdout
    assert list(root.glob("*/*.work")) == []


def test_a_request_to_a_machine_without_slurm_is_one_line(command: list[str], tmp_path: Path) -> None:
    env = os.environ | {"PATH": str(Path(sys.executable).parent)}
    said = bench("run", *command, "--wandb", "off", env=env)
    assert said.returncode == 2
    assert said.stderr.startswith("error: --executor slurm: no `sbatch` here")
    assert said.stderr.count("\n") == 1
    assert not (tmp_path / "store").exists()
