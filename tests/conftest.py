"""What all tests share: no network, one thread, and one undisturbed run of the toy matrix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported: tests share few cores
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.pop("BENCH_STORE", None)

ROOT = Path(__file__).parents[1]
BENCH = [sys.executable, "-m", "bench.cli"]


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


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> ToyRun:
    """Run the shipped toy matrix once, in processes of its own, for every test that looks at the result."""
    store = tmp_path_factory.mktemp("toy") / "store"
    command = [*BENCH, "run", "toy", "--json", "--jobs", "2", "--wandb", "off", "--store", str(store)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return ToyRun(store, done.returncode, done.stdout, done.stderr)
