"""Uploads that can be trusted: a cell counts as sent when the server was asked and has all of it.

W&B's own library talks to a server on the loopback address that has faults.
"""

from __future__ import annotations

import copy
import json
import re
import time
from pathlib import Path

import pytest

from bench.matrix.matrix import Matrix
from bench.results import record
from bench.store.store import Store
from bench.tracking import sender
from bench.tracking import tracker as track
from bench.tracking.marker import run_id
from bench.tracking.upload import Uploaded, upload
from tests.tiny_cells import methods  # noqa: F401 - a fixture
from tests.track_fixtures import server, tell  # noqa: F401 - a fixture
from tests.wandb_stub import OWNER, Wandb

Place = tuple[Store, Matrix]


def send(place: Place, said: list[str] | None = None) -> Uploaded:
    store, matrix = place
    tracker = track.make_tracker("online", store, matrix, (said if said is not None else []).append)
    return upload(tracker, matrix, lambda done, total: None)


def marker_of(place: Place, number: int = 1) -> dict:
    path = record.record_folder(place[0], place[1].cells[number]) / "wandb.json"
    return json.loads(path.read_text()) if path.exists() else {}


def id_of(place: Place, number: int = 1) -> str:
    return run_id(record.read_record(record.record_folder(place[0], place[1].cells[number])))


def forget(place: Place) -> None:
    """Remove the markers, as if the mirror had been killed before it wrote them."""
    for marker in place[0].root.rglob("wandb.json"):
        marker.unlink()


def without_times(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in ("_runtime", "_timestamp", "_wandb")}


def own_logs(store: Store) -> list[Path]:
    """W&B's own logs of single runs."""
    return sorted((store.root / "wandb").glob("run-*/logs/*.log"))


def test_a_run_can_be_grouped_and_filtered_by_its_columns_and_its_settings(place: Place, server: Wandb) -> None:  # noqa: F811
    assert send(place) == Uploaded(sent=2, there=0, lacking={}, unfinished=0)
    run, found = server.run(id_of(place)), record.read_record(record.record_folder(place[0], place[1].cells[1]))
    config = run["config"]
    assert config["settings"]["method"]["label"] == "copies@1"
    assert config["settings"]["method"]["noise"]["level"] == 4
    columns = {"method": "copies", "method_label": "copies@1", "dataset": "phantom", "seed": 0, "matrix": "tiny"}
    assert {name: config[name] for name in columns} == columns
    assert not [name for name in config if "." in name]
    for name, short in {"Enlarged Cardiomediastinum": "Enlarged_Cardiomediastinum", "Fracture": "Fracture"}.items():
        assert run["summary"][f"ap_{short}"] == pytest.approx(found["scores"]["ap"][name])
        assert config["classes"][short] == name
    finals = [name for name in run["summary"] if "/" not in name]
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in finals)
    logged = [row for row in run["history"].values() if "map_tail" in row]
    assert [row["map_tail"] for row in logged] == [pytest.approx(found["scores"]["map_tail"])]
    assert run["files"][run["summary"]["per_class"]["path"]] > 0  # the table of classes
    assert run["summary"]["per_class"]["nrows"] == len(found["scores"]["ap"])
    assert str(place[0].root) not in server.text
    assert (run["group"], run["job_type"], run["state"]) == ("tiny", "copies@1", "finished")
    assert own_logs(place[0]) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("put403", "has not got 5 of 5 files, e.g. config.yaml"),
        ("fs409", "the server has 0 of 6 rows of the history"),
        ("fs500", "the server has 0 of 6 rows of the history"),
        ("refuse", "permission denied"),
    ],
)
def test_what_the_server_has_not_got_is_not_marked_as_sent(
    place: Place,
    server: Wandb,  # noqa: F811
    fault: str,
    reason: str,
) -> None:
    server.faults, said = {fault}, []
    failed = send(place, said)
    assert set(failed.lacking) == {cell.name for cell in place[1].cells}
    assert reason in failed.lacking[place[1].cells[1].name]
    assert len(said) == 1
    assert "lacks 2 of 2 runs" in said[0]
    assert "`bench upload tiny` sends what is missing" in said[0]
    assert marker_of(place) == {}
    assert own_logs(place[0])  # they say why
    server.faults = set()
    assert send(place) == Uploaded(sent=2, there=0, lacking={}, unfinished=0)
    assert own_logs(place[0]) == []
    assert [len(server.run(id_of(place, n))["history"]) for n in range(2)] == [5, 6]
    assert len(server.sent_rows) == 11  # none twice
    assert marker_of(place)["uploads"] == [
        {"base_url": server.url, "entity": OWNER, "project": "longtail-bench", "run_id": id_of(place)}
    ]


@pytest.mark.parametrize("fault", ["flaky", "slow"])
def test_a_server_that_fails_now_and_then_or_is_slow_gets_everything(place: Place, server: Wandb, fault: str) -> None:  # noqa: F811
    server.faults = {fault}
    assert send(place).lacking == {}
    assert len(server.runs) == 2


@pytest.mark.parametrize("n_lost", [1, 3])
def test_a_run_that_the_server_has_in_part_goes_on_where_it_stopped(
    place: Place,
    server: Wandb,  # noqa: F811
    n_lost: int,
) -> None:
    send(place)
    whole = copy.deepcopy(server.run(id_of(place)))
    forget(place)
    cut = server.run(id_of(place))
    cut |= {"state": "crashed", "summary": {}, "files": {}}
    for _ in range(n_lost):
        cut["history"].popitem()
    server.sent_rows.clear()
    assert send(place) == Uploaded(sent=1, there=1, lacking={}, unfinished=0)
    assert len(server.sent_rows) == n_lost
    found = server.run(id_of(place))
    assert [without_times(row) for row in found["history"].values()] == [
        without_times(row) for row in whole["history"].values()
    ]
    assert without_times(found["summary"]) == without_times(whole["summary"])
    assert found["files"].keys() == whole["files"].keys()


def test_a_run_that_holds_something_else_is_left_alone(place: Place, server: Wandb) -> None:  # noqa: F811
    send(place)
    forget(place)
    theirs = server.run(id_of(place))
    theirs["config"] = {"method.label": "copies@1"}  # as an earlier version sent it
    before = copy.deepcopy(theirs)
    assert send(place) == Uploaded(sent=1, there=1, lacking={}, unfinished=0)
    assert server.run(id_of(place)) == before
    assert server.run(f"{id_of(place)}-2")["state"] == "finished"


def test_another_project_server_or_entity_is_another_upload(
    place: Place,
    server: Wandb,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert send(place).sent == 2
    monkeypatch.setenv("WANDB_PROJECT", "another")
    assert send(place).sent == 2
    monkeypatch.delenv("WANDB_PROJECT")
    assert send(place) == Uploaded(sent=0, there=2, lacking={}, unfinished=0)  # each upload is remembered
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert send(place).sent == 2
    assert sorted({path.rpartition("/")[0] for path in server.runs}) == [
        "me/another",
        "me/longtail-bench",
        "team/longtail-bench",
    ]
    server.runs.clear()
    monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("127.0.0.1", "localhost"))
    assert send(place).sent == 2


def test_an_offline_copy_or_an_older_marker_is_no_upload(place: Place, server: Wandb) -> None:  # noqa: F811
    store, matrix = place
    tell(track.make_tracker("offline", store, matrix), matrix, store)
    assert server.runs == {}
    older = {"mode": "online", "key": matrix.cells[1].key, "run_id": id_of(place), "server": None, "sharing": "open"}
    (record.record_folder(store, matrix.cells[1]) / "wandb.json").write_text(json.dumps(older))
    assert send(place).sent == 2
    assert send(place).sent == 0
    copies = sorted(store.root.glob("wandb/offline-run-*"))
    tell(track.make_tracker("offline", store, matrix), matrix, store)
    assert sorted(store.root.glob("wandb/offline-run-*")) == copies


def test_a_run_that_was_deleted_gets_another_id_and_the_others_go_on(place: Place, server: Wandb) -> None:  # noqa: F811
    store, matrix = place
    tell(track.make_tracker("off", store, matrix), matrix, store)
    first = [id_of(place, n) for n in range(2)]
    server.deleted = {first[0], f"{first[0]}-2"}
    assert send(place) == Uploaded(sent=2, there=0, lacking={}, unfinished=0)
    assert sorted(path.rpartition("/")[2] for path in server.runs) == sorted([f"{first[0]}-3", first[1]])
    assert marker_of(place, 0)["uploads"][0]["run_id"] == f"{first[0]}-3"
    assert send(place) == Uploaded(sent=0, there=2, lacking={}, unfinished=0)


def test_after_a_failure_the_same_run_of_the_matrix_goes_on(
    place: Place,
    server: Wandb,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store, matrix = place
    monkeypatch.setattr(sender, "_PAUSE_S", 0.0)
    server.faults, said = {"refuse"}, []
    tracker = track.make_tracker("online", store, matrix, said.append)
    tracker.cell_ended(matrix.cells[0])
    while not said:  # the first try has failed
        tracker.pump()
        time.sleep(0.05)
    assert "permission denied; it is tried again later" in said[0]
    server.faults = set()
    tracker.cell_ended(matrix.cells[1])
    tracker.close()
    assert len(said) == 1
    assert sorted(run["state"] for run in server.runs.values()) == ["finished", "finished"]
    assert marker_of(place, 0)["mode"] == marker_of(place, 1)["mode"] == "online"
    assert not list(store.root.glob("wandb/mirror-*.log"))
