"""What all tests share: no network, one thread, and one undisturbed run of the toy matrix."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share few cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("BENCH_STORE", None)

ROOT = Path(__file__).parents[1]
BENCH = [sys.executable, "-m", "bench.cli"]


# Files that take long or mostly wait, the longest first: one that comes last keeps one core busy and the others idle.
LONGEST = [
    "slurm/test_executor.py",
    "reliability/test_crashes.py",
    "e2e/bad_input/test_environment.py",
    "reliability/test_machine_faults.py",
    "slurm/test_matrix.py",
    "e2e/test_paper.py",
    "e2e/test_border.py",
    "e2e/test_failures.py",
    "e2e/test_dashboard.py",
    "e2e/test_cli.py",
    "reliability/test_store_faults.py",
    "e2e/test_readme.py",
    "unit/classifier/test_classifier.py",
    "e2e/test_jobs.py",
    "unit/tracking/test_uploads.py",
    "unit/tracking/test_kills.py",
    "unit/tracking/test_tracker.py",
    "unit/tracking/test_save_dashboard.py",
    "reliability/test_trainings_resume.py",
    "unit/reports/test_report.py",
]


# They kill, wait and run whole programs on a real scheduler. `make check` and CI run them, `make test` leaves them out.
LONG = {
    "slurm/test_executor.py",
    "slurm/test_matrix.py",
    "reliability/test_crashes.py",
    "reliability/test_machine_faults.py",
    "reliability/test_store_faults.py",
    "reliability/test_trainings_resume.py",
    "e2e/test_chestmnist.py",
    "e2e/test_cifar_lt.py",
    "e2e/test_paper.py",
    "unit/sweeps/test_sweep_kills.py",
    "unit/tracking/test_kills.py",
    "unit/tracking/test_live.py",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the long files, and put the longest first; workers take files in this order."""
    order = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path, len(order)))
    long = {ROOT / "tests" / name for name in LONG}
    for item in items:
        if item.path in long:
            item.add_marker(pytest.mark.long)


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """Give signals back the handlers that they had before a test.

    A command that was stopped ignores them until its process ends. A test that runs one in this process would leave
    that to the programs that later tests start and want to stop.
    """
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@dataclass(frozen=True)
class ToyRun:
    """What `bench run toy --json` did: the store it filled and what it said."""

    store: Path
    code: int
    stdout: str
    stderr: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The table, as printed."""
        return json.loads(self.stdout)


def shared_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> Path:
    """Return a folder that all workers of this run of the tests have in common."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / name
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """Run the shipped toy matrix once, in processes of its own, for every test that looks at the result.

    Beside other workers the first one runs it, and each has a copy of the store for itself.
    """
    own = tmp_path_factory.mktemp("toy") / "store"
    shared = shared_folder(tmp_path_factory, "toy-of-all")
    with open(shared / "lock", "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (shared / "done.json").exists():
            command = [
                *BENCH,
                "run",
                "toy",
                "--json",
                "--jobs",
                "2",
                "--wandb",
                "off",
                "--store",
                str(shared / "store"),
            ]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            (shared / "done.json").write_text(json.dumps([done.stdout, done.stderr]), encoding="utf-8")
        shutil.copytree(shared / "store", own)
    stdout, stderr = json.loads((shared / "done.json").read_text(encoding="utf-8"))
    return ToyRun(own, 0, stdout, stderr)
