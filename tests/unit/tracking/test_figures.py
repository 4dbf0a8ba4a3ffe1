"""Figures of the report at W&B: one run, which goes on when the dashboard is saved again, and nothing else with it."""

from __future__ import annotations

import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bench.errors import ConfigError
from bench.matrix.build import build_matrix
from bench.results.cells import read_matrix
from bench.tracking import save_dashboard
from bench.tracking.figures import Figures, open_datasets, remember, shown_no_longer
from bench.tracking.marker import Destination
from bench.tracking.matrix_board import matrix_boards
from bench.tracking.save_dashboard import save
from bench.tracking.tracker import make_tracker
from reports.report import shown_figures
from tests.conftest import ROOT
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture
from tests.track_fixtures import server  # noqa: F401 - a fixture
from tests.unit.tracking.test_save_dashboard import Place, finished, of_kind, save_all, send
from tests.wandb_stub import Wandb


@pytest.fixture
def figures(tmp_path: Path) -> Figures:
    """Two figures of the tiny matrix."""
    files = {}
    for name in ("effects", "samples"):
        Image.fromarray(np.full((8, 8), len(name), np.uint8)).save(tmp_path / f"{name}.png")
        files[name] = str(tmp_path / f"{name}.png")
    return Figures("tiny", {"effects": "Effects. How to read it.", "samples": "Samples. Look at them."}, files, True)


def of_figures(server: Wandb) -> dict[str, dict[str, Any]]:  # noqa: F811
    found = {path: run for path, run in server.runs.items() if run.get("job_type") == "figures"}
    return {path.rpartition("/")[2]: run for path, run in found.items()}


def named_in_report(server: Wandb) -> tuple[list[str], list[list[str]]]:  # noqa: F811
    """Return the runs and the media keys of the first grid of panels."""
    (report,) = of_kind(server, "runs")
    grid = next(block["metadata"] for block in report["spec"]["blocks"] if block["type"] == "panel-grid")
    keys = [panel["config"]["mediaKeys"] for panel in grid["panelBankSectionConfig"]["panels"]]
    return grid["runSets"][0]["filters"]["filters"][0]["value"], keys


def test_saving_again_goes_on_with_one_run_and_shows_the_latest(
    place: Place,
    server: Wandb,  # noqa: F811
    figures: Figures,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("NOTES", "RUN_NOTES", "TAGS"):
        monkeypatch.setenv(f"WANDB_{name}", "my private note")
    send(place)
    server.text = ""
    assert save_all(place, figures=figures)["figures"] == figures.run
    Image.fromarray(np.full((9, 9), 200, np.uint8)).save(figures.files["effects"])
    assert save_all(place, figures=figures)["figures"] == figures.run
    assert list(of_figures(server)) == [figures.run]
    (found,) = of_figures(server).values()
    assert (found["group"], found["state"]) == ("tiny", "finished")
    rows = list(found["history"].values())
    assert [row["_step"] for row in rows] == [0, 1]
    assert [row["effects"]["width"] for row in rows] == [8, 9]
    assert found["summary"]["effects"]["width"] == 9
    assert found["summary"]["samples"]["caption"] == "Samples. Look at them."
    assert all(found["files"][row[name]["path"]] > 0 for row in rows for name in figures.captions)
    assert named_in_report(server) == ([figures.run], [["effects"], ["samples"]])
    (space,) = of_kind(server, "project-view")
    assert figures.run not in json.dumps(space["spec"])  # panels of cells show cells alone
    private = (str(tmp_path), str(ROOT), str(Path.home()) + "/", socket.gethostname(), "my private note")
    assert not [one for one in private if one in server.text]


def test_a_run_that_was_deleted_gets_another_id_which_the_report_shows(
    place: Place,
    server: Wandb,  # noqa: F811
    figures: Figures,
) -> None:
    send(place)
    server.deleted = {figures.run}
    assert save_all(place, figures=figures)["figures"] == f"{figures.run}-2"
    assert named_in_report(server)[0] == [f"{figures.run}-2"]


def test_figures_that_did_not_arrive_are_told_and_nothing_is_saved(
    place: Place,
    server: Wandb,  # noqa: F811
    figures: Figures,
) -> None:
    send(place)
    server.faults = {"put403"}
    with pytest.raises(ConfigError, match=r"W&B has not got 2 of 2 figures, e\.g\. media/images/effects_0_"):
        save_all(place, figures=figures)
    assert server.views == {}


def test_a_run_with_everything_is_never_gone_on_with_where_only_the_open_may_be(figures: Figures) -> None:
    full = Figures("tiny", figures.captions, figures.files, False)
    other = Figures("another", figures.captions, figures.files, True)
    assert len({figures.run, full.run, other.run}) == 3


def test_of_credentialed_data_no_figure_may_be_shown(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(share: bool) -> list[str]:
        store, matrix = place[0], build_matrix(tiny(), "tiny")
        found = shown_figures(matrix, read_matrix(matrix, store), store, tmp_path / "drawn", share)
        assert [png.name for _, png in found] == [f"{drawing.name}.png" for drawing, _ in found]
        assert sorted(png for _, png in found) == sorted((tmp_path / "drawn").iterdir() if found else [])
        return [drawing.name for drawing, _ in found]

    of_open = drawn(share=True)
    assert "phantom-samples-copies-1" in of_open
    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")
    assert drawn(share=True) == []
    assert drawn(share=False) == of_open  # for the one server that may have everything


def test_figures_of_data_that_are_open_no_longer_are_told_until_somebody_has_removed_them(
    place: Place, figures: Figures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def child(request: dict[str, Any]) -> dict[str, Any]:
        raise ConfigError("it gave up after some figures were there")

    store, matrix = place
    figures = replace(figures, datasets=open_datasets(matrix))
    here = Destination("https://api.wandb.ai", "me", "mine")
    cells = [replace(cell, uploads={here: cell.run}) for cell in finished(place)]
    monkeypatch.setattr(save_dashboard, "_child", child)
    with pytest.raises(ConfigError, match="it gave up"):
        save(cells, matrix_boards, "a table", "bench upload tiny", figures=figures, root=store.root)
    assert shown_no_longer(store.root, matrix) is None

    monkeypatch.setattr("bench.data.kinds.phantom.Phantom.sharing", "credentialed")
    closed, said = build_matrix(tiny(), "tiny"), []
    for _ in range(2):
        make_tracker("online", store, closed, said.append).close()
    (line,) = set(said)
    assert len(said) == 2
    assert "W&B was given figures of phantom while these data were said to be open" in line
    assert "delete the runs 'figures of tiny' in https://api.wandb.ai me/mine," in line
    Path(line.rpartition(" and then remove ")[2]).unlink()
    make_tracker("online", store, closed, said.append).close()
    assert len(said) == 2


def test_figures_for_the_one_server_that_may_have_everything_are_not_told(place: Place, figures: Figures) -> None:
    remember(
        place[0].root, replace(figures, all_open=False, datasets=["phantom"]), [Destination("https://w", "a", "b")]
    )
    assert not list(place[0].root.rglob("wandb-figures.json"))
