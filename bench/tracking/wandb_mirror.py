"""Copy local records to Weights & Biases, in a process of its own.

Run as `python -m bench.tracking.wandb_mirror MODE ROOT SERVER FOLDER...`.

Each cell is one W&B run. The run's id is made from the cell and its key, its group is the matrix, its job type the
method. Only what has passed the border (`bench.privacy.border`) is sent. A cell counts as sent when the server was
asked and has all of it (`bench.tracking.wandb_server`); then a marker beside the record says so. One line on stdout
tells what became of each cell. `python -m bench.tracking.wandb_mirror where ROOT SERVER` prints the server that W&B
would use, and `python -m bench.tracking.wandb_mirror live ROOT SERVER ALL_OPEN` shows cells while they are trained
(`bench.tracking.live_runs`).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.files import same_mode_below
from bench.privacy.border import check_server, is_open, payload
from bench.privacy.payload import Payload
from bench.results.record import read_record
from bench.store.store import Store
from bench.tracking.live_runs import LiveRuns, watch
from bench.tracking.marker import MOST_IDS, Destination, has_offline_copy, ids, lock_of, run_id, was_sent, write_marker
from bench.tracking.wandb_run import (
    DeletedError,
    pinned_settings,
    quiet_settings,
    remove_logs,
    remove_service_logs,
    write_run,
)
from bench.tracking.wandb_server import Server, Unreachable, base_url, in_one_line, project

# The parent looks for these words in what we print.
FAILED = "mirror failed: "  # nothing could be sent, and why
SERVER = "server: "  # the server that W&B uses
CELL = "cell: "  # then the position of the folder, and `sent`, `there` (it was before), or `lacks` and the reason
NO_SERVER = "-"  # the argument SERVER if there is none
ALL_OPEN = "open"  # the argument ALL_OPEN if all data are open
# Only these variables may reach W&B for credentialed data: they say where and how it is reached. W&B would send most
# others along with the run (notes, tags, names).
_NEEDED = re.compile(
    r"WANDB_(API_KEY|BASE_URL|PROJECT|ENTITY|ERROR_REPORTING|IDENTITY_TOKEN_FILE|CREDENTIALS_FILE|INSECURE_DISABLE_SSL|"
    r"X_EXTRA_HTTP_HEADERS|\w*_?(DIR|PROXY|TIMEOUT|TIMEOUT_SECONDS))"
)
_MOST_UNANSWERED = (
    3  # cells one after the other for which the server did not answer; then the others are left for later
)
_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 4.0  # after a cell that failed; doubled with each further one


class IncompleteError(Exception):
    """A run was sent, and the server does not have all of it."""


def mirror(folder: Path, root: Path, server: str | None = None, asked: Server | None = None) -> bool:
    """Send one cell, or write its offline copy, and write its marker. Return whether anything was to do.

    Args:
        folder: the folder of the cell's record.
        root: the store's folder.
        server: host that the user allows to have everything, or None.
        asked: the server that gets the run; None for an offline copy.

    Raises:
        ConfigError: if W&B would use another server than `server`.
        IncompleteError: if the server does not have all of it in the end.
        Unreachable: if the server cannot be asked.
    """
    # A mirror outlives a run that is killed, and the next run starts another.
    with Store(root).locks.alone(lock_of(folder, root)):
        record = read_record(folder)
        if record is None:
            return False
        if asked is None:
            if has_offline_copy(folder, record, server):
                return False
            to = Destination("", "", project())
            name = run_id(record, server)
            write_run(payload(record, root, server, folder), name, root, "offline", to, pinned_settings(record))
            remove_logs(root, name)
            write_marker(folder, record, server)
            return True
        if was_sent(folder, record, asked.to, server):
            return False
        name, is_new = _upload(payload(record, root, server, folder), record, root, server, asked)
        remove_logs(root, name)
        write_marker(folder, record, server, asked.to, name)
        return is_new


def _upload(sent: Payload, record: dict[str, Any], root: Path, server: str | None, asked: Server) -> tuple[str, bool]:
    """Let the server have a run, whole. Return the run's id there, and whether anything had to be sent."""
    pinned = pinned_settings(record, server)
    for name in ids(run_id(record, server)):
        held = asked.held(name, sent)
        if held.lacking is None:  # a mirror that was killed had sent it, and could not write its marker
            return name, False
        if held.is_other:  # made by an earlier version of the harness; rows would be added to it
            continue
        try:
            write_run(sent, name, root, "online", asked.to, pinned, held.n_rows)
        except DeletedError:
            continue
        lacking = asked.lacking_in_the_end(name, sent)
        if lacking is not None:
            raise IncompleteError(lacking)
        return name, True
    raise IncompleteError(f"{MOST_IDS} runs of this cell were deleted there, or hold something else")


def _send_all(folders: Sequence[Path], root: Path, mode: str, server: str | None) -> int:
    """Send cells one after the other, print what became of each, and return how many W&B lacks now."""
    if server is not None:
        check_server(server, mode, base_url())  # before anything is asked there
    asked = Server() if mode == "online" else None
    n_lacking = n_unanswered = 0
    pause_s = _PAUSE_S
    for i, folder in enumerate(folders):
        try:
            became = "sent" if mirror(folder, root, server, asked) else "there"
            n_unanswered, pause_s = 0, _PAUSE_S
        except ImportError:
            raise
        except Exception as error:  # W&B can fail in any way, and other cells may still be sent
            became = f"lacks {str(error) if isinstance(error, IncompleteError) else in_one_line(error)}"
            n_lacking += 1
            n_unanswered = n_unanswered + 1 if isinstance(error, Unreachable) else 0
            pause_s = _back_off(pause_s, last=i + 1 == len(folders) or n_unanswered == _MOST_UNANSWERED)
        print(f"{CELL}{i} {became}", flush=True)
        if n_unanswered == _MOST_UNANSWERED:
            return n_lacking + len(folders) - i - 1
    return n_lacking


def _back_off(pause_s: float, last: bool) -> float:
    """Wait after a failure, unless no cell comes after it, and return how long to wait after the next."""
    if not last:
        time.sleep(pause_s)
    return min(2 * pause_s, _LONGEST_PAUSE_S)


def prepare(root: Path, all_open: bool) -> None:
    """Set W&B's variables, and unless all data are open, remove those that hold what nobody has checked."""
    os.environ["WANDB_ERROR_REPORTING"] = "false"  # else W&B reports its errors, with messages and paths
    for name in ("WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_ARTIFACT_DIR"):
        os.environ.setdefault(name, str(root / "wandb" / "cache"))
    if not all_open:
        for name in [n for n in os.environ if n.startswith("WANDB_") and not _NEEDED.fullmatch(n)]:
            del os.environ[name]  # may hold free text


@contextlib.contextmanager
def _staging(root: Path, mode: str) -> Iterator[None]:
    """Let W&B stage the pictures of tables in a folder that is removed in the end, with what W&B keeps of them."""
    if mode != "online":  # an offline copy reads them from below the store
        yield
        return
    # W&B sends the places of staged files along with the files. A path below the store would tell too much.
    common = "/tmp" if os.access("/tmp", os.W_OK) else None  # noqa: S108
    with tempfile.TemporaryDirectory(dir=common) as folder:
        os.environ["WANDB_DATA_DIR"] = folder
        yield
    shutil.rmtree(root / "wandb" / "cache" / "artifacts" / "obj", ignore_errors=True)


def main(arguments: Sequence[str]) -> int:
    """Send the records in some folders. Return 0 if W&B has all of them now."""
    mode, root = arguments[0], Path(arguments[1])
    server = None if arguments[2] == NO_SERVER else arguments[2]
    folders = [Path(a) for a in arguments[3:]] if mode != "live" else []
    os.nice(10)  # the benchmark's processes come first
    try:
        if mode == "live":
            prepare(root, all_open=arguments[3] == ALL_OPEN)
            watch(sys.stdin.fileno(), LiveRuns(root, server))
            return 0
        prepare(root, all(is_open((read_record(f) or {}).get("sharing", "")) for f in folders))
        import wandb

        if mode == "where":
            print(f"{SERVER}{base_url()}", flush=True)
            return 0
        wandb.setup(quiet_settings(wandb))
        with _staging(root, mode):
            n_lacking = _send_all(folders, root, mode, server)
        if not n_lacking:
            remove_service_logs(root)  # after a failure they say why
        same_mode_below(root / "wandb")
    except ImportError as error:
        print(f"{FAILED}{error.name or error} is not installed", flush=True)
        return 1
    except Exception as error:  # W&B can fail in any way; the parent prints one line and goes on
        print(f"{FAILED}{in_one_line(error)}", flush=True)
        return 1
    return 1 if n_lacking else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
