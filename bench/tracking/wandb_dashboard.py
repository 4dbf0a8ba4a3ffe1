"""Save the workspaces and the report of a matrix or a sweep at W&B, in a process of its own.

Run as `python -m bench.tracking.wandb_dashboard`, with a request as JSON on stdin (`bench.tracking.save_dashboard`).
The last line on stdout tells what was saved, or why nothing was. What is there already under the same name is replaced:
a workspace is found by its name at W&B, which is made of the names of the project and of what it shows, and a report by
its title in the project.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.privacy.border import check_server
from bench.tracking.dashboard import read_board, report, spec_of, workspace
from bench.tracking.figures import Figures, send_figures
from bench.tracking.marker import Destination
from bench.tracking.wandb_mirror import prepare
from bench.tracking.wandb_server import base_url, in_one_line

if TYPE_CHECKING:
    import wandb
    from wandb_workspaces.reports.v2 import Report
    from wandb_workspaces.workspaces import Workspace

# The parent looks for these words in what we print.
SAVED = "saved: "
REFUSED = "refused: "
_VIEWS = """
query Views($entity: String, $project: String, $name: String) {
    project(name: $project, entityName: $entity) {
        allViews(viewType: "project-view", viewName: $name) { edges { node { id } } }
    }
}
"""


def save(request: dict[str, Any]) -> dict[str, Any]:
    """Save everything that a request asks for, and return where it is.

    Args:
        request: `places`, each with `base_url`, `entity`, `project` and its `boards`; the `table` as Markdown;
            `server`, the host that may have everything, or None; and `figures` (`Figures.as_dict`), or None.

    Raises:
        ConfigError: if W&B talks to a server to which no run was uploaded, or to another one than the one that may have
            everything, or if it is not clear what to replace.
        Exception: whatever W&B raises.
    """
    import wandb

    url = base_url().rstrip("/")
    if request["server"] is not None:
        check_server(request["server"], "online", url)
    place = next((p for p in request["places"] if p["base_url"] == url), None)
    if place is None:
        others = ", ".join(p["base_url"] for p in request["places"])
        raise ConfigError(
            f"the runs were uploaded to {others}, and W&B talks to {url} now; set WANDB_BASE_URL, or upload them there"
        )
    entity, project = place["entity"], place["project"]
    found = [read_board(board) for board in place["boards"]]
    api = wandb.Api()
    spaces = [workspace(board, entity, project) for board in found]
    figures = Figures(**request["figures"]) if request["figures"] else None
    there = _report_at(api, report(found, request["table"], entity, project))  # may refuse: before anything is saved
    where = Destination(url, entity, project)
    run = send_figures(figures, where, Path(os.environ["WANDB_DIR"])) if figures else None
    made = report(found, request["table"], entity, project, figures, run or "")
    made.id = there
    for space in spaces:
        space._internal_id = _workspace_at(api, space)
    saved = {"workspaces": [_saved_workspace(space) for space in spaces], "report": _saved_report(made)}
    return asdict(where) | saved | {"figures": run}


def _workspace_at(api: wandb.Api, space: Workspace) -> str:
    """Return W&B's id of the workspace with this name, or an empty text if there is none."""
    # The library reads the id together with the whole workspace. It refuses one that W&B's site has saved in a newer
    # form, and ours shall replace that one too.
    from wandb_workspaces._graphql import execute_graphql

    asked = {"entity": space.entity, "project": space.project, "name": space._internal_name}
    answer = execute_graphql(api, _VIEWS, asked)
    if answer.get("project") is None:
        raise ConfigError(f"there is no project {space.entity}/{space.project}, or your login may not see it")
    edges = answer["project"]["allViews"]["edges"]
    return str(edges[0]["node"]["id"]) if edges else ""


def _report_at(api: wandb.Api, made: Report) -> str:
    """Return W&B's id of the report with this title, or an empty text if there is none."""
    same = [one.id for one in api.reports(f"{made.entity}/{made.project}") if one.display_name == made.title]
    if len(same) > 1:
        raise ConfigError(
            f"{made.entity}/{made.project} has {len(same)} reports with the title {made.title!r}; rename or delete all "
            "but the one to be replaced"
        )
    return str(same[0]) if same else ""


def _saved_workspace(space: Workspace) -> dict[str, Any]:
    there, name = space._internal_id, space._internal_name
    space.save()
    if space._internal_name != name or space._internal_id != (there or space._internal_id):
        raise ConfigError(f"W&B saved the workspace {space.name!r} as another one ({space.url}): there may be two now")
    return _told(space.name, space.url, there, spec_of(space))


def _saved_report(made: Report) -> dict[str, Any]:
    there = made.id
    made.save()
    if there not in ("", made.id):
        raise ConfigError(f"W&B saved the report {made.title!r} as another one ({made.url}): there may be two now")
    return _told(made.title, made.url, there, spec_of(made))


def _told(name: str, url: str, there: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "url": url, "was": "updated" if there else "created", "spec": spec}


def main() -> int:
    """Save what the request on stdin asks for. Return 0 if everything was saved."""
    try:
        request = json.load(sys.stdin)
        prepare(Path(os.environ["WANDB_DIR"]), all_open=False)
        print(f"{SAVED}{json.dumps(save(request))}", flush=True)
    except ConfigError as error:
        print(f"{REFUSED}{error}", flush=True)
        return 1
    except Exception as error:  # W&B can fail in any way; the parent says so in one line
        print(f"{REFUSED}{in_one_line(error)}", flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
