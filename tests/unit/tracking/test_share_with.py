"""A server that the user hosts may have everything: that one alone, and it is recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.errors import ConfigError
from bench.matrix.build import build_matrix
from bench.matrix.matrix import Matrix
from bench.results import record
from bench.store.store import Store
from bench.tracking import tracker as track
from bench.tracking.wandb_child import server_of_wandb
from tests.conftest import ROOT
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import NO_WANDB, server, tell  # noqa: F401 - a fixture
from tests.wandb_stub import Wandb

HOST = "wandb.hospital.org"
CLOUD = "https://api.wandb.ai"


@pytest.fixture(autouse=True)
def credentialed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of the tiny matrix may not leave."""
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")


def host_of(server: Wandb) -> str:  # noqa: F811
    return server.url.partition("//")[2]


def test_a_server_that_the_user_names_gets_everything_and_it_is_recorded(
    place: tuple[Store, Matrix],
    server: Wandb,  # noqa: F811
) -> None:
    store, matrix = place[0], build_matrix(tiny(), "tiny")
    said: list[str] = []
    at = record.record_folder(store, matrix.cells[1])
    tell(track.make_tracker("online", store, matrix, said.append), matrix, store)
    without = dict(server.runs)
    assert not any(name.startswith("media/images/") for run in without.values() for name in run["files"])
    assert record.read_record(at)["shared_with"] == []
    for _ in range(2):  # the second finds that nothing is left to send
        tell(track.make_tracker("online", store, matrix, said.append, host_of(server)), matrix, store)
    with_all = [run for path, run in server.runs.items() if path not in without]
    assert [len(run["upserts"]) for run in with_all] == [2, 2]  # W&B says twice that a run exists
    (copies,) = (run for run in with_all if run["name"] == matrix.cells[1].name)
    assert len([name for name in copies["files"] if name.startswith("media/images/")]) == 1
    assert copies["config"]["run"]["shared_with"] == host_of(server)
    assert not any("shared_with" in run["config"]["run"] for run in without.values())
    assert record.read_record(at)["shared_with"] == [host_of(server)]
    assert record.read_record(at)["key"] == matrix.cells[1].key
    tell(track.make_tracker("online", store, matrix, said.append), matrix, store)
    assert record.read_record(at)["shared_with"] == [host_of(server)]  # it has been allowed, and that stays written
    assert said == []


@pytest.mark.parametrize(
    ("share_with", "said"),
    [(HOST, "W&B talks to api.wandb.ai; set WANDB_BASE_URL"), ("api.wandb.ai", "is W&B's own cloud")],
)
def test_nothing_is_shared_with_a_server_that_wandb_does_not_talk_to(
    place: tuple[Store, Matrix], monkeypatch: pytest.MonkeyPatch, share_with: str, said: str
) -> None:
    monkeypatch.setenv("WANDB_BASE_URL", CLOUD)
    with pytest.raises(ConfigError, match=said):
        track.make_tracker("online", *place, share_with=share_with)
    assert not (place[0].root / "wandb").exists()


def test_a_server_that_changed_since_it_was_asked_for_gets_nothing(
    place: tuple[Store, Matrix],
    server: Wandb,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, matrix = place[0], build_matrix(tiny(), "tiny")
    said: list[str] = []
    monkeypatch.setenv("WANDB_BASE_URL", f"https://{HOST}")
    tracker = track.make_tracker("online", store, matrix, said.append, share_with=HOST)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    tell(tracker, matrix, store)
    assert server.ops == []  # it is not even asked who we are
    assert f"W&B talks to {host_of(server)}" in said[-1]


def test_a_server_cannot_be_asked_for_without_wandb(
    place: tuple[Store, Matrix], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "wandb.py").write_text(NO_WANDB)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    with pytest.raises(ConfigError, match=rf"--share-with {HOST}: W&B does not say .* \(wandb is not installed\)"):
        track.make_tracker("online", *place, share_with=HOST)


def test_wandb_itself_talks_to_the_server_that_it_is_set_to(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    (tmp_path / "settings").write_text("[default]\nbase_url = http://localhost:8080\n")
    monkeypatch.delenv("WANDB_BASE_URL", raising=False)
    assert server_of_wandb(HOST) == "http://localhost:8080"
    monkeypatch.setenv("WANDB_BASE_URL", f"https://{HOST}/")
    assert server_of_wandb(HOST).rstrip("/") == f"https://{HOST}"


def test_a_server_that_refuses_the_run_is_told_nothing_else(
    place: tuple[Store, Matrix],
    server: Wandb,  # noqa: F811
) -> None:
    store, matrix = place[0], build_matrix(tiny(), "tiny")
    server.faults = {"refuse"}
    said: list[str] = []
    tell(track.make_tracker("online", store, matrix, said.append, share_with=host_of(server)), matrix, store)
    assert "permission denied" in said[-1]
    assert set(server.ops) == {"Viewer", "GetDefaultEntity", "Run", "UpsertBucket"}
    assert server.paths == {"/graphql"}  # no report of its error, with the places of the code
    assert "shared_with" in server.text
    assert not [place for place in (str(store.root), str(ROOT), str(Path.home())) if place in server.text]
