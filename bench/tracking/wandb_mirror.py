"""Copy local records to Weights & Biases, in a process of its own.

Run as `python -m bench.tracking.wandb_mirror MODE ROOT SERVER FOLDER...`.

Each cell is one W&B run. The run's id is made from the cell and its key, its group is the matrix, its job type the
method. Only what has passed the border (`bench.privacy.border`) is sent. A marker file beside the record says what was
sent. `python -m bench.tracking.wandb_mirror where ROOT SERVER` prints the server that W&B would use.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench.files import read_json, write_text
from bench.privacy.border import check_server, is_open, payload
from bench.results.record import read_record

if TYPE_CHECKING:
    from wandb import Settings

FAILED = "mirror failed: "  # the parent looks for these words in the log
SERVER = "server: "  # and for these when it asks for the server
NO_SERVER = "-"  # the argument SERVER if there is none
PROJECT = "longtail-bench"  # WANDB_PROJECT overrides it
# The marker keeps a finished matrix from being sent again at every run. It holds the run's id, which changes with the
# cell's key, so that new results are sent; and whether the data were open then, so that a later change can be noticed.
_MARKER = "wandb.json"
# Only these variables may reach W&B for credentialed data: they say where and how it is reached. W&B would send most
# others along with the run (notes, tags, names).
_NEEDED = re.compile(
    r"WANDB_(API_KEY|BASE_URL|PROJECT|ENTITY|ERROR_REPORTING|IDENTITY_TOKEN_FILE|CREDENTIALS_FILE|INSECURE_DISABLE_SSL|"
    r"X_EXTRA_HTTP_HEADERS|\w*_?(DIR|PROXY|TIMEOUT|TIMEOUT_SECONDS))"
)
_INIT_TIMEOUT_S, _FINISH_TIMEOUT_S = 30, 60


def run_id(record: dict[str, Any], server: str | None = None) -> str:
    """Return the id of a cell's W&B run, 16 hex digits: the same for the same cell and key, else another."""
    # A run of credentialed data is reduced, unless it goes to the one server that may have everything. These kinds get
    # different ids, or a run that was sent in full could be continued on a server that may only have the reduced one.
    own = [] if is_open(record.get("sharing", "")) else ["reduced" if server is None else server]
    text = json.dumps([record["matrix"], record["cell"], record["key"], *own])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_mirrored(folder: Path, record: dict[str, Any], mode: str, server: str | None = None) -> bool:
    """Tell whether W&B has this result already. A result that was sent online needs no offline copy."""
    marker = read_json(folder / _MARKER) or {}
    return marker.get("run_id") == run_id(record, server) and marker.get("mode") in (mode, "online")


def was_open(folder: Path, record: dict[str, Any]) -> bool:
    """Tell whether W&B got everything about a cell when its data were open, although they are credentialed now."""
    marker = read_json(folder / _MARKER) or {}
    return is_open(str(marker.get("sharing", ""))) and not is_open(record.get("sharing", ""))


def mirror(folder: Path, root: Path, mode: str, server: str | None = None) -> None:
    """Send one cell and write its marker, unless it was sent before.

    Args:
        folder: the folder of the cell's record.
        root: the store's folder.
        mode: `offline` or `online`.
        server: host that the user allows to have everything, or None.

    Raises:
        ConfigError: if W&B would use another server than `server`.
    """
    import wandb

    record = read_record(folder)
    if record is None or is_mirrored(folder, record, mode, server):
        return
    pinned: dict[str, str] = {}  # W&B reads further settings later; these it may not change
    if server is not None:
        pinned["base_url"] = base_url(wandb)
        check_server(server, mode, pinned["base_url"])
    if not is_open(record.get("sharing", "")):
        pinned["run_notes"] = ""  # else W&B sends the notes of a settings file
    sent = payload(record, root, server)
    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=run_id(record, server),
        name=sent.name,
        group=sent.group,
        job_type=sent.job_type,
        config=sent.config,
        tags=[tag[:64] for tag in sent.tags],
        mode=mode,  # type: ignore[arg-type]
        dir=root,
        settings=_settings(wandb, **pinned),
    )
    for name, rows in sent.curves.items():
        run.define_metric(f"{name}/*", step_metric=f"{name}/step")
        for i, row in enumerate(rows):
            run.log({f"{name}/{k}": v for k, v in ({"step": float(i)} | row).items()})
    if sent.grid is not None:
        run.log({"samples": wandb.Image(sent.grid, caption="one row a target class")})
    run.summary.update(sent.summary)
    place = Path(run.dir).parent
    run.finish()
    _remove_logs(place)
    marker = {"mode": mode, "key": record["key"], "run_id": run_id(record, server), "server": server}
    marker["sharing"] = record.get("sharing", "")
    write_text(folder / _MARKER, json.dumps(marker))


def _remove_logs(run_folder: Path) -> None:
    """Remove W&B's own logs of a run: they name paths of this machine, and a run's folder may be passed on."""
    shutil.rmtree(run_folder / "logs", ignore_errors=True)
    for link in ("debug.log", "debug-internal.log"):
        (run_folder.parent / link).unlink(missing_ok=True)


def _remove_service_logs(root: Path) -> None:
    """End W&B's service process, which writes until then, and remove its logs below our cache: they name paths."""
    import wandb

    with contextlib.suppress(Exception):  # everything has been sent by now
        wandb.teardown()
    for logs in (root / "wandb" / "cache").rglob("logs"):
        shutil.rmtree(logs, ignore_errors=True)


def base_url(wandb: ModuleType) -> str:
    """Return the address of the server that W&B uses, as W&B reads it from variables and settings files."""
    return str(wandb.setup().settings.base_url)


def _settings(wandb: ModuleType, **pinned: str) -> Settings:
    """Return settings under which W&B sends what it is given, and collects nothing by itself."""
    return wandb.Settings(
        console="off",
        silent=True,
        disable_git=True,
        disable_code=True,
        save_code=False,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        host="-",  # else W&B sends the name of this machine
        init_timeout=_INIT_TIMEOUT_S,
        login_timeout=_INIT_TIMEOUT_S,
        finish_timeout=_FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        **pinned,
    )


def main(arguments: Sequence[str]) -> int:
    """Send the records in some folders; stop at the first that fails, since the others would fail in the same way."""
    mode, root = arguments[0], Path(arguments[1])
    server = None if arguments[2] == NO_SERVER else arguments[2]
    folders = [Path(a) for a in arguments[3:]]
    os.nice(10)  # the benchmark's processes come first
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # else W&B reports its errors, with messages and paths
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ.setdefault(name, str(root / "wandb" / "cache"))
    try:
        if mode == "where":
            import wandb

            print(f"{SERVER}{base_url(wandb)}", flush=True)
        if not all(is_open((read_record(f) or {}).get("sharing", "")) for f in folders):
            for name in [n for n in os.environ if n.startswith("WANDB_") and not _NEEDED.fullmatch(n)]:
                del os.environ[name]  # may hold free text that nobody has checked
        for folder in folders:
            mirror(folder, root, mode, server)
        if folders:
            _remove_service_logs(root)
    except ImportError as error:
        print(f"{FAILED}{error.name or error} is not installed", flush=True)
        return 1
    except Exception as error:  # W&B can fail in any way; the parent prints one line and goes on
        first = (str(error).strip().splitlines() or [""])[0]
        print(f"{FAILED}{type(error).__name__}: {first}"[:300], flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
