"""`bench doctor` where all is well, and for each thing that can be wrong on one machine."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import tempfile
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.doctor import machine as here
from bench.doctor.matrix import precision_fault
from bench.doctor.slurm import why_refused
from bench.plugins import registry
from bench.plugins.discovery import Broken
from bench.run.machine_file import JobRequest
from tests.e2e.driver import Bench, Said

CHECKED = {
    "python",
    "libraries",
    "device",
    "cores",
    "memory",
    "store's disk",
    "store is writable",
    "locks",
    "temporary folder",
    "W&B",
    "plugins",
}


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Bench:
    return Bench(monkeypatch, capfd)


def wrong(said: Said) -> list[str]:
    """Return what is wrong, after looking at the exit code and that nothing else was said."""
    *lines, last = said.out.splitlines()
    assert all(line.startswith(("ok    ", "WRONG ", "Data and weights")) for line in lines), said.out
    found = [re.sub(r": +", ": ", line[6:], count=1) for line in lines if line.startswith("WRONG")]
    names = [line.partition(":")[0] for line in found]
    n = len([line for line in lines if not line.startswith("Data and")])
    assert last == f"{n} things looked at, " + (f"{len(found)} wrong: {'; '.join(names)}" if found else "all is well")
    assert said.code == bool(found)
    return found


def looked_at(said: Said) -> set[str]:
    return {line[6:].partition(":")[0] for line in said.out.splitlines() if line.startswith(("ok    ", "WRONG "))}


def test_all_is_well_and_the_store_is_left_as_it_was(bench: Bench, tmp_path: Path) -> None:
    said = bench("doctor", "--store", tmp_path / "new" / "store")
    assert wrong(said) == []
    assert looked_at(said) == CHECKED
    assert "Name a matrix to check them: bench doctor paper" in said.out
    assert list(tmp_path.iterdir()) == []


def test_the_same_as_data(bench: Bench, tmp_path: Path) -> None:
    said = bench("doctor", "--json", "--store", tmp_path)
    found = json.loads(said.out)
    assert said.code == 0
    assert {check["what"] for check in found} == CHECKED
    assert all(check["ok"] is True and check["said"] for check in found)


def test_a_store_that_cannot_be_written(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (line,) = wrong(bench("doctor", "--store", tmp_path / "file" / "store"))
    assert line.startswith("store is writable: store ")
    assert "Not a directory; choose another with --store" in line


def test_a_file_system_without_locks(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fcntl, "flock", lambda *args: None)  # as where each host has locks of its own
    (line,) = wrong(bench("doctor", "--store", tmp_path))
    assert line.startswith("locks: flock: a second process is let in; set `locks: lease` in the machine file")
    machine = tmp_path / "machine.yaml"
    machine.write_text("locks: lease")
    said = bench("doctor", "--store", tmp_path, "--machine", machine)
    assert wrong(said) == []
    assert re.search("locks: +lease: a second process has to wait", said.out)


def test_a_library_that_is_too_old_and_one_that_is_missing(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = ["numpy>=99", "never-written>=1", "torch", 'pytest>=99; extra == "dev"']
    monkeypatch.setattr(metadata, "requires", lambda name: wanted)
    (line,) = wrong(bench("doctor", "--store", tmp_path))
    assert line == (
        "libraries: not installed, or another version: numpy>=99, never-written>=1; run `pip install -e .` again"
    )


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(bench: Bench, tmp_path: Path) -> None:
    machine = tmp_path / "machine.yaml"
    machine.write_text("device: cuda")
    (line,) = wrong(bench("doctor", "--store", tmp_path, "--machine", machine))
    assert line == "device: cuda is asked for, and torch sees no GPU here; see `nvidia-smi`, or give cpu or auto"
    machine.write_text("device: mps")
    (line,) = wrong(bench("doctor", "--store", tmp_path, "--machine", machine))
    assert line == "device: mps is asked for, and torch sees no mps here; give cpu or auto"


def test_each_gpu_computes_in_half_precision_too(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = SimpleNamespace(name="H100", total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: facts)
    real, tried = here.device_fault, list[tuple[str, str]]()

    def on_cpu(device: str, precision: str) -> str | None:
        tried.append((device, precision))
        return real("cpu", precision)

    monkeypatch.setattr(here, "device_fault", on_cpu)
    assert here.devices() == ("cuda: H100 80 GB, H100 80 GB", True)
    assert tried == [(f"cuda:{i}", p) for i in range(2) for p in ("float32", "float16", "bfloat16")]
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda images, kernel: images * 0)
    assert here.devices() == ("cpu computes nonsense in float32 (H100)", False)


def test_a_device_that_does_not_compute() -> None:
    assert "cuda:7 does not compute in float32" in str(here.device_fault("cuda:7", "float32"))


def test_a_temporary_folder_without_room(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def used(path: Any) -> Any:
        return SimpleNamespace(free=1000) if str(path).endswith("tmp") else usage

    monkeypatch.setattr(shutil, "disk_usage", used)
    (line,) = wrong(bench("doctor", "--store", tmp_path / "store"))
    assert line == f"temporary folder: 1.0 kB free at {tmp_path / 'tmp'}; make room, or set TMPDIR to another folder"


def test_what_matrices_lack(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said = bench("doctor", "toy", "paper", "--store", tmp_path / "store", "--set", "diffusion.precision=float32")
    found = wrong(said)
    assert [line.partition(":")[0] for line in found] == [
        "paper, mimic-cxr-lt, label files",
        "paper, mimic-cxr-lt, pictures",
        "paper, diffusion.folder",
    ]
    assert looked_at(said) >= CHECKED | {"toy, fidelity.extractor.folder", "toy, diffusion.folder", "toy, precision"}
    assert list(tmp_path.iterdir()) == []
    as_data = json.loads(bench("doctor", "paper", "--json", "--store", tmp_path / "store").out)
    assert [check["what"] for check in as_data if not check["ok"]][:3] == [line.partition(":")[0] for line in found]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(("papr",), "did you mean 'paper'?"), (("toy", "--set", "sedes=[0]"), "did you mean 'seeds'?"),
     (("--set", "seeds=[0]"), "--set: changes a matrix; name one")],
)  # fmt: skip
def test_a_matrix_that_cannot_be_understood(bench: Bench, arguments: tuple[str, ...], said: str) -> None:
    told = bench("doctor", *arguments)
    assert (told.code, told.out) == (2, "")
    assert said in told.err


@pytest.mark.parametrize(
    ("precision", "device", "native", "fault"),
    [
        ("float16", "cpu", False, "float16 on a CPU is some twenty times slower"),
        ("float16", "cuda", False, None),
        ("float32", "cpu", False, None),
        ("bfloat16", "cpu", False, None),
        ("bfloat16", "cuda", True, None),
        ("bfloat16_on_gpu", "cuda:1", False, "this GPU only emulates bfloat16"),
        ("bfloat16_on_gpu", "cpu", False, None),
    ],
)
def test_precisions_that_make_no_sense(
    monkeypatch: pytest.MonkeyPatch, precision: str, device: str, native: bool, fault: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    found = precision_fault(precision, device)
    assert found == fault or (found and fault and found.startswith(fault))


def test_a_plugin_that_does_not_import(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "broken", lambda: [Broken("methods.mine", "SyntaxError: here")])
    (line,) = wrong(bench("doctor", "--store", tmp_path))
    assert line == "plugins: methods.mine cannot be used: SyntaxError: here; its cells would fail; repair it"


def test_a_check_that_breaks_does_not_hide_the_others(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks() -> Any:
        raise RuntimeError("no driver")

    monkeypatch.setattr(torch.cuda, "is_available", breaks)
    said = bench("doctor", "--store", tmp_path)
    assert wrong(said) == ["device: RuntimeError: no driver"]
    assert looked_at(said) == CHECKED


def test_no_slurm_here(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    machine = tmp_path / "machine.yaml"
    machine.write_text("{executor: slurm, device: cuda}")  # of the nodes, not of this machine
    (line,) = wrong(bench("doctor", "--store", tmp_path, "--machine", machine))
    assert line.startswith("SLURM's commands: not here: sbatch, squeue, scancel, scontrol, srun; run this on")


def test_an_executor_that_does_not_exist(bench: Bench, tmp_path: Path) -> None:
    said = bench("doctor", "--store", tmp_path, "--executor", "slum")
    assert (said.code, said.out) == (2, "")
    assert "did you mean 'slurm'?" in said.err


PARTITIONS = {
    "gpu": {"PartitionName": "gpu", "State": "UP", "MaxTime": "2-12:00:00"},
    "long": {"PartitionName": "long", "State": "UP", "MaxTime": "UNLIMITED"},
    "shut": {"PartitionName": "shut", "State": "DOWN"},
}
NODES = [
    {"NodeName": "g1", "CPUTot": "64", "RealMemory": "512000", "Gres": "gpu:a100:4(S:0-1)", "State": "MIXED"},
    {"NodeName": "g2", "CPUTot": "128", "RealMemory": "1024000", "Gres": "gpu:h100:8", "State": "IDLE+DRAIN"},
]
NODES = [node | {"Partitions": "gpu,long", "Reason": "fan"} for node in NODES]


@pytest.mark.parametrize(
    ("ask", "partition", "why"),
    [
        (JobRequest(cpus=64, memory_gb=500, gpus=4, minutes=3600), "gpu", None),
        (JobRequest(minutes=3601), "gpu", "3601 minutes, and partition gpu allows 3600; set minutes to 3600 or less"),
        (JobRequest(minutes=99999), "long", None),
        (JobRequest(), "gpus", "no partition gpus; did you mean 'gpu'? (have: gpu, long, shut)"),
        (JobRequest(), "shut", "partition shut is DOWN"),
        (
            JobRequest(gpus=9),
            "gpu",
            "no node of partition gpu has it; its nodes have CPUs/GB/GPUs 128/1000/8, 64/500/4",
        ),
        (JobRequest(cpus=65), "gpu", "the nodes of partition gpu that have it are out of use: g2 IDLE+DRAIN fan"),
        (
            JobRequest(memory_gb=501),
            "long",
            "the nodes of partition long that have it are out of use: g2 IDLE+DRAIN fan",
        ),
    ],
)
def test_what_a_partition_cannot_give(ask: JobRequest, partition: str, why: str | None) -> None:
    found = why_refused(ask, "it", partition, PARTITIONS, NODES)
    assert found == why or (why and found and found.startswith(why))
