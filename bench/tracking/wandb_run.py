"""Write one W&B run: everything of a cell that has passed the border, and nothing that W&B would collect by itself."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bench.privacy.border import check_server, is_open
from bench.privacy.media import Medium, Picture
from bench.privacy.payload import Payload
from bench.tracking.marker import Destination
from bench.tracking.wandb_server import base_url

if TYPE_CHECKING:
    from wandb import Image, Run, Settings
    from wandb import Table as WandbTable

TRANSMIT_S = 15.0  # between two transmissions of rows; W&B's own default
_INIT_TIMEOUT_S, _FINISH_TIMEOUT_S = 30, 60
# W&B's own would try for hours. A cell that fails is tried again by us, after the other cells.
_RETRIES, _FIRST_WAIT_S, _LONGEST_WAIT_S = 3, 0.5, 4.0


class DeletedError(Exception):
    """A run with this id was deleted at W&B, which never takes the id again."""


def write_run(
    sent: Payload, run_id: str, root: Path, mode: str, to: Destination, pinned: dict[str, str], n_there: int = 0
) -> None:
    """Write a run; W&B keeps a copy of it below `root`.

    Args:
        sent: what the run is to hold.
        run_id: the run's id.
        root: the store's folder.
        mode: `offline` or `online`.
        to: where the run belongs.
        pinned: settings that W&B may not read from anywhere else.
        n_there: number of the history rows that the server has already, from a process that was killed or refused. W&B
            appends to them.

    Raises:
        DeletedError: if a run with this id was deleted.
        Exception: whatever W&B raises.
    """
    run = begin_run(sent, run_id, root, mode, to, pinned)
    try:
        _fill(run, sent, n_there)
        run.finish()
    except BaseException:
        end_badly(run)
        raise


def begin_run(
    sent: Payload,
    run_id: str,
    root: Path,
    mode: str,
    to: Destination,
    pinned: dict[str, str],
    goes_on: bool = False,
) -> Run:
    """Return a run that is being written, new or gone on with; see `write_run`.

    With `goes_on`, steps are counted on from the last one that the server has.
    """
    import wandb

    try:
        run = wandb.init(
            entity=to.entity or None,
            project=to.project,
            id=run_id,
            name=sent.name,
            group=sent.group,
            job_type=sent.job_type,
            config=sent.config,
            tags=[tag[:64] for tag in sent.tags],
            mode=mode,  # type: ignore[arg-type]
            dir=root,
            resume="allow" if goes_on else None,
            settings=quiet_settings(wandb, **pinned),
        )
    except Exception as error:  # W&B has no type of its own for this
        if "previously created and deleted" in str(error):
            raise DeletedError(f"the run {run_id} was deleted there") from error
        raise
    for name in sent.curves:
        run.define_metric(f"{name}/*", step_metric=f"{name}/step")
    return run


def end_badly(run: Run) -> None:
    """End a run that is not complete; W&B shows it as failed until somebody goes on with it."""
    with contextlib.suppress(Exception):
        run.finish(exit_code=1)


def pinned_settings(record: dict[str, Any], server: str | None = None) -> dict[str, str]:
    """Return the settings that W&B may not read from files: of data that are not open, its notes and its server.

    Raises:
        ConfigError: if W&B would use another server than `server`.
    """
    pinned = {} if is_open(record.get("sharing", "")) else {"run_notes": ""}
    if server is not None:
        pinned["base_url"] = base_url()
        check_server(server, "online", pinned["base_url"])
    return pinned


def _fill(run: Run, sent: Payload, n_there: int) -> None:
    """Log the rows that the server does not have, and write the summary and the files."""
    for i, row in enumerate(sent.rows()):
        for key in row.keys() & sent.media.keys():
            row = {key: _bound(run, key, i, sent.media[key])}
        if i >= n_there:
            run.log(row, step=i)
        else:
            run.summary.update(row)  # which W&B makes of the rows that are logged now
    run.summary.update(sent.summary)


def _bound(run: Run, key: str, step: int, medium: Medium) -> Image | WandbTable:
    """Return a medium as W&B's own. Its file is sent, under the same name each time."""
    made = _as_wandb(medium)
    # W&B makes an artifact of a table that is not bound. Only there do the pictures in its cells have files; a bound
    # table would name them by a word.
    if isinstance(medium, Picture) or not medium.has_pictures:
        made.bind_to_run(run, key, step)
    return made


def _as_wandb(medium: Medium) -> Image | WandbTable:
    import wandb

    if isinstance(medium, Picture):
        return wandb.Image(medium.pixels, caption=medium.caption or None)
    rows = [[_as_wandb(cell) if isinstance(cell, Picture) else cell for cell in row] for row in medium.rows]
    return wandb.Table(columns=list(medium.columns), data=rows)


def quiet_settings(wandb: ModuleType, **pinned: str) -> Settings:
    """Return settings under which W&B sends what it is given, and collects nothing by itself."""
    kinds = ("graphql", "file_stream", "file_transfer")
    patience: dict[str, float] = {f"x_{kind}_retry_max": _RETRIES for kind in kinds}
    patience["x_file_stream_transmit_interval"] = TRANSMIT_S
    patience |= {f"x_{kind}_retry_wait_min_seconds": _FIRST_WAIT_S for kind in kinds}
    patience |= {f"x_{kind}_retry_wait_max_seconds": _LONGEST_WAIT_S for kind in kinds}
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
        program="bench",  # else W&B sends the place of the code
        reinit="create_new",  # else a run that could not be ended would get the next cell's numbers
        init_timeout=_INIT_TIMEOUT_S,
        login_timeout=_INIT_TIMEOUT_S,
        finish_timeout=_FINISH_TIMEOUT_S,
        finish_timeout_raises=True,
        **patience,
        **pinned,
    )


def remove_logs(root: Path, run_id: str) -> None:
    """Remove W&B's own logs of a run: they name paths of this machine, and a run's folder may be passed on."""
    for folder in (root / "wandb").glob(f"*run-*-{run_id}"):
        shutil.rmtree(folder / "logs", ignore_errors=True)
    for link in ("debug.log", "debug-internal.log"):
        (root / "wandb" / link).unlink(missing_ok=True)


def remove_service_logs(root: Path) -> None:
    """End W&B's service process, which writes until then, and remove its logs below our cache: they name paths."""
    import wandb

    with contextlib.suppress(Exception):  # everything has been sent by now
        wandb.teardown()
    for logs in (root / "wandb" / "cache").rglob("logs"):
        shutil.rmtree(logs, ignore_errors=True)
