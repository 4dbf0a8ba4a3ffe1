"""A server that the user hosts may have everything: that one alone, and it is recorded."""

from __future__ import annotations

import http.server
import json
import threading
from pathlib import Path
from typing import Any, ClassVar

import pytest

from bench.errors import ConfigError
from bench.matrix.matrix import Matrix
from bench.results import record
from bench.store.store import Store
from bench.tracking import tracker as track
from tests.conftest import ROOT
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import NO_WANDB, tell

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
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")
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
    (recording / "wandb.py").write_text(NO_WANDB)
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
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")
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
