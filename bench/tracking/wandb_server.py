"""Ask W&B's server, through W&B's public interface, what it has of a run."""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.privacy.media import Table
from bench.privacy.payload import LIVE, Payload
from bench.tracking.marker import Destination

if TYPE_CHECKING:
    import wandb
    from wandb.apis.public import Run

PROJECT = "longtail-bench"  # WANDB_PROJECT overrides it
WAITS_S = (0.0, 1.0, 2.0, 4.0)  # before each look at what was just sent: a server may show it with a delay
_TIMEOUT_S = 30
_OWN_FILES = ("config.yaml", "wandb-summary.json")  # W&B writes these for every run


@dataclass(frozen=True)
class Held:
    """What a server has of a run.

    Attributes:
        lacking: what it lacks, in words; None if it has all of it.
        n_rows: number of rows of the history that it has.
        is_other: whether it has a run under this id that holds something else.
    """

    lacking: str | None
    n_rows: int = 0
    is_other: bool = False


class Unreachable(Exception):
    """The server cannot be asked: no login, no network, or an answer that makes no sense."""


def base_url() -> str:
    """Return the address of the server that W&B uses, as W&B reads it from variables and settings files."""
    import wandb

    return str(wandb.setup().settings.base_url)


def project() -> str:
    """Return the name of the project that runs belong to."""
    return os.environ.get("WANDB_PROJECT") or PROJECT


class Server:
    """The server that W&B uses in this process.

    Attributes:
        to: where runs are sent to. Its entity is empty if nobody named one and the server cannot be reached.
        problem: why the server cannot be asked, or None.
    """

    def __init__(self) -> None:
        """Log in, and find the entity and the project; a server that cannot be reached is no error yet."""
        import wandb

        self.problem: str | None = None
        self._api: wandb.Api | None = None
        entity = wandb.setup().settings.entity or ""
        try:
            self._api = wandb.Api(timeout=_TIMEOUT_S)
            entity = entity or self._api.default_entity or ""
            self.problem = None if entity else "your login has no entity of its own; set WANDB_ENTITY"
        except Exception as error:  # W&B can fail in any way
            self.problem = in_one_line(error)
        self.to = Destination(base_url().rstrip("/"), entity, project())

    def held(self, run_id: str, sent: Payload) -> Held:
        """Return what the server has of a run.

        Args:
            run_id: the run's id at the server.
            sent: everything that the run is to hold.

        Raises:
            Unreachable: if the server does not answer.
        """
        run = self._run(run_id)
        if run is None:
            return Held("the server does not have the run")
        try:
            held = _compared(run, sent)
            if held.lacking is None:
                held = Held(self._table_without_pictures(run_id, sent), held.n_rows)
            return held
        except Exception as error:  # the files are asked for here, and the answer can be of any kind
            raise Unreachable(in_one_line(error)) from error

    def rows_of_live(self, run_id: str) -> int | None:
        """Return how many rows the server has of a run that shows a training; None if it holds something else.

        Raises:
            Unreachable: if the server does not answer.
        """
        run = self._run(run_id)
        if run is None:
            return 0
        return (run.historyLineCount or 0) if _payload_of(run) == LIVE else None

    def lacking_in_the_end(self, run_id: str, sent: Payload) -> str | None:
        """Return what the server lacks of a run that was just sent; ask again for a few seconds before saying so."""
        lacking: str | None = None
        for wait_s in WAITS_S:
            time.sleep(wait_s)
            lacking = self.held(run_id, sent).lacking
            if lacking is None:
                break
        return lacking

    def _table_without_pictures(self, run_id: str, sent: Payload) -> str | None:
        """Return which table with pictures the server has not got, in words. W&B keeps such a table as an artifact."""
        for name, medium in sent.media.items():
            if self._api is None or not isinstance(medium, Table) or not medium.has_pictures:
                continue
            there = False
            with contextlib.suppress(AssertionError):  # W&B's library raises it if not all of its files have arrived
                there = self._api.artifact_exists(f"{self.to.entity}/{self.to.project}/run-{run_id}-{name}:latest")
            if not there:
                return f"the server has not got the pictures of the table {name}"
        return None

    def _run(self, run_id: str) -> Run | None:
        if self._api is None or self.problem:
            raise Unreachable(self.problem or "not logged in")
        self._api.flush()  # else it answers from memory
        try:
            return self._api.run(f"{self.to.entity}/{self.to.project}/{run_id}")
        except Exception as error:  # that there is no such run is told by this sentence alone
            if "Could not find run" in str(error):
                return None
            raise Unreachable(in_one_line(error)) from error


def _compared(run: Run, sent: Payload) -> Held:
    """Compare a run at the server with what it is to hold."""
    n_rows, n_sent = run.historyLineCount or 0, len(sent.rows())
    if _payload_of(run) not in (sent.config["run"]["payload"], LIVE) or n_rows > n_sent:
        return Held("the server has another version of the run", n_rows, is_other=True)
    if _payload_of(run) == LIVE:
        return Held("the server has the training alone", n_rows)
    if n_rows < n_sent:
        return Held(f"the server has {n_rows} of {n_sent} rows of the history", n_rows)
    if run.state != "finished":
        return Held(f"the run did not end at the server (it is {run.state})", n_rows)
    summary = run.summary_metrics
    for name, value in sent.summary.items():
        if not _same(summary.get(name), value):
            return Held(f"the server's summary has another value of {name}", n_rows)
    media = [(summary.get(name) or {}).get("path") or name for name in sent.media]
    wanted = [*_OWN_FILES, *media]
    empty = missing_files(run, wanted)
    if empty:
        return Held(f"the server has not got {len(empty)} of {len(wanted)} files, e.g. {empty[0]}", n_rows)
    return Held(None, n_rows)


def missing_files(run: Run, wanted: Sequence[str]) -> list[str]:
    """Return those of the wanted files of which the server has no bytes."""
    sizes = {file.name: file.size for file in run.files(list(wanted))}
    return [name for name in wanted if not sizes.get(name)]


def _payload_of(run: Run) -> str | None:
    """Return what a run says that it holds: the digest of a payload, LIVE, or None."""
    found: str | None = (run.config.get("run") or {}).get("payload")
    return found


def _same(found: Any, value: Any) -> bool:
    if isinstance(value, str) or isinstance(found, str) or found is None:
        return bool(found == value)
    return isinstance(found, (int, float)) and math.isclose(found, value, rel_tol=1e-6, abs_tol=1e-12)


def in_one_line(error: BaseException) -> str:
    """Return an error of W&B's as one line: what failed, without the story of its retries."""
    text = " ".join(str(error).split()).partition(" while retrying: ")
    said = text[2] if "giving up after" in text[0] and text[2] else text[0]
    return (said if type(error) is Unreachable else f"{type(error).__name__}: {said}")[:200]
