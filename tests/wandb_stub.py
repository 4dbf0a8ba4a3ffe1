"""A server that speaks as much of W&B's protocol as the mirror uses, on the loopback address, with faults on demand.

It answers questions about a run from what it really received: configuration, summary, history by offset, files by size.
What it holds is written to a file after every change, so that a server that was killed can be started again.
"""

from __future__ import annotations

import gzip
import http.server
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

KEY = "local" + "0" * 35
OWNER = "me"  # the default entity of whoever asks


class Wandb(http.server.ThreadingHTTPServer):
    """The server.

    Attributes:
        runs: `entity/project/id` → what was received: `config`, `summary`, `history` (by offset), `files` (bytes by
            name), `state`, `name`, `group`, `job_type`, `tags`.
        artifacts: id → what was received of a table with pictures: `name`, `type`, `run`, `digest`, `state`, `files` (bytes
            by name).
        columns: names of the columns of all tables that came.
        views: id → a saved workspace (`type` is `project-view`) or report (`runs`): `entityName`, `projectName`, `name`,
            `displayName`, `spec` (as text). Whatever comes without an id is a new one, even under an old name.
        ops: names of the GraphQL operations, in the order in which they came.
        sent_rows: all history rows that came, also those that replaced others.
        faults: what goes wrong: `put403` (files are refused), `pictures403` (pictures in tables are refused), `fs409` and `fs500` (the history is refused), `flaky`
            (every third question fails), `slow` (half a second before each answer), `refuse` (no run can be made).
        deleted: ids that were deleted, and can never be used again.
        paths: all paths that were asked for.
        text: everything that came, one request a line.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, port: int = 0, kept: Path | None = None) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.kept, self.lock = kept, threading.Lock()
        self.runs: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept and kept.exists() else {}
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.columns: set[str] = set()
        self.views: dict[str, dict[str, Any]] = {}
        self.ops: list[str] = []
        self.sent_rows: list[dict[str, Any]] = []
        self.faults: set[str] = set()
        self.deleted: set[str] = set()
        self.paths: set[str] = set()
        self.text = ""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def run(self, run_id: str) -> dict[str, Any]:
        """Return the one run with this id."""
        (found,) = (run for path, run in self.runs.items() if path.rpartition("/")[2] == run_id)
        return found

    def keep(self) -> None:
        if self.kept:
            beside = self.kept.with_suffix(".new")
            beside.write_text(json.dumps(self.runs))
            beside.replace(self.kept)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing where a client was killed."""


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Wandb

    def log_message(self, *args: object) -> None:
        pass

    def _body(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
        self.server.paths.add(self.path)
        self.server.text += body.decode("utf-8", "replace") + "\n"
        return body

    def _reply(self, found: Any, code: int = 200) -> None:
        if "slow" in self.server.faults:
            time.sleep(0.5)
        body = json.dumps(found).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        self._reply({})

    def do_PUT(self) -> None:
        body = self._body()
        if "put403" in self.server.faults:
            return self._reply({"error": "quota"}, 403)
        _, kind, entity, project, run_id, name = unquote(self.path).split("/", 5)
        if kind == "artifact":
            if "pictures403" in self.server.faults and name.endswith(".png"):
                return self._reply({"error": "quota"}, 403)
            self.server.artifacts[run_id]["files"][name] = len(body)
            return self._reply({})
        if name.endswith(".table.json"):
            self.server.columns |= set(json.loads(body)["columns"])
        with self.server.lock:
            self.server.runs[f"{entity}/{project}/{run_id}"]["files"][name] = len(body)
            self.server.keep()
        return self._reply({})

    def do_POST(self) -> None:
        body = json.loads(self._body())
        if self.path.endswith("/file_stream"):
            return self._stream(body)
        op = re.search(r"(?:query|mutation)\s+(\w+)", body["query"])
        name, variables = op[1] if op else "", body.get("variables") or {}
        with self.server.lock:
            self.server.ops.append(name)
            if "flaky" in self.server.faults and len(self.server.ops) % 3 == 0:
                return self._reply({"error": "bad gateway"}, 502)
            if name == "UpsertBucket" and variables["name"] in self.server.deleted:
                said = f"run {variables['name']} was previously created and deleted; try a new run name"
                return self._reply({"errors": [{"message": said}]}, 409)
            if name == "UpsertBucket" and "refuse" in self.server.faults:
                return self._reply({"errors": [{"message": "permission denied"}]}, 403)
            found = getattr(self, f"_{name}", self._others)(variables)
            self.server.keep()
        return self._reply({"data": found})

    def _stream(self, body: dict[str, Any]) -> None:
        """Take rows of the history and the summary; rows replace those at the same offsets."""
        for fault, code in (("fs409", 409), ("fs500", 500)):
            if fault in self.server.faults:
                return self._reply({"error": fault}, code)
        with self.server.lock:
            run = self.server.runs[unquote(self.path).removeprefix("/files/").removesuffix("/file_stream")]
            files = body.get("files") or {}
            if history := files.get("wandb-history.jsonl"):
                rows = [json.loads(line) for line in history["content"]]
                run["history"] |= {str(history["offset"] + i): row for i, row in enumerate(rows)}
                self.server.sent_rows += rows
            for line in files.get("wandb-summary.json", {}).get("content", []):
                run["summary"] = json.loads(line)
            if body.get("complete"):
                run["state"] = "failed" if body.get("exitcode") else "finished"
            self.server.keep()
        return self._reply({"limits": {}})

    def _UpsertBucket(self, v: dict[str, Any]) -> dict[str, Any]:
        path = f"{v['entity'] or OWNER}/{v['project']}/{v['name']}"
        empty = {"config": {}, "summary": {}, "history": {}, "files": {}, "state": "running"}
        run = self.server.runs.setdefault(path, {"upserts": [], **empty})
        run["upserts"].append(v)
        run["state"] = "running"
        if v["config"]:
            run["config"] = {k: c["value"] for k, c in json.loads(v["config"]).items()}
        for mine, theirs in {
            "name": "displayName",
            "group": "groupName",
            "job_type": "jobType",
            "tags": "tags",
        }.items():
            if v[theirs] is not None:
                run[mine] = v[theirs]
        bucket = {"id": "B", "name": v["name"], "displayName": v["displayName"], "description": "", "sweepName": ""}
        bucket |= {"config": v["config"] or "{}", "project": self._project(v), "historyLineCount": len(run["history"])}
        return {"upsertBucket": {"bucket": bucket, "inserted": True}}

    def _CreateRunFiles(self, v: dict[str, Any]) -> dict[str, Any]:
        where = f"{self.server.url}/put/{v['entity']}/{v['project']}/{v['run']}"
        files = [{"name": name, "uploadUrl": f"{where}/{name}"} for name in v["files"]]
        run = self.server.runs[f"{v['entity']}/{v['project']}/{v['run']}"]
        for name in v["files"]:
            run["files"].setdefault(name, 0)  # as W&B lists a file whose bytes have not come
        return {"createRunFiles": {"runID": "B", "uploadHeaders": [], "files": files}}

    def _RunResumeStatus(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.server.runs.get(f"{v['entity'] or OWNER}/{v['project']}/{v['name']}")
        bucket = None
        if run is not None:
            bucket = {
                "id": "B",
                "name": v["name"],
                "displayName": run.get("name"),
                "tags": run.get("tags"),
                "notes": "",
            }
            bucket |= {"summaryMetrics": json.dumps(run["summary"]), "historyLineCount": len(run["history"])}
            bucket |= {"logLineCount": 0, "eventsLineCount": 0, "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
            bucket |= {"historyTail": json.dumps([json.dumps(row) for row in list(run["history"].values())[-1:]])}
            bucket |= {"config": json.dumps({k: {"value": c} for k, c in run["config"].items()})}
        return {"model": self._project(v) | {"bucket": bucket}}

    def _Run(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.server.runs.get(f"{v['entity']}/{v['project']}/{v['name']}")
        if run is None or v["name"] in self.server.deleted:
            return {"project": self._project(v) | {"run": None}}
        told: dict[str, Any] = dict.fromkeys(
            ("sweepName", "commit", "description", "notes", "systemMetrics", "historyKeys")
        )
        told |= {"user": {"name": OWNER, "username": OWNER}}
        told |= {"id": "B", "projectId": "1", "name": v["name"], "displayName": run.get("name"), "readOnly": False}
        told |= {"createdAt": "2026-01-01T00:00:00", "heartbeatAt": "2026-01-01T00:00:00", "state": run["state"]}
        told |= {"tags": run.get("tags"), "group": run.get("group"), "jobType": run.get("job_type")}
        told |= {"config": json.dumps({k: {"value": c} for k, c in run["config"].items()})}
        told |= {"summaryMetrics": json.dumps(run["summary"]), "historyLineCount": len(run["history"])}
        return {"project": self._project(v) | {"run": told}}

    def _RunFiles(self, v: dict[str, Any]) -> dict[str, Any]:
        run = self.server.runs[f"{v['entity']}/{v['project']}/{v['name']}"]
        listed = run["files"]
        named = {n: size for n, size in listed.items() if not v.get("fileNames") or n in v["fileNames"]}
        rest = dict.fromkeys(("url", "directUrl", "mimetype", "updatedAt", "md5"))
        edges = [{"node": {"id": n, "name": n, "sizeBytes": size} | rest, "cursor": n} for n, size in named.items()]
        page = {"edges": edges, "pageInfo": {"endCursor": "", "hasNextPage": False}}
        return {"project": self._project(v) | {"run": {"fileCount": len(listed), "files": page}}}

    def _ArtifactType(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"artifact": None}}

    def _CreateArtifact(self, v: dict[str, Any]) -> dict[str, Any]:
        """Take a version of an artifact; the same content under the same name is the version that is there."""
        new = v["input"]
        run = f"{new['entityName']}/{new['projectName']}/{new['runName']}"
        one = {"name": new["artifactCollectionName"], "type": new["artifactTypeName"], "run": run}
        one["digest"] = new["digest"]
        same = (i for i, there in self.server.artifacts.items() if one.items() <= there.items())
        artifact = next(same, f"Artifact{len(self.server.artifacts)}")
        told = {"id": artifact, "state": self.server.artifacts.get(artifact, {}).get("state", "PENDING")}
        self.server.artifacts.setdefault(artifact, one | {"state": "PENDING", "files": {}})
        return {"createArtifact": {"artifact": told | {"artifactSequence": {"latestArtifact": None}}}}

    def _place(self, artifact: str, name: str) -> dict[str, Any]:
        return {"uploadUrl": f"{self.server.url}/artifact/-/-/{artifact}/{name}", "uploadHeaders": []}

    def _CreateArtifactManifest(self, v: dict[str, Any]) -> dict[str, Any]:
        file = {"id": "F"} | self._place(v["artifactID"], v["name"])
        return {"createArtifactManifest": {"artifactManifest": {"id": v["artifactID"], "file": file}}}

    def _CreateArtifactFiles(self, v: dict[str, Any]) -> dict[str, Any]:
        edges = []
        for file in v["input"]["artifactFiles"]:
            artifact, name = file["artifactID"], file["name"]
            told = {"storagePath": name, "uploadMultipartUrls": None, "artifact": {"id": artifact}}
            edges.append({"node": told | self._place(artifact, name)})
        return {"createArtifactFiles": {"files": {"edges": edges}}}

    def _CommitArtifact(self, v: dict[str, Any]) -> dict[str, Any]:
        self.server.artifacts[v["artifactID"]]["state"] = "COMMITTED"
        return {"commitArtifact": {"artifact": {"id": v["artifactID"], "digest": "0"}}}

    def _ArtifactMembershipByName(self, v: dict[str, Any]) -> dict[str, Any]:
        """Tell of the newest version of an artifact, as W&B's library wants it."""
        mine = {"name": v["name"].partition(":")[0]}
        found = [(i, one) for i, one in self.server.artifacts.items() if mine.items() <= one.items()]
        if not found:
            return {"project": self._project(v) | {"artifactCollectionMembership": None}}
        artifact, one = max(found, key=lambda pair: pair[1]["state"] == "COMMITTED")
        project = self._project(v) | {"__typename": "Project"}
        source = {"__typename": "ArtifactSequence", "id": "S", "name": one["name"], "project": project}
        told = dict.fromkeys(("description", "metadata", "historyStep", "commitHash", "updatedAt"))
        told |= {"ttlDurationSeconds": -1, "ttlIsInherited": True, "tags": [], "createdAt": "2026-01-01", "size": 1}
        told |= {"__typename": "Artifact", "id": artifact, "artifactSequence": source, "versionIndex": 0}
        told |= {"artifactType": {"name": one["type"]}, "fileCount": len(one["files"]), "aliases": []}
        told |= {"state": one["state"], "digest": one["digest"]}
        member = {"__typename": "ArtifactCollectionMembership", "id": "M", "versionIndex": 0, "createdAt": "2026-01-01"}
        member |= {"aliases": [], "artifactCollection": source, "artifact": told}
        return {"project": self._project(v) | {"artifactCollectionMembership": member}}

    def _upsertView(self, v: dict[str, Any]) -> dict[str, Any]:
        view_id = v.get("id") or f"View{len(self.server.views)}"
        inserted = view_id not in self.server.views
        self.server.views[view_id] = v
        project = {"id": "P", "name": v["projectName"], "entityName": v["entityName"]}
        told = {name: v[name] for name in ("type", "name", "displayName", "description", "spec")}
        view = told | {"id": view_id, "project": project, "updatedAt": "2026-01-01T00:00:00"}
        return {"upsertView": {"view": view, "inserted": inserted}}

    _UpsertView2 = _upsertView

    def _Views(self, v: dict[str, Any]) -> dict[str, Any]:
        return self._found("project-view", v)

    def _ProjectViews(self, v: dict[str, Any]) -> dict[str, Any]:
        return self._found("runs", v)

    def _found(self, kind: str, v: dict[str, Any]) -> dict[str, Any]:
        """Return the views of a project, in pages of two if pages are asked for; with `viewName` those of that name."""
        mine = {"type": kind, "entityName": v["entity"], "projectName": v["project"]}
        if name := v.get("name") or v.get("viewName"):
            mine["name"] = name
        if v["project"] not in self._projects(v["entity"]):
            return {"project": None}
        views = [(i, one) for i, one in self.server.views.items() if mine.items() <= one.items()]
        after = [i for i, _ in views].index(v["reportCursor"]) + 1 if v.get("reportCursor") else 0
        page = views[after : after + 2]
        nodes = [{"id": i, **{n: one[n] for n in ("name", "displayName", "spec")}} for i, one in page]
        info = {"endCursor": nodes[-1]["id"] if nodes else None, "hasNextPage": len(views) > after + 2}
        return {"project": {"allViews": {"edges": [{"node": n, "cursor": n["id"]} for n in nodes], "pageInfo": info}}}

    def _projects(self, entity: str) -> list[str]:
        """Return the projects of an owner that have runs."""
        paths = (path.split("/") for path in self.server.runs)
        return sorted({project for owner, project, _ in paths if owner == entity})

    def _GetProjects(self, v: dict[str, Any]) -> dict[str, Any]:
        rest = {"entityName": v["entity"], "createdAt": "2026-01-01", "isBenchmark": False, "user": None}
        nodes = [{"id": name, "name": name} | rest for name in self._projects(v["entity"])]
        page = {"endCursor": None, "hasNextPage": False}
        return {"models": {"edges": [{"node": n, "cursor": n["id"]} for n in nodes], "pageInfo": page}}

    def _ProjectInternalId(self, v: dict[str, Any]) -> dict[str, Any]:
        return {"project": {"id": "P", "internalId": "1"}}

    def _others(self, v: dict[str, Any]) -> dict[str, Any]:
        viewer = {"id": "U", "entity": OWNER, "username": OWNER, "email": "", "flags": "{}", "teams": {"edges": []}}
        features = {"features": [], "cliVersionInfo": {"max_cli_version": "9"}, "latestLocalVersionInfo": None}
        return {"viewer": viewer, "serverInfo": features, "project": self._project(v), "model": self._project(v)}

    def _project(self, v: dict[str, Any]) -> dict[str, Any]:
        entity = {"id": "E", "name": v.get("entity") or OWNER}
        return {"id": "P", "name": v.get("project"), "internalId": "1", "entity": entity, "entityName": entity["name"]}


@contextmanager
def serving() -> Iterator[Wandb]:
    """Run a server in a thread for the length of a block."""
    with Wandb() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()


if __name__ == "__main__":  # python -m tests.wandb_stub PORT FILE [FAULT...]
    with Wandb(int(sys.argv[1]), Path(sys.argv[2])) as alone:
        alone.faults = set(sys.argv[3:])
        alone.serve_forever(poll_interval=0.02)
