"""Workspaces and reports: what they show, that W&B's library reads them back, and that they name what was sent."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wandb
from wandb_workspaces.reports.v2 import Report
from wandb_workspaces.reports.v2.internal import ReportViewspec
from wandb_workspaces.workspaces import Workspace
from wandb_workspaces.workspaces.internal import View

from bench.privacy.border import Payload
from bench.privacy.media import Picture, Table
from bench.tracking.dashboard import read_board, report, spec_of, workspace
from bench.tracking.matrix_board import matrix_boards
from bench.tracking.study_board import study_boards
from tests.dashboard_keys import Held, named

GOLDEN = Path(__file__).with_name("dashboard.json")
MADE = {"fid_tail": 120.0, "kid_tail": 80.0, "fid_tail_floor": 96.0, "label_fidelity_tail": 0.5}
PICTURE = Picture(np.zeros((8, 8), np.uint8))
MEDIA = {
    "samples": PICTURE,
    "per_class": Table(("class", "short_name", "ap"), [["Lung Opacity", "Lung_Opacity", 0.3]]),
    "pr_curves": Table(("class", "recall", "precision"), [["Lung Opacity", 0.5, 0.3]]),
    "fusion_pairs": Table(("class", "anchor"), [["Lung Opacity", PICTURE]]),
}
TABLE = "| method | FID |\n|---|---:|\n| ours@5 | 120.0 |\n"


def sent(row: str, seed: int = 0, steps: int | None = None, dataset: str = "phantom", **changes: Any) -> Payload:
    """Return what is sent of a cell; rows that make images have their measures and a grid."""
    summary = {
        "map_head": 0.6,
        "map_tail": 0.2,
        "map_all": 0.4,
        "ap_Lung_Opacity": 0.3,
        "selection": "best_val_map_all",
    }
    config = {"method": row.partition("@")[0], "method_label": row, "denoise_steps": steps, "dataset": dataset}
    config |= {"seed": seed, "matrix": "demo", "settings": {"method": {"name": row}}, "run": {}}
    rows = [{"step": 2.0, "val_map_tail": 0.1, "val_ap_Lung_Opacity": 0.2}, {"step": 4.0, "val_map_tail": 0.2}]
    given: dict[str, Any] = {
        "name": f"{dataset}/{row}/s{seed}",
        "group": "demo",
        "job_type": row,
        "config": config | {"classes": {"Lung_Opacity": "Lung Opacity"}},
        "summary": summary | (MADE if row != "baseline" else {}),
        "curves": {"classifier": rows},
        "media": MEDIA if row != "baseline" else {name: MEDIA[name] for name in ("per_class", "pr_curves")},
    }
    return Payload(**given | changes)


def a_matrix() -> dict[str, Payload]:
    return {
        "aa": sent("baseline"),
        "bb": sent("ours@1", steps=1),
        "cc": sent("ours@5", steps=5),
        "dd": sent("ours@5", seed=1, steps=5),
    }


def trial(number: int, **changes: Any) -> Payload:
    """Return what is sent of a trial with two objectives and two settings."""
    config = {"generations": number, "weights": "none", "study": "mine", "trial": number, "state": "done"}
    config |= {"method": "ours", "dataset": "phantom", "sampler": "tpe", "settings": {}}
    config |= {"run": {"objectives": {"val_map_tail": "maximize", "fid_tail": "minimize"}}}
    given: dict[str, Any] = {
        "name": f"mine/trial {number}",
        "group": "mine",
        "job_type": "trial",
        "config": config | changes.pop("config", {}),
        "summary": {"val_map_tail": 0.1 * number, "fid_tail": 200.0 - number, "state": "done", "seconds": 3.0},
    }
    return Payload(**given | changes)


def a_study() -> dict[str, Payload]:
    return {"aa": trial(1), "bb": trial(2, config={"weights": "class"}), "cc": trial(3)}


def specs(found: dict[str, Payload]) -> list[dict[str, Any]]:
    """Return the specification of the report and of each workspace."""
    is_study = any(one.job_type == "trial" for one in found.values())
    made = [
        read_board(json.loads(json.dumps(one.as_dict())))
        for one in (study_boards if is_study else matrix_boards)(found)
    ]
    return [spec_of(report(made, TABLE, "", "")), *(spec_of(workspace(board, "me", "mine")) for board in made)]


def panels(spec: Any) -> list[dict[str, Any]]:
    """Return all panels of a specification."""
    if isinstance(spec, list):
        return [panel for one in spec for panel in panels(one)]
    if not isinstance(spec, dict):
        return []
    return ([spec] if "viewType" in spec else []) + [panel for one in spec.values() for panel in panels(one)]


def golden() -> str:
    """Return the workspace of a small matrix. After a change that is meant: python -m tests.unit.tracking.test_dashboard"""
    few: dict[str, Any] = {"summary": {"fid_tail": 120.0, "map_tail": 0.2, "ap_Lung_Opacity": 0.3}}
    few["media"] = {"samples": PICTURE}
    _, space = specs({"aa": sent("ours@1", steps=1, **few), "bb": sent("ours@5", steps=5, **few)})
    return json.dumps(space, indent=1) + "\n"


def test_the_workspace_of_a_small_matrix_becomes_what_is_written_down() -> None:
    assert json.loads(golden()) == json.loads(GOLDEN.read_text(encoding="utf-8"))


@pytest.mark.parametrize("found", [a_matrix(), a_study()], ids=["matrix", "study"])
def test_the_library_reads_its_own_models_back_and_writes_the_same(found: dict[str, Payload]) -> None:
    told, space = specs(found)
    view = {"entity": "me", "project": "mine", "display_name": "demo on phantom", "name": "nw-1-v", "id": "V"}
    assert spec_of(Workspace._from_model(View.model_validate(view | {"spec": space}))) == space
    named_report = {
        "displayName": "bench dashboard demo",
        "project": {"name": "mine", "entityName": "me"},
        "spec": told,
    }
    assert spec_of(Report._from_model(ReportViewspec.model_validate(named_report))) == told | {"width": "readable"}


def test_what_is_saved_is_the_same_at_every_call() -> None:
    assert specs(a_matrix()) == specs(a_matrix())
    first, second, other = (
        workspace(matrix_boards(a_matrix())[0], "me", p)._internal_name for p in ("mine", "mine", "another")
    )
    assert first == second != other


WITHOUT: dict[str, dict[str, Payload]] = {
    "everything": a_matrix(),
    "no images": {"aa": sent("baseline")},
    "one d": {"aa": sent("ours@5", steps=5), "bb": sent("ours@5", seed=1, steps=5)},
    "nothing measured": {"aa": sent("baseline", summary={"stage_seconds": 3.0}, curves={}, media={})},
    "no validation": {"aa": sent("ours@5", curves={"classifier": [{"step": 1.0, "train_loss": 0.5}]})},
    "other curves": {"aa": sent("ours@5", curves={"codec/codec/generations": [{"loss": 0.5}]})},
    "a study": a_study(),
    "one trial": {"aa": trial(1)},
    "a trial that failed": {"aa": trial(1, summary={"state": "failed"})},
    "one failed": {"aa": trial(1, summary={"state": "failed"}), "bb": trial(2)},
    "one objective": {"aa": trial(1, summary={"fid_tail": 3.0}), "bb": trial(2, summary={"fid_tail": 4.0})},
    "a setting that some trials lack": a_study()
    | {"dd": trial(4, config={"noise": 0.5}), "ee": trial(5, config={"noise": 1.5})},
    "two data sets": a_matrix() | {"ee": sent("ours@2", steps=2, dataset="others", media={})},
}


@pytest.mark.parametrize("case", WITHOUT)
def test_whatever_a_panel_names_was_sent(case: str) -> None:
    held = Held.by(WITHOUT[case])
    for spec in specs(WITHOUT[case]):
        assert held.lacks(spec) == set()
    assert Held().lacks(specs(WITHOUT[case])[1])  # the reader does see names


def test_a_workspace_shows_means_with_spread_by_row_over_seeds() -> None:
    _, space = specs(a_matrix())
    bars = {p["config"]["metrics"][0]: p["config"] for p in panels(space) if p["viewType"] == "Bar Chart"}
    assert set(bars) == {*MADE, "map_head", "map_tail", "map_all", "ap_Lung_Opacity"}
    for found in bars.values():
        assert (found["groupBy"], found["groupAgg"], found["groupArea"]) == ("method_label.value", "mean", "stddev")
    (runs,) = space["section"]["runSets"]
    assert runs["grouping"] == [{"section": "config", "name": "method_label.value"}]
    columns = ["run:displayName", "config:method_label.value", "config:seed.value"]
    columns += [f"summary:{name}" for name in ("fid_tail", "kid_tail", "fid_tail_floor", "map_head", "map_tail")]
    assert list(runs["runFeed"]["columnPinned"]) == runs["runFeed"]["columnOrder"] == columns


def test_figures_stand_against_d_only_where_d_varies() -> None:
    def scatters(found: dict[str, Payload]) -> list[tuple[str, str]]:
        (_, space) = specs(found)
        return [(c["xAxis"], c["yAxis"]) for p in panels(space) if "yAxis" in (c := p["config"])]

    steps = "config:denoise_steps.value"
    assert scatters(a_matrix()) == [(steps, "summary:fid_tail"), (steps, "summary:map_tail")]
    assert scatters(WITHOUT["one d"]) == []


def test_each_data_set_has_a_workspace_and_panels_of_its_own_runs() -> None:
    made = matrix_boards(WITHOUT["two data sets"])
    assert [(board.title, board.runs) for board in made] == [
        ("demo on phantom", ["aa", "bb", "cc", "dd"]),
        ("demo on others", ["ee"]),
    ]
    told, *spaces = specs(WITHOUT["two data sets"])
    only = [space["section"]["runSets"][0]["filters"]["filters"][0]["value"] for space in spaces]
    assert only == [["aa", "bb", "cc", "dd"], ["ee"]]
    grids = [b["metadata"]["runSets"][0]["filters"]["filters"] for b in told["blocks"] if b["type"] == "panel-grid"]
    assert {tuple(f["value"]) for (f,) in grids} == {tuple(runs) for runs in only}
    assert ("summary", "samples") in named(spaces[0])
    assert ("summary", "samples") not in named(spaces[1])  # of these data no picture was sent


def test_curves_and_fused_pairs_are_shown_where_they_were_sent() -> None:
    def named_tables(found: dict[str, Payload]) -> set[str]:
        (_, space) = specs(found)
        return {name for part, name in named(space) if part == "summary"} & set(MEDIA)

    assert named_tables(a_matrix()) == set(MEDIA)
    assert named_tables(WITHOUT["no images"]) == {"per_class", "pr_curves"}
    assert named_tables(WITHOUT["nothing measured"]) == set()
    (_, space) = specs(a_matrix())
    (chart,) = (p["config"] for p in panels(space) if p["viewType"] == "Vega2")
    assert chart["fieldSettings"] == {"x": "recall", "y": "precision", "class": "class"}
    assert chart["panelDefId"] == pr_curve_of_wandb().spec_name


def pr_curve_of_wandb() -> Any:
    """Return what W&B's own function for such curves makes."""
    chart = wandb.plot.pr_curve([0, 1, 1], [[0.9, 0.1], [0.2, 0.8], [0.4, 0.6]])
    assert set(chart.spec.fields) == {"x", "y", "class"}
    return chart.spec


def test_the_report_holds_the_table_as_it_was_given() -> None:
    told, _ = specs(a_matrix())
    texts = [block["content"] for block in told["blocks"] if block["type"] == "markdown-block"]
    assert texts[1:] == [TABLE]
    assert "bench dashboard demo" in texts[0]


def test_the_report_shows_the_panels_of_the_workspaces() -> None:
    told, *spaces = specs(WITHOUT["two data sets"])
    alike = [[(p["viewType"], p["config"]) for p in panels(found)] for found in (told, spaces)]
    assert alike[0] == alike[1]
    grids = [block["metadata"] for block in told["blocks"] if block["type"] == "panel-grid"]
    assert {run["grouping"][0]["name"] for grid in grids for run in grid["runSets"]} == {"method_label.value"}


def test_a_study_shows_its_front_what_decides_and_each_setting() -> None:
    told, space = specs(a_study())
    shown = panels(space)
    points = [(c["xAxis"], c["yAxis"]) for p in shown if p["viewType"] == "Scatter Plot" and (c := p["config"])]
    first, second = "summary:val_map_tail", "summary:fid_tail"
    assert points[0] == (second, first)  # the Pareto front
    assert points[1:] == [(f"config:{x}.value", y) for x in ("generations", "trial") for y in (first, second)]
    important = [p["config"]["targetKey"] for p in shown if p["viewType"] == "Parameter Importance"]
    assert important == ["val_map_tail", "fid_tail"]
    (parallel,) = [p["config"]["columns"] for p in shown if p["viewType"] == "Parallel Coordinates Plot"]
    assert [c["accessor"] for c in parallel] == ["config:generations.value", "config:weights.value", first, second]
    groups = {p["config"]["groupBy"] for p in shown if p["viewType"] == "Bar Chart"}
    assert groups == {"weights.value"}
    (runs,) = space["section"]["runSets"]
    assert runs["filters"]["filters"][0]["value"] == ["aa", "bb", "cc"]
    assert runs["sort"]["keys"] == [{"key": {"section": "summary", "name": "val_map_tail"}, "ascending": False}]
    assert [(p["viewType"], p["config"]) for p in panels(told)] == [(p["viewType"], p["config"]) for p in shown]


def test_a_sweep_and_a_matrix_of_one_name_have_reports_and_workspaces_of_their_own() -> None:
    alike = {one: trial(1, config={"study": "demo"}) for one in ("aa",)}
    made = [matrix_boards(a_matrix())[0], study_boards(alike)[0]]
    assert len({report([board], TABLE, "", "").title for board in made}) == 2
    assert len({workspace(board, "me", "mine")._internal_name for board in made}) == 2


if __name__ == "__main__":
    GOLDEN.write_text(golden(), encoding="utf-8")
