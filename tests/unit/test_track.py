"""Records and trackers: complete, idempotent, and unable to hurt the benchmark or to leak credentialed data."""

from __future__ import annotations

import http.server
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import yaml

from bench import border, mirror, record, track
from bench.errors import ConfigError, StoreError
from bench.execute.inline import Inline
from bench.matrix import Matrix, build_matrix, read_yaml
from bench.progress import Silent
from bench.results import read_cell
from bench.run import run_matrix
from bench.stage import walk
from bench.store import Execution, Store
from tests.conftest import ROOT
from tests.unit import tiny_cells
from tests.unit.tiny_cells import methods, tiny  # noqa: F401 - a fixture

FAKE_WANDB = {
    "absent": "raise ImportError('no wandb', name='wandb')",
    "no login": "Settings = dict\ndef init(**kwargs): raise RuntimeError('no API key\\nlog in first')",
    "hangs": "import time\nSettings = dict\ndef init(**kwargs): time.sleep(60)",
    "dies": "import os\nos._exit(3)",
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store in which the tiny matrix has run."""
    patch = pytest.MonkeyPatch()
    patch.setattr("bench.registry.methods", lambda: {"baseline": tiny_cells.Baseline, "copies": tiny_cells.Copies})
    store = Store(tmp_path_factory.mktemp("store"))
    run(build_matrix(tiny(), "tiny"), store, track.make_tracker("off", store, build_matrix(tiny(), "tiny")))
    yield store
    patch.undo()


def run(matrix: Matrix, store: Store, tracker: track.Tracker) -> None:
    run_matrix(matrix, store, executor=Inline(), execution=Execution("cpu"), reporter=Silent(), tracker=tracker)


def tell(tracker: track.Tracker, matrix: Matrix, store: Store) -> None:
    for cell in matrix.cells:
        tracker.cell_finished(cell, read_cell(cell, store))
    tracker.close()


@pytest.fixture
def place(finished: Store, tmp_path: Path, methods: None) -> tuple[Store, Matrix]:  # noqa: F811
    """A copy of the finished store without records, and its matrix."""
    shutil.copytree(finished.root, tmp_path / "store", ignore=shutil.ignore_patterns("cells", "wandb"))
    return Store(tmp_path / "store"), build_matrix(tiny(), "tiny")


def test_a_run_leaves_a_complete_record_of_every_cell(finished: Store, methods: None) -> None:  # noqa: F811
    matrix = build_matrix(tiny(), "tiny")
    for cell in matrix.cells:
        found = record.read_record(record.record_folder(finished, cell))
        assert found is not None
        assert (found["state"], found["key"], found["cell"]) == ("done", cell.key, cell.name)
        assert set(found["stages"]) == {s.key for s in walk(list(cell.targets))}
        assert all(s["state"] == "done" and s["seconds"] >= 0 for s in found["stages"].values())
        assert found["seeds"]["classifier"] == cell.classifier.seed
        assert found["versions"]["torch"]
        assert len(found["history"]) == 2
        assert found["scores"]["n_test"] > 0
    assert not (finished.root / "wandb").exists()  # --wandb off


def test_the_resolved_configuration_builds_the_same_cell(finished: Store, methods: None) -> None:  # noqa: F811
    matrix = build_matrix(tiny(), "tiny")
    for cell in matrix.cells:
        raw = read_yaml(record.record_folder(finished, cell) / "resolved.yaml")
        again = build_matrix(raw, "resolved.yaml")
        assert [c.key for c in again.cells] == [cell.key]
        assert again.cells[0].method == cell.method
        assert record.resolved(again.settings, again.cells) == raw
        assert raw["classifier"]["learning_rate"] == matrix.settings.classifier.learning_rate  # a default, written out
    both = yaml.safe_load(yaml.safe_dump(record.resolved(matrix.settings, matrix.cells)))
    assert [c.key for c in build_matrix(both, "x").cells] == [c.key for c in matrix.cells]


def test_a_record_of_the_same_results_is_not_touched(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    cell = matrix.cells[0]
    folder = record.write_record(store, matrix, cell, read_cell(cell, store), {"commit": "old", "dirty": False})
    before = (folder / "record.json").stat().st_mtime_ns
    record.write_record(store, matrix, cell, read_cell(cell, store), {"commit": "new", "dirty": False})
    assert (folder / "record.json").stat().st_mtime_ns == before
    assert record.read_record(folder)["git"]["commit"] == "old"
    (folder / "record.json").write_text("{ torn")
    record.write_record(store, matrix, cell, read_cell(cell, store), {"commit": "new", "dirty": False})
    assert record.read_record(folder)["git"]["commit"] == "new"


def test_a_failed_cell_is_recorded_with_its_reason_and_not_mirrored(tmp_path: Path, methods: None) -> None:  # noqa: F811
    matrix = build_matrix(tiny(methods=["copies@1"], settings={"copies": {"fails": True}}), "tiny")
    store, said = Store(tmp_path), []
    run(matrix, store, track.make_tracker("offline", store, matrix, said.append))
    found = record.read_record(record.record_folder(store, matrix.cells[0]))
    assert found["state"] == "failed"
    assert "asked to fail" in found["failure"]["error"]
    assert found["scores"] is None
    assert not list(tmp_path.glob("wandb/offline-run-*"))
    assert said == []


def test_a_cut_off_record_of_a_stage_is_named_in_one_line(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    cell = matrix.cells[1]
    (store.folder(cell.augmented) / "notes.json").write_text('{\n "a": "cut o')
    with pytest.raises(StoreError, match=rf"{cell.augmented.key} cannot be read \(notes\.json: .*delete it"):
        record.write_record(store, matrix, cell, read_cell(cell, store), None)


def test_git_state_tells_commit_and_changes(tmp_path: Path) -> None:
    assert record.git_state(tmp_path) is None

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-m", "one")
    clean = record.git_state(tmp_path)
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    (tmp_path / "a").write_text("2")
    assert record.git_state(tmp_path) == clean | {"dirty": True}


def test_json_never_holds_nan() -> None:
    found = record.finite({"a": float("nan"), "b": [float("inf"), 1.5, None, True], 3: Path("x")})
    assert found == {"a": None, "b": [None, 1.5, None, True], "3": "x"}


def a_record(store: Store, matrix: Matrix, **changes: Any) -> dict[str, Any]:
    cell = matrix.cells[1]
    return record.cell_record(store, matrix, cell, read_cell(cell, store)) | {"git": None} | changes


@pytest.mark.parametrize("sharing", ["credentialed", "unheard of"])
def test_of_a_data_set_that_is_not_open_only_settings_and_aggregates_leave(place: Any, sharing: str) -> None:
    store, matrix = place
    secret = {
        "sharing": sharing,
        "stage_records": {"split/files": {"rows": [{"patient": 10_000_032.0}]}},
        "skip": "no image in /data/mimic/p10/p10000032",
    }
    full = a_record(store, matrix, **secret)
    full["config"] |= {"dataset.root": "/data/mimic", "dataset.files": ["p10/p10000032/s1.jpg"], "dataset.home": "~x"}
    full["fidelity"] = (full["fidelity"] or {}) | {"worst": "p10/p10000032/s1.jpg"}
    sent = border.payload(full, store.root)
    text = json.dumps([sent.config, sent.summary, sent.curves, sent.tags])
    assert sent.grid is None
    assert "mimic" not in text
    assert "10000032" not in text
    assert sent.config["classifier.steps"] == 2
    assert sent.summary["map_all"] == full["scores"]["map_all"]
    assert len(sent.curves["classifier"]) == 2


def test_of_an_open_data_set_samples_and_curves_are_shown(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    stages = {"codec/codec": {"generations": [{"l1": 0.5, "note": "x"}, {"l1": 0.25, "note": "y"}], "n": 3}}
    sent = border.payload(a_record(store, matrix, stage_records=stages), store.root)
    assert sent.curves["codec/codec/generations"] == [{"l1": 0.5}, {"l1": 0.25}]
    images = matrix.cells[1].augmented.open(store.folder(matrix.cells[1].augmented))
    assert sent.grid.shape == (64 * len(set(images.target_class)), 64 * 8)
    for row, target in enumerate(dict.fromkeys(images.target_class.tolist())):
        for column, i in enumerate(np.flatnonzero(images.target_class == target)[:8]):
            shown = sent.grid[row * 64 : row * 64 + 64, column * 64 : column * 64 + 64]
            assert (shown == images.images[i]).all()
    assert border.payload(a_record(store, build_matrix(tiny(), "tiny")), store.root).tags == ("phantom", "copies@1")


def test_a_run_id_stands_for_cell_and_key(place: tuple[Store, Matrix]) -> None:
    first = a_record(*place)
    assert mirror.run_id(first) == mirror.run_id(first | {"seconds": 1.0})
    assert len({mirror.run_id(first | c) for c in ({}, {"key": "k"}, {"cell": "c"}, {"matrix": "m"})}) == 4


def leet(*arguments: str) -> str:
    wandb = Path(sys.executable).with_name("wandb")
    done = subprocess.run([wandb, "leet", "inspect", *arguments], capture_output=True, text=True, timeout=60)
    if done.returncode:
        pytest.skip(f"`wandb leet inspect` is not usable here: {done.stderr[-200:]}")
    return done.stdout


def test_offline_runs_hold_what_the_record_holds_and_are_made_once(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    said: list[str] = []
    for _ in range(2):
        tell(track.make_tracker("offline", store, matrix, said.append), matrix, store)
    assert said == []
    runs = sorted(store.root.glob("wandb/offline-run-*"))
    assert len(runs) == len(matrix.cells)
    cell = matrix.cells[1]
    found = record.read_record(record.record_folder(store, cell))
    folder = next(r for r in runs if r.name.endswith(mirror.run_id(found)))
    summary = json.loads(leet("--summary", "--json", str(folder)))
    assert (summary["name"], summary["run_id"]) == (cell.name, mirror.run_id(found))
    assert summary["state"] == "finished"
    assert summary["config"]["method.noise.level"] == 4
    assert summary["config"]["run.key"] == cell.key
    assert summary["summary"]["map_all"] == pytest.approx(found["scores"]["map_all"])
    assert summary["summary"]["classifier/train_loss"] == pytest.approx(found["history"][-1]["train_loss"])
    assert summary["tags"] == ["phantom", "copies@1"]
    records = leet("--json", str(folder))
    assert '"run_group":"tiny"' in records
    assert '"job_type":"copies@1"' in records
    assert len(list(folder.glob("files/media/images/*.png"))) == 1
    host = subprocess.run(["hostname"], capture_output=True, text=True, check=True).stdout.strip()
    assert str(Path.home()) not in records.replace(str(store.root), "")
    assert f'"host":"{host}"' not in records.replace(" ", "")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("absent", "wandb is not installed"), ("no login", "no API key"), ("hangs", "in time"), ("dies", "code 3")],
)
def test_a_broken_wandb_costs_one_line(
    place: tuple[Store, Matrix], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, reason: str
) -> None:
    store, matrix = place
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(FAKE_WANDB[fault])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    monkeypatch.setattr(track, "_WAIT_S", 1.0)
    monkeypatch.setattr(track, "_WAIT_PER_CELL_S", 0.5 if fault == "hangs" else 10.0)
    said: list[str] = []
    tracker = track.make_tracker("online", store, matrix, said.append)
    begun = time.monotonic()
    for cell in matrix.cells:
        tracker.cell_finished(cell, read_cell(cell, store))
    told_s = time.monotonic() - begun
    tracker.close()
    assert told_s < 5.0  # a cell that ends does not wait for its mirror
    assert time.monotonic() - begun < 50
    assert len(said) == 1
    assert reason in said[0]
    assert "\n" not in said[0]
    for cell in matrix.cells:
        folder = record.record_folder(store, cell)
        assert record.read_record(folder)["state"] == "done"
        assert not (folder / "wandb.json").exists()  # so that the next run tries again
    assert tracker._child is None


RECORDING = """
import json, os
from pathlib import Path

class Settings:
    def __init__(self, **given): self.given = given

class Image:
    def __init__(self, array, caption): self.shape = array.shape

class Run:
    def __init__(self, given):
        self.sent = {"settings": given.pop("settings").given, **given, "dir": str(given["dir"]), "images": []}
        self.dir = str(Path(given["dir"]) / "wandb" / "run" / "files")
        Path(self.dir).mkdir(parents=True, exist_ok=True)
        self.summary = {}
    def define_metric(self, *a, **k): pass
    def log(self, row): self.sent["images"] += [v.shape for v in row.values() if isinstance(v, Image)]
    def finish(self):
        (Path(__file__).parent / f"sent-{self.sent['id']}.json").write_text(json.dumps(self.sent))

def init(**given): return Run(given)
def teardown(): pass
def setup():
    class Setup: pass
    found = Setup(); found.settings = Setup(); found.settings.base_url = os.environ["WANDB_BASE_URL"]
    return found
"""
HOST = "wandb.hospital.org"


@pytest.fixture
def recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stand-in of W&B that writes down what it is given, and a data set that is credentialed."""
    folder = tmp_path / "recording"
    folder.mkdir()
    (folder / "wandb.py").write_text(RECORDING)
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("WANDB_BASE_URL", f"https://{HOST}")
    monkeypatch.setattr("bench.datasets.phantom.Phantom.sharing", "credentialed")
    return folder


def test_a_server_that_the_user_names_gets_everything_and_it_is_recorded(
    place: tuple[Store, Matrix], recording: Path
) -> None:
    store, matrix = place
    copies, said = matrix.cells[1], []
    at = record.record_folder(store, copies)

    def sent() -> list[dict[str, Any]]:
        found = [json.loads(p.read_text()) for p in sorted(recording.glob("sent-*"), key=lambda p: p.stat().st_mtime)]
        return [s for s in found if s["name"] == copies.name]

    tell(track.make_tracker("online", store, matrix, said.append), matrix, store)
    assert [s["images"] for s in sent()] == [[]]
    assert record.read_record(at)["shared_with"] == []
    for _ in range(2):  # the second finds that nothing is left to send
        tell(track.make_tracker("online", store, matrix, said.append, share_with=HOST), matrix, store)
    without, with_all = sent()
    assert len(with_all["images"]) == 1
    assert with_all["config"]["run.shared_with"] == HOST
    assert with_all["settings"]["base_url"] == f"https://{HOST}"
    assert "run.shared_with" not in without["config"]
    assert "base_url" not in without["settings"]
    assert record.read_record(at)["shared_with"] == [HOST]
    assert record.read_record(at)["key"] == copies.key
    tell(track.make_tracker("online", store, matrix, said.append), matrix, store)
    assert record.read_record(at)["shared_with"] == [HOST]  # it has been allowed, and that stays written
    assert said == []


@pytest.mark.parametrize(
    ("url", "share_with", "said"),
    [
        ("https://api.wandb.ai", HOST, "W&B talks to api.wandb.ai; set WANDB_BASE_URL"),
        ("https://api.wandb.ai", "api.wandb.ai", "is W&B's own cloud"),
    ],
)
def test_nothing_is_shared_with_a_server_that_wandb_does_not_talk_to(
    place: tuple[Store, Matrix], recording: Path, monkeypatch: pytest.MonkeyPatch, url: str, share_with: str, said: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", url)
    with pytest.raises(ConfigError, match=said):
        track.make_tracker("online", *place, share_with=share_with)
    assert not (place[0].root / "wandb").exists()


def test_a_server_that_changed_since_it_was_asked_for_gets_nothing(
    place: tuple[Store, Matrix], recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, matrix = place
    said: list[str] = []
    tracker = track.make_tracker("online", store, matrix, said.append, share_with=HOST)
    monkeypatch.setenv("WANDB_BASE_URL", "https://api.wandb.ai")
    tell(tracker, matrix, store)
    assert not list(recording.glob("sent-*"))
    assert "W&B talks to api.wandb.ai" in said[0]


def test_a_server_cannot_be_asked_for_without_wandb(
    place: tuple[Store, Matrix], recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (recording / "wandb.py").write_text(FAKE_WANDB["absent"])
    with pytest.raises(ConfigError, match=rf"--share-with {HOST}: W&B does not say .* \(wandb is not installed\)"):
        track.make_tracker("online", *place, share_with=HOST)


def test_wandb_itself_talks_to_the_server_that_it_is_set_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text("[default]\nbase_url = http://localhost:8080\n")
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert track._server_of_wandb(HOST) == "http://localhost:8080"
    monkeypatch.setenv("WANDB_BASE_URL", f"https://{HOST}/")
    assert track._server_of_wandb(HOST).rstrip("/") == f"https://{HOST}"


class Refusing(http.server.BaseHTTPRequestHandler):
    """A server that says no and remembers what it was told."""

    told: ClassVar[list[tuple[str, bytes]]] = []

    def do_POST(self) -> None:
        self.told.append((self.path, self.rfile.read(int(self.headers.get("content-length", 0)))))
        self.send_response(403)
        self.end_headers()

    do_GET = do_POST

    def log_message(self, *args: object) -> None:
        pass


def test_wandb_itself_tells_a_server_nothing_but_the_run(
    place: tuple[Store, Matrix], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, matrix = place
    monkeypatch.setattr("bench.datasets.phantom.Phantom.sharing", "credentialed")
    Refusing.told = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_address[1]}"
        monkeypatch.setenv("WANDB_BASE_URL", f"http://{host}")
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        said: list[str] = []
        tell(track.make_tracker("online", store, matrix, said.append, share_with=host), matrix, store)
        server.shutdown()
    assert "CommError" in said[0]
    assert [path for path, _ in Refusing.told] == ["/graphql"]  # no report of its error, with the places of the code
    body = Refusing.told[0][1].decode()
    assert "run.shared_with" in body
    assert not [place for place in (str(store.root), str(ROOT), str(Path.home())) if place in body]


def test_a_disk_that_refuses_the_record_is_told_once(place: tuple[Store, Matrix]) -> None:
    store, matrix = place
    (store.root / "cells").write_text("in the way")
    said: list[str] = []
    tell(track.make_tracker("offline", store, matrix, said.append), matrix, store)
    assert len(said) == 1
    assert "cannot be written" in said[0]


def test_an_unknown_mode_is_refused_with_the_nearest(place: tuple[Store, Matrix]) -> None:
    with pytest.raises(ConfigError, match="--wandb ofline: no such mode; did you mean 'offline'"):
        track.make_tracker("ofline", *place)
