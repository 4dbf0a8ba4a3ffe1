"""A cell is shown at W&B while its classifier is trained, by whatever process; no row is sent twice."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from bench.files import write_strict_json
from bench.matrix.build import build_matrix
from bench.matrix.matrix import Matrix
from bench.results import record
from bench.store.claims import Claim
from bench.store.store import Store
from bench.tracking import tracker as track
from bench.tracking.marker import run_id
from bench.tracking.tracker import WandbTracker
from bench.tracking.upload import Uploaded, upload
from tests.conftest import ROOT
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import server  # noqa: F401 - a fixture
from tests.wandb_stub import Wandb

Place = tuple[Store, Matrix]


def until(found: Callable[[], object]) -> None:
    limit = time.monotonic() + 60
    while not found():
        assert time.monotonic() < limit
        time.sleep(0.02)


class Training:
    """The classifier of the matrix's second cell, as a process that trains it makes it visible in the store."""

    def __init__(self, place: Place) -> None:
        """Take the finished result out of the store."""
        self.store, self.cell = place[0], place[1].cells[1]
        self.stage = self.cell.classifier
        self.folder = self.store.folder(self.stage)
        self.beside = self.folder.with_name("finished")
        self.folder.rename(self.beside)
        self.history = json.loads((self.beside / "history.json").read_text())
        self.claim: Claim | None = None

    def begin(self) -> None:
        self.claim = self.store.locks.try_claim(self.stage.key, {})
        assert self.claim

    def write(self, n_rows: int) -> None:
        """Write the first rows of the history, as at a validation."""
        write_strict_json(self.folder.with_suffix(".work") / "ckpt.1" / "history.json", self.history[:n_rows])

    def die(self) -> None:
        assert self.claim
        self.claim.release()

    def finish(self) -> None:
        self.beside.rename(self.folder)
        self.die()
        shutil.rmtree(self.folder.with_suffix(".work"))


@pytest.fixture
def training(place: Place) -> Training:
    return Training(place)


@contextmanager
def tracked(place: Place, said: list[str]) -> Iterator[WandbTracker]:
    tracker = track.make_tracker("online", *place, said.append)
    assert isinstance(tracker, WandbTracker)
    try:
        yield tracker
    finally:
        tracker.close()


def child_of(tracker: WandbTracker) -> Any:
    assert tracker._live is not None
    return tracker._live._process


def rows(server: Wandb) -> list[dict[str, Any]]:  # noqa: F811
    """The rows of the only run, in the order of their offsets."""
    found = list(server.runs.values())
    return [found[0]["history"][key] for key in sorted(found[0]["history"], key=int)] if found else []


def check_whole(place: Place, server: Wandb, training: Training) -> None:  # noqa: F811
    """The cell's run has everything once, under the id that it was begun with."""
    found = record.read_record(record.record_folder(place[0], training.cell))
    assert found is not None
    (path,) = [path for path, run in server.runs.items() if run["name"] == training.cell.name]
    assert path.endswith(run_id(found))
    run = server.runs[path]
    assert run["state"] == "finished"
    assert [row["_step"] for row in run["history"].values()] == list(range(6))
    mine = [row for row in server.sent_rows if "classifier/train_loss" in row]
    losses = [row["train_loss"] for row in training.history]
    assert [row["classifier/train_loss"] for row in mine if row in run["history"].values()] == pytest.approx(losses)
    assert run["summary"]["map_all"] == pytest.approx(found["scores"]["map_all"])
    assert not (record.record_folder(place[0], training.cell) / "live.json").exists()
    assert not list(place[0].root.glob("wandb/*.log"))


def test_a_training_is_shown_and_its_run_gets_the_rest_in_the_end(
    place: Place,
    server: Wandb,  # noqa: F811
    training: Training,
) -> None:
    said: list[str] = []
    with tracked(place, said) as tracker:
        tracker.begun([training.cell])
        time.sleep(1.0)
        assert server.runs == {}  # nothing is trained yet
        training.begin()
        training.write(1)
        until(lambda: len(rows(server)) == 1)
        (run,) = server.runs.values()
        assert (run["state"], run["name"], run["group"]) == ("running", training.cell.name, "tiny")
        assert run["config"]["method"] == "copies"
        assert run["config"]["settings"]["classifier"]["steps"] == 2
        assert rows(server)[0]["classifier/val_map_tail"] == pytest.approx(training.history[0]["val_map_tail"])
        training.write(2)
        until(lambda: len(rows(server)) == 2)
        training.finish()
        tracker.cell_ended(training.cell)
    assert said == []
    check_whole(place, server, training)
    assert len(server.sent_rows) == 6
    assert upload(track.make_tracker("online", *place), place[1], lambda done, total: None) == Uploaded(1, 1, {}, 0)


@pytest.mark.parametrize("killed", ["mirror", "run", "training"])
def test_what_is_killed_goes_on_with_the_same_run(
    place: Place,
    server: Wandb,  # noqa: F811
    training: Training,
    killed: str,
) -> None:
    said: list[str] = []
    training.begin()
    training.write(1)
    with tracked(place, said) as tracker:
        tracker.begun([training.cell])
        until(lambda: len(rows(server)) == 1)
        if killed == "mirror":
            child = child_of(tracker)
            os.kill(child.pid, signal.SIGKILL)
            child.wait()
            tracker.begun([training.cell])  # the next thing that happens starts another
        elif killed == "training":
            training.die()  # its row was after its last checkpoint, so it is computed again
            training.write(0)
            training.begin()
            time.sleep(1.0)
            training.write(1)
            time.sleep(1.0)
        elif killed == "run":
            tracker.close()
            assert [run["state"] for run in server.runs.values()] == ["failed"]
    with tracked(place, said) as tracker:
        tracker.begun([training.cell])
        training.write(2)
        until(lambda: len(rows(server)) == 2)
        training.finish()
        tracker.cell_ended(training.cell)
    assert said == []
    assert len(server.runs) == 1
    check_whole(place, server, training)
    assert len(server.sent_rows) == 6


def test_a_server_that_refuses_gets_everything_in_the_end(
    place: Place,
    server: Wandb,  # noqa: F811
    training: Training,
) -> None:
    server.faults, said = {"refuse"}, []
    training.begin()
    training.write(1)
    with tracked(place, said) as tracker:
        tracker.begun([training.cell])
        until(lambda: server.ops.count("UpsertBucket") >= 1)
        server.faults = set()
        training.finish()
        tracker.cell_ended(training.cell)
    assert said == []
    assert [run["state"] for run in server.runs.values()] == ["finished"]
    assert len(server.sent_rows) == 6


def test_a_whole_run_is_left_alone_while_its_cell_is_trained_again(
    place: Place,
    server: Wandb,  # noqa: F811
) -> None:
    assert upload(track.make_tracker("online", *place), place[1], lambda done, total: None).sent == 2  # type: ignore[arg-type]
    before = json.dumps(server.runs)
    training = Training(place)
    training.begin()
    training.write(1)
    n_ops = len(server.ops)
    with tracked(place, []) as tracker:
        tracker.begun([training.cell])
        until(lambda: "Run" in server.ops[n_ops:])
        training.finish()
        tracker.cell_ended(training.cell)
    assert json.dumps(server.runs) == before


def test_offline_nothing_is_shown(place: Place, training: Training) -> None:
    tracker = track.make_tracker("offline", *place)
    training.begin()
    training.write(1)
    tracker.begun([training.cell])
    assert not (place[0].root / "wandb").exists()
    tracker.close()


def test_of_credentialed_data_the_curve_leaves_and_names_of_images_do_not(
    place: Place,
    server: Wandb,  # noqa: F811
    training: Training,
) -> None:
    said: list[str] = []
    training.begin()
    training.history[0] |= {"worst": "p10/p10000032/s1.jpg", "/data/mimic/p1.jpg": 0.5}
    training.write(1)
    with tracked(place, said) as tracker:
        folder = record.write_live_record(*place, training.cell, None)
        live = json.loads((folder / "live.json").read_text()) | {"sharing": "credentialed", "skip": "/data/mimic"}
        write_strict_json(folder / "live.json", live)
        tracker._live = track.LiveChild(place[0].root, None, all_open=False)
        tracker._live.begun(folder)
        until(lambda: len(rows(server)) == 1)
        assert rows(server)[0]["classifier/val_loss"] == pytest.approx(training.history[0]["val_loss"])
        assert "mimic" not in server.text
        assert "10000032" not in server.text


RUN = """
import sys, time
from pathlib import Path

from bench.classifier import training
from bench.matrix.build import build_matrix
from bench.plugins import registry
from bench.store.store import Store
from bench.tracking.tracker import make_tracker
from tests.tiny_cells import Baseline, Copies
from tests.track_fixtures import run
from tests.unit.tracking.test_live import slow

step, pause_s = training.Training._advance, float(sys.argv[2])


def slowly(self):
    time.sleep(pause_s)
    return step(self)


training.Training._advance, training.CHECKPOINT_SECONDS = slowly, 0.0
registry.methods = lambda: {"baseline": Baseline, "copies": Copies}
store, matrix = Store(Path(sys.argv[1])), build_matrix(slow(), "tiny")
run(matrix, store, make_tracker("online", store, matrix))
"""


def slow() -> dict[str, Any]:
    """A matrix of one cell, whose training has eight validations."""
    classifier = {"architecture": "resnet18", "steps": 16, "batch_size": 8, "n_validations": 8}
    return tiny(methods=["baseline"], settings={}, classifier=classifier)


def test_a_run_that_is_killed_while_it_trains(place: Place, server: Wandb) -> None:  # noqa: F811
    """The run, with all that it has started, is killed; the same command goes on with the same run at W&B."""
    store, matrix = place[0], build_matrix(slow(), "tiny")
    env = os.environ | {"PYTHONPATH": f"{ROOT}:{os.environ['PYTHONPATH']}"}
    command = [sys.executable, "-c", RUN, str(store.root)]
    with subprocess.Popen([*command, "0.5"], env=env, cwd=ROOT) as run:
        until(lambda: len(rows(server)) >= 2)
        run.kill()
    (path,) = server.runs
    until(lambda: server.runs[path]["state"] == "failed")  # what showed it ends with it
    n_before = len(rows(server))
    assert n_before < 8
    done = subprocess.run([*command, "0"], env=env, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "lacks" not in done.stderr
    assert list(server.runs) == [path]
    run_there = server.runs[path]
    found = record.read_record(record.record_folder(store, matrix.cells[0]))
    assert found is not None
    assert (run_there["state"], path.rpartition("/")[2]) == ("finished", run_id(found))
    curve = [row["classifier/train_loss"] for row in rows(server) if "classifier/train_loss" in row]
    assert curve == pytest.approx([row["train_loss"] for row in found["history"]])
    assert [row["_step"] for row in rows(server)] == list(range(len(rows(server))))
    assert len(server.sent_rows) == len(rows(server))  # none twice
