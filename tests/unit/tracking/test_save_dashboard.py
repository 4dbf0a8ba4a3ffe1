"""Dashboards are saved where the runs are, by W&B's own library, and what was saved before is replaced."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from bench.errors import ConfigError
from bench.matrix.build import build_matrix
from bench.matrix.matrix import Matrix
from bench.results.cells import read_matrix
from bench.store.store import Store
from bench.tracking import save_dashboard
from bench.tracking import tracker as track
from bench.tracking.matrix_board import matrix_boards
from bench.tracking.save_dashboard import Finished, save
from bench.tracking.upload import upload
from tests.dashboard_keys import Held
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import server, tell  # noqa: F401 - a fixture
from tests.wandb_stub import OWNER, Handler, Wandb

Place = tuple[Store, Matrix]


def send(place: Place, share_with: str | None = None) -> None:
    upload(track.make_tracker("online", *place, print, share_with), place[1], lambda done, total: None)


def finished(place: Place, share_with: str | None = None) -> list[Finished]:
    store, matrix = place
    return save_dashboard.finished(matrix, read_matrix(matrix, store), store, share_with)


def save_all(place: Place, table: str = "a table", **more: Any) -> dict[str, Any]:
    cells = finished(place, more.get("share_with"))
    return save(cells, matrix_boards, table, "bench upload tiny", **more)


def of_kind(server: Wandb, kind: str) -> list[dict[str, Any]]:  # noqa: F811
    return [view | {"spec": json.loads(view["spec"])} for view in server.views.values() if view["type"] == kind]


def filtered(spec: dict[str, Any]) -> list[str]:
    return spec["section"]["runSets"][0]["filters"]["filters"][0]["value"]


def test_saving_again_replaces_also_from_another_machine(place: Place, server: Wandb, tmp_path: Path) -> None:  # noqa: F811
    send(place)
    first = save_all(place)
    assert [one["was"] for one in (*first["workspaces"], first["report"])] == ["created", "created"]
    assert first["lacking"] == []
    saved = dict(server.views)
    for one in range(3):  # other people's, so that ours is on a later page
        server.views[f"other-{one}"] = next(v for v in saved.values() if v["type"] == "runs") | {"displayName": "x"}
    server.views = dict(sorted(server.views.items(), reverse=True))
    elsewhere = Store(shutil.copytree(place[0].root, tmp_path / "elsewhere"))
    for store in (place[0], elsewhere):
        again = save_all((store, place[1]), table="another table")
        assert [one["was"] for one in (*again["workspaces"], again["report"])] == ["updated", "updated"]
        assert [one["url"] for one in again["workspaces"]] == [one["url"] for one in first["workspaces"]]
        assert again["report"]["url"] == first["report"]["url"]
    assert set(server.views) == {*saved, "other-0", "other-1", "other-2"}
    (space,) = of_kind(server, "project-view")
    (told,) = (view for view in of_kind(server, "runs") if view["displayName"] == "bench dashboard tiny")
    assert (space["displayName"], space["entityName"], space["projectName"]) == (
        "tiny on phantom",
        OWNER,
        "longtail-bench",
    )
    assert told["spec"]["blocks"][2]["content"] == "another table"
    assert (space["spec"], told["spec"]) == (again["workspaces"][0]["spec"], again["report"]["spec"])


def test_panels_name_what_the_server_has_and_show_these_runs_alone(place: Place, server: Wandb) -> None:  # noqa: F811
    tell(track.make_tracker("off", *place), place[1], place[0])
    ids = [cell.run for cell in finished(place)]
    server.deleted = {ids[0]}  # so the upload takes another id
    send(place)
    old = next(iter(server.runs))
    server.runs[old.rpartition("/")[0] + "/earlier"] = server.runs[old]  # of the same matrix
    saved = save_all(place)
    held = Held.at(server.runs.values())
    held.columns = server.columns
    for view in server.views.values():
        assert held.lacks(json.loads(view["spec"])) == set()
    assert saved["lacking"] == []
    (space,) = of_kind(server, "project-view")
    assert filtered(space["spec"]) == sorted([f"{ids[0]}-2", ids[1]])
    next(place[0].root.rglob("*copies@1*/wandb.json")).unlink()
    saved = save_all(place)
    assert saved["lacking"] == [place[1].cells[1].name]
    (space,) = of_kind(server, "project-view")
    assert filtered(space["spec"]) == [f"{ids[0]}-2"]


def test_cells_that_nobody_recorded_are_finished_and_not_uploaded(place: Place, server: Wandb) -> None:  # noqa: F811
    send(place)
    path = next(place[0].root.rglob("*copies@1*/record.json"))
    recorded = finished(place)
    path.unlink()
    found = finished(place)
    assert [(cell.name, cell.uploads) for cell in found] == [(cell.name, cell.uploads) for cell in recorded]
    path.with_name("wandb.json").unlink()
    path.write_text(json.dumps({"key": "of earlier results"}))
    assert [len(cell.uploads) for cell in finished(place)] == [1, 0]


def test_what_cannot_be_saved_is_refused_in_one_line_and_nothing_is_saved(
    place: Place,
    server: Wandb,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tell(track.make_tracker("off", *place), place[1], place[0])

    def said(**more: Any) -> str:
        with pytest.raises(ConfigError) as refused:
            save_all(place, **more)
        assert "\n" not in str(refused.value)
        return str(refused.value)

    assert said() == "no finished cell was uploaded to W&B; first: bench upload tiny"
    send(place)
    assert said(entity="you").startswith("no finished cell was uploaded to you/* (but to me/longtail-bench); first: ")
    monkeypatch.setenv("WANDB_PROJECT", "another")
    send(place)
    assert "uploaded to me/another, me/longtail-bench; choose with --entity and --project" in said()
    assert save_all(place, project="another")["project"] == "another"
    server.views.clear()
    (report,) = [{"type": "runs", "entityName": OWNER, "projectName": "another", "name": "r", "spec": "{}"}]
    server.views |= {one: report | {"displayName": "bench dashboard tiny"} for one in ("one", "two")}
    assert "me/another has 2 reports with the title 'bench dashboard tiny'; rename or delete" in said(project="another")
    server.views.clear()
    monkeypatch.setenv("WANDB_BASE_URL", server.url.replace("127.0.0.1", "localhost"))
    assert f"uploaded to {server.url}, and W&B talks to" in said(project="another")
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.delenv("WANDB_API_KEY")
    assert "No API key configured" in said(project="another")
    assert server.views == {}


def test_a_server_that_saves_a_new_view_each_time_is_told(
    place: Place,
    server: Wandb,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send(place)
    save_all(place)
    kept = Handler._upsertView
    for name in ("_upsertView", "_UpsertView2"):
        monkeypatch.setattr(Handler, name, lambda self, v: kept(self, v | {"id": None}))
    with pytest.raises(ConfigError, match="W&B saved the workspace 'tiny on phantom' as another one"):
        save_all(place)


@pytest.fixture
def credentialed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The data of the tiny matrix may not leave."""
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")


def media(saved: dict[str, Any]) -> bool:
    return "mediaKeys" in json.dumps(saved)


@pytest.mark.usefixtures("credentialed")
def test_credentialed_data_show_pictures_to_the_allowed_server_alone(
    place: Place,
    server: Wandb,  # noqa: F811
) -> None:
    place, host = (place[0], build_matrix(tiny(), "tiny")), server.url.partition("//")[2]
    send(place)
    assert not media(save_all(place))
    with pytest.raises(ConfigError, match="no finished cell was uploaded"):
        save_all(place, share_with=host)
    send(place, share_with=host)
    assert media(save_all(place, share_with=host))
    for wrong, why in (("wandb.hospital.org", "W&B talks to"), ("api.wandb.ai", "is W&B's own cloud")):
        with pytest.raises(ConfigError, match=why):  # the child asks for itself
            save(finished(place, host), matrix_boards, "", "", share_with=wrong)
    with pytest.raises(ConfigError, match="is W&B's own cloud"):
        finished(place, "api.wandb.ai")


@pytest.mark.usefixtures("credentialed")
def test_names_that_are_withheld_and_could_not_be_told_apart_are_refused(place: Place) -> None:
    dated, rows = "study-20261128", [{"method": "baseline", "row": f"of p1000003{i}"} for i in (1, 2)]
    with pytest.raises(ConfigError, match=f"{dated}: looks like somebody's id, so W&B gets 'withheld' in its place"):
        finished((place[0], build_matrix(tiny(name=dated), dated)))
    with pytest.raises(ConfigError, match=r"rows of p10000031, of p10000032: look like ids, .* cannot tell them apart"):
        finished((place[0], build_matrix(tiny(methods=rows, settings={}), "tiny")))
    (alone,) = finished((place[0], build_matrix(tiny(methods=rows[:1], settings={}), "tiny")))
    assert alone.sent.config["method_label"] == "withheld"


def test_what_was_sent_while_the_data_were_open_is_not_shown_afterwards(
    place: Place,
    server: Wandb,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    send(place)
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")
    closed = build_matrix(tiny(), "tiny")
    assert [list(cell.sent.media) for cell in finished((place[0], closed))] == [["per_class"], ["per_class"]]
    with pytest.raises(ConfigError, match="no finished cell was uploaded to W&B; first: bench upload tiny"):
        save_all((place[0], closed))
    assert server.views == {}
