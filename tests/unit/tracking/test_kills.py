"""The run, the mirror and the server are killed in the middle: nothing is lost, nothing is sent twice."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.matrix.matrix import Matrix
from bench.store.store import Store
from bench.tracking import tracker as track
from bench.tracking.upload import Uploaded, upload
from tests.conftest import ROOT
from tests.tiny_cells import methods  # noqa: F401 - a fixture
from tests.track_fixtures import log_in, server  # noqa: F401 - a fixture
from tests.wandb_stub import Wandb

Place = tuple[Store, Matrix]


def send(place: Place, say: Callable[[str], object] = lambda line: None) -> Uploaded:
    tracker = track.make_tracker("online", *place, say)
    return upload(tracker, place[1], lambda done, total: None)


def until(found: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not found():
        assert time.monotonic() < limit
        time.sleep(0.01)


def check_whole(place: Place, runs: dict) -> None:
    """Every cell has one run, finished, with each row of its history once."""
    assert sorted(run["name"] for run in runs.values()) == sorted(cell.name for cell in place[1].cells)
    for run in runs.values():
        assert run["state"] == "finished"
        assert [row["_step"] for row in run["history"].values()] == list(range(len(run["history"])))
    assert sorted(len(run["history"]) for run in runs.values()) == [5, 6]
    assert send(place) == Uploaded(sent=0, there=2, lacking={}, unfinished=0)


@pytest.mark.parametrize("when", ["made", "filled"])
def test_a_mirror_that_is_killed(place: Place, server: Wandb, when: str) -> None:  # noqa: F811
    """It is killed when the server knows of the first run, or has all of it and no marker is written yet."""
    server.faults, said = {"slow"}, []
    tracker = track.make_tracker("online", *place, said.append)
    for cell in place[1].cells:
        tracker.add(cell)
    tracker.pump()
    assert tracker._child is not None
    until(lambda: [r for r in server.runs.values() if when == "made" or r["state"] == "finished"])
    os.kill(tracker._child._process.pid, signal.SIGKILL)  # W&B's own helper process notices it by itself
    tracker._child._process.wait()
    server.faults, n_rows = set(), len(server.sent_rows)
    tracker.close()  # the second try is part of it
    assert said == []
    check_whole(place, server.runs)
    assert len(server.sent_rows) == 11
    assert (n_rows > 0) == (when == "filled")


RUN = """
import os, sys, time
from pathlib import Path

from bench.matrix.build import build_matrix
from bench.plugins import registry
from bench.store.store import Store
from bench.tracking.tracker import make_tracker
from tests.tiny_cells import Baseline, Copies, tiny

registry.methods = lambda: {"baseline": Baseline, "copies": Copies}
store, matrix = Store(Path(sys.argv[1])), build_matrix(tiny(), "tiny")
tracker = make_tracker("online", store, matrix)
for cell in matrix.cells:
    tracker.cell_ended(cell)
print("told", flush=True)
time.sleep(60)
"""


def test_a_run_that_is_killed(place: Place, server: Wandb) -> None:  # noqa: F811
    """Its mirror goes on with the cell that it has; the next `bench upload` waits for that one, and sends the rest."""
    server.faults = {"slow"}
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
    command = [sys.executable, "-c", RUN, str(place[0].root)]
    with subprocess.Popen(command, env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "told\n"
        until(lambda: server.runs)
        run.kill()
    server.faults = set()
    assert send(place) == Uploaded(sent=1, there=1, lacking={}, unfinished=0)
    check_whole(place, server.runs)
    assert len(server.sent_rows) == 11


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def test_a_server_that_is_killed(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, kept = free_port(), tmp_path / "server.json"
    log_in(monkeypatch, tmp_path / "wandb-settings", f"http://127.0.0.1:{port}")

    def start(*faults: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "tests.wandb_stub", str(port), str(kept), *faults]
        found = subprocess.Popen(command, cwd=ROOT)
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
        return found

    first, said = start("slow"), []
    tracker = track.make_tracker("online", *place, said.append)
    for cell in place[1].cells:
        tracker.add(cell)
    tracker.pump()
    until(lambda: kept.exists() and json.loads(kept.read_text()))
    first.kill()
    first.wait()
    tracker.close()
    assert len(tracker.lacking) == 2
    assert len(said) == 1
    assert "connection refused" in said[0]
    assert not list(place[0].root.rglob("wandb.json"))
    second = start()
    try:
        assert send(place).lacking == {}
        check_whole(place, json.loads(kept.read_text()))
    finally:
        second.kill()
        second.wait()
