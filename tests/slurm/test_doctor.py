"""`bench doctor --executor slurm` on a real SLURM: what it finds wrong, and that it leaves nothing behind."""

from __future__ import annotations

import re
import shutil
import socket
from pathlib import Path

import pytest
import torch
import yaml

from tests.conftest import ROOT
from tests.e2e.driver import Bench, Said
from tests.slurm.cluster import Cluster

QUICK = {"poll_s": 0.3, "settle_s": 1.0}
CPU_ONLY = {"cpu": {"memory_gb": 2, "minutes": 30}, "gpu": {"gpus": 0, "memory_gb": 2, "minutes": 30}}


class Doctor:
    """Calls `bench doctor` with settings for SLURM, and keeps only what it says of SLURM."""

    def __init__(self, bench: Bench, folder: Path) -> None:
        self.bench, self.folder = bench, folder

    def __call__(self, settings: dict[str, object], *options: str) -> tuple[Said, list[str]]:
        machine = self.folder / "machine.yaml"
        machine.write_text(yaml.safe_dump({"executor": "slurm", "slurm": QUICK | settings}))
        said = self.bench("doctor", "--machine", machine, "--store", self.folder / "store", *options)
        assert not (self.folder / "store").exists()
        lines = [re.sub(r": +", ": ", line, count=1) for line in said.out.splitlines()]
        found = [line.removeprefix("WRONG ") for line in lines if line.startswith("WRONG")]
        assert said.code == bool(found)
        return said, found


@pytest.fixture
def doctor(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> Doctor:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return Doctor(Bench(monkeypatch, capfd), tmp_path)


def test_all_is_well(doctor: Doctor, cluster: Cluster) -> None:
    said, wrong = doctor(CPU_ONLY)
    assert wrong == []
    found = {line[6:].partition(":")[0] for line in said.out.splitlines()}
    probes = {
        f"probe {label}{what}" for label in ("cpu", "gpu") for what in ("", ", code", ", store", ", locks", ", clock")
    }
    assert probes | {"SLURM's commands", "slurmctld", "slurm.largest_array", "slurm.cpu", "slurm.gpu"} <= found
    assert cluster.squeue() == []


def test_what_the_cluster_cannot_give_is_said_before_any_job_is_sent(doctor: Doctor, cluster: Cluster) -> None:
    before = cluster.squeue("--states", "all")
    settings = {
        "largest_array": 5000,
        "cpu": {"partition": "mian"},
        "gpu": {"minutes": 600},
        "stages": {"codec": {"cpus": 64, "minutes": 5}, "clasifier": {}, "fused": {"minutes": 5, "constraint": "a100"}},
    }
    _, wrong = doctor(settings)
    starts = [
        "slurm.largest_array: 5000 tasks in an array; the cluster takes indices below 1001; set it to 1000",
        "slurm.stages.clasifier: no such stage; did you mean 'classifier'?",
        "slurm.cpu: no partition mian; did you mean 'main'? (have: high, low, main)",
        "slurm.gpu: 600 minutes, and partition main allows 60; set minutes to 60 or less",
        "slurm.stages.codec: no node of partition main has 64 CPUs, 32 GB, 1 GPUs",
        "slurm.stages.fused: 4 CPUs, 32 GB, 1 GPUs, 5 min: sbatch says: allocation failure: Invalid feature",
    ]
    assert len(wrong) == len(starts)
    assert [line for line, start in zip(wrong, starts, strict=True) if not line.startswith(start)] == []
    assert cluster.squeue("--states", "all") == before


def test_a_probe_that_does_not_start_says_why_and_is_taken_back(doctor: Doctor, cluster: Cluster) -> None:
    blocker = cluster.sbatch("sleep 60", "--exclusive")
    _, wrong = doctor({**CPU_ONLY, "gpu": {"partition": "nowhere"}}, "--wait", "1")
    assert [line.partition(":")[0] for line in wrong] == ["slurm.gpu", "probe cpu"]
    assert "did not start within 1 s: PENDING (" in wrong[1]
    assert [job["id"] for job in cluster.squeue()] == [blocker]


def test_a_node_whose_python_does_not_start(doctor: Doctor, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho no module named bench\nexit 1\n")
    python.chmod(0o755)
    _, wrong = doctor({**CPU_ONLY, "gpu": {"partition": "nowhere"}, "python": str(python)})
    assert "ended (FAILED) without a word: no module named bench" in wrong[1]


def test_a_node_with_other_code(doctor: Doctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("bench", "methods"):
        shutil.copytree(ROOT / package, tmp_path / "other" / package, ignore=shutil.ignore_patterns("assets", "*.pyc"))
    with open(tmp_path / "other" / "bench" / "seeds.py", "a") as handle:
        handle.write("\n# changed\n")
    monkeypatch.chdir(tmp_path)  # Python looks in the folder of submission first
    _, wrong = doctor({**CPU_ONLY, "setup": [f"export PYTHONPATH={tmp_path}/other"]})
    assert sorted(line.partition(":")[0] for line in wrong) == ["probe cpu, code", "probe gpu, code"]
    assert "other code of bench (" in wrong[0]


def test_a_node_with_locks_and_a_clock_of_its_own(doctor: Doctor, tmp_path: Path) -> None:
    patch = "import fcntl, time; fcntl.flock = lambda *a: None; now = time.time; time.time = lambda: now() - 60"
    (tmp_path / "sitecustomize.py").write_text(patch)
    setup = [f"export PYTHONPATH={tmp_path}:$PYTHONPATH"]
    _, wrong = doctor({**CPU_ONLY, "gpu": {"partition": "nowhere"}, "setup": setup})
    host = socket.gethostname()
    assert wrong[1:] == [
        f"probe cpu, locks: flock is not carried between {host} and {host}; set `locks: lease` in the machine file, "
        "or BENCH_LOCKS=lease, for every process at this store",
        wrong[-1],
    ]
    assert re.match(rf"probe cpu, clock: {host}'s clock is (5[0-9]|60) s off; have it synchronised", wrong[-1])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_slurm_gives_and_torch_does_not_see(doctor: Doctor) -> None:
    gpu = {"gpus": 2, "memory_gb": 2, "cpus": 1, "minutes": 5}
    _, wrong = doctor({"cpu": {"partition": "nowhere"}, "gpu": gpu})
    assert len(wrong) == 2
    assert wrong[1].startswith("probe gpu, GPUs: 2 asked for, torch sees none")


def test_a_cluster_that_does_not_answer(
    doctor: Doctor, tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = (cluster.folder / "slurm.conf").read_text()
    lines = [line if not line.startswith("SlurmctldPort") else "SlurmctldPort=1" for line in conf.splitlines()]
    (tmp_path / "slurm.conf").write_text("\n".join(lines))
    (tmp_path / "gres.conf").write_text((cluster.folder / "gres.conf").read_text())
    monkeypatch.setenv("SLURM_CONF", str(tmp_path / "slurm.conf"))
    _, wrong = doctor(CPU_ONLY)
    assert len(wrong) == 1
    assert wrong[0].startswith("slurmctld: does not answer (Slurmctld(primary) at")
