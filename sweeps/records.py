"""The record of every trial that has ended, and its copy at W&B.

    <store>/studies/<study>.trials/<number>/record.json    the trial's settings, what was measured, state, seconds

A record is written whatever tracker is chosen. It is made of the study's journal, so one that is missing, since a
driver was killed, is written by the next driver or by `bench upload`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from bench.errors import ConfigError
from bench.files import finite, write_strict_json
from bench.matrix.matrix import Matrix
from bench.matrix.resolved import flat_config
from bench.pipeline.key import canonical_json
from bench.results.record import allowed_servers, git_state, read_record
from bench.store.manifest import versions
from bench.store.store import Store
from sweeps.outcome import SweepResult, TrialRow, short_names
from sweeps.settings import Sweep, fingerprint

SCHEMA = 1


def trial_folder(store: Store, study: str, number: int) -> Path:
    """Return the folder for the record of a trial, whether or not it exists."""
    return store.root / "studies" / f"{study}.trials" / str(number)


class Sender(Protocol):
    """What copies records elsewhere; `bench.tracking.sender.Sender` is one."""

    def offer(self, name: str, folder: Path, record: dict[str, Any]) -> None:
        """Queue a record in its folder, unless it was copied before."""

    def pump(self) -> None:
        """Go on with copying, without waiting."""

    def close(self) -> None:
        """Copy what is left, and say what is lacking."""


class TrialTracker:
    """Writes the record of every trial that has ended, and gives it to what copies it elsewhere, if there is such."""

    def __init__(
        self,
        sweep: Sweep,
        store: Store,
        say: Callable[[str], object],
        sender: Sender | None = None,
        share_with: str | None = None,
    ) -> None:
        """Record the trials of a sweep.

        Args:
            sweep: the sweep.
            store: holds the study, and gets the records.
            say: prints one line of warning.
            sender: copies the records; None if they stay here.
            share_with: host of a W&B server that gets everything, even if the data are credentialed.
        """
        self.sweep, self.store, self.say, self.share_with, self.sender = sweep, store, say, share_with, sender
        self._git, self._current = git_state(), fingerprint(sweep)
        self._told: set[int] = set()
        self._warned = False

    def ended(self, result: SweepResult) -> int:
        """Write the records of the trials that have ended since the last call, queue them, and return their number.

        Raises:
            ConfigError: if a record is missing, and the study was made with other settings or other code.
        """
        new = [t for t in result.trials if t.has_ended and t.number not in self._told]
        for trial in new:
            self._told.add(trial.number)
            try:
                folder, record = self._record(trial, result)
            except OSError as error:  # the journal has the trial; the next run writes the record from it
                if not self._warned:
                    place = f"{self.store.root}: {error.strerror}"
                    self.say(f"warning: the record of trial {trial.number} cannot be written under {place}")
                self._warned = True
                continue
            if self.sender:
                self.sender.offer(_name(trial), folder, record)
        if self.sender:
            self.sender.pump()
        return len(new)

    def close(self) -> None:
        """Copy the trials that are left, and say which W&B lacks."""
        if self.sender:
            self.sender.close()

    def records(self, result: SweepResult) -> list[tuple[str, Path, dict[str, Any]]]:
        """Return name, folder and record of each trial that has ended. Nothing is written, and no server is allowed.

        Raises:
            ConfigError: as `ended` does.
        """
        found = ((t, *self._known(t, result)) for t in result.trials if t.has_ended)
        return [(_name(trial), folder, {"shared_with": []} | record) for trial, folder, record in found]

    def _record(self, trial: TrialRow, result: SweepResult) -> tuple[Path, dict[str, Any]]:
        """Return the folder and the record of a trial, which is written unless it is there."""
        folder, record = self._known(trial, result)
        there = read_record(folder)
        record = record | {"shared_with": allowed_servers(there, self.share_with)}
        if record != there:
            write_strict_json(folder / "record.json", record)
        return folder, record

    def _known(self, trial: TrialRow, result: SweepResult) -> tuple[Path, dict[str, Any]]:
        """Return the folder and the record of a trial, as it is there or made anew, with today's terms."""
        folder = trial_folder(self.store, result.name, trial.number)
        told = [result.fingerprint, trial.number, trial.state, trial.params, trial.values, trial.gate]
        key = hashlib.sha256(canonical_json(told).encode()).hexdigest()[:32]
        matrix = _matrix(self.sweep, trial)
        sharing = "open" if all(cell.sharing == "open" for cell in matrix.cells) else "credentialed"
        there = read_record(folder)
        record = there if there and there.get("key") == key else None
        if record is None:
            if result.fingerprint != self._current:
                raise ConfigError(
                    f"{self.sweep.source}: trial {trial.number} of '{result.name}' has no record, and the study was "
                    "made with other settings or another version of the code, so its settings are not known any more"
                )
            record = trial_record(trial, self.sweep, matrix) | {"key": key, "git": self._git}
        return folder, record | {"sharing": sharing}


def _name(trial: TrialRow) -> str:
    return f"trial {trial.number}"


def _matrix(sweep: Sweep, trial: TrialRow) -> Matrix:
    """Return the cells that measured a trial; those of the base if its settings exclude each other."""
    try:
        return sweep.matrix(trial.params)
    except ConfigError:
        return sweep.matrix({})


def trial_record(trial: TrialRow, sweep: Sweep, matrix: Matrix) -> dict[str, Any]:
    """Return everything that is known about a trial as JSON values, but for its key, git state and terms."""
    settings, metrics = sweep.settings, dict(trial.values)
    if settings.gate and trial.gate is not None:
        metrics.setdefault(settings.gate.metric, trial.gate)
    names = short_names(settings.search)
    record = {
        "schema": SCHEMA,
        "kind": "trial",
        "matrix": sweep.name,
        "cell": _name(trial),
        "trial": trial.number,
        "state": trial.state,
        "reason": trial.reason,
        "retried_as": trial.retried_as,
        "enqueued": trial.enqueued,
        "dataset": "+".join(dict.fromkeys(cell.dataset.label for cell in matrix.cells)),
        "method": settings.method,
        "params": trial.params,
        "columns": {names[key]: value for key, value in trial.params.items()},
        "config": flat_config(matrix.settings, matrix.cells[0]),
        "objectives": {o.metric: o.direction for o in settings.objectives},
        "metrics": metrics,
        "seconds": trial.seconds,
        "seeds": {"trials": settings.seeds, "sampler": settings.sampler.seed},
        "sampler": settings.sampler.name,
        "versions": versions(),
    }
    return finite(record)
