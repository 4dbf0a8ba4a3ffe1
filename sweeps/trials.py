"""Measure the trials of a study: compute the stages of each, and propose a new one as soon as one ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from bench.errors import ConfigError
from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage, walk
from bench.run.progress import span
from bench.store.store import Store
from sweeps.outcome import SweepResult, short_names, write_outcome
from sweeps.settings import VAL_METRICS, Sweep

if TYPE_CHECKING:
    from pathlib import Path

    import optuna


class Study(Protocol):
    """What proposes trials and takes their numbers; `sweeps.study.Driver` is one."""

    sweep: Sweep
    store: Store
    folder: Path

    def ask(self, total: int, places: int) -> optuna.Trial | None:
        """Return a trial to measure, or None."""

    def tell(self, trial: optuna.Trial, values: list[float]) -> None:
        """Take the objectives of a trial."""

    def tell_failed(self, trial: optuna.Trial, reason: str) -> None:
        """Take note that a trial has no objectives."""

    def outcome(self) -> SweepResult:
        """Return what the study has found so far."""


@dataclass
class _Measured:
    """A trial that is being measured."""

    trial: optuna.Trial
    matrix: Matrix
    targets: list[Stage]
    since: float


class Trials:
    """The trials of this process that are being measured."""

    def __init__(
        self, study: Study, total: int, places: int, say: Callable[[str], object], labels: dict[str, str]
    ) -> None:
        """Measure trials of `study`, at most `places` at once, until it has `total` of all drivers together."""
        self.study, self.total, self.places, self.say, self.labels = study, total, places, say, labels
        self.measured: list[_Measured] = []
        self.ended: set[str] = set()

    def on_outcome(self, stage: Stage) -> None:
        """Take note that a stage has ended."""
        self.ended.add(stage.key)

    def all_ended(self) -> None:
        """Take note that nothing is being computed any more."""
        self.ended |= {stage.key for one in self.measured for stage in one.targets}

    def more(self) -> list[Stage]:
        """Tell the study of the trials that have ended, begin new ones, and return the stages that measure these."""
        found: list[Stage] = []
        while True:
            for one in [one for one in self.measured if self._has_ended(one)]:
                self.measured.remove(one)
                self._settle(one)
            begun = False
            while (trial := self.study.ask(self.total, self.places)) is not None:
                begun = True
                found += self._begin(trial)
            if not begun:
                return [stage for stage in found if stage.key not in self.ended]

    def _begin(self, trial: optuna.Trial) -> list[Stage]:
        """Return the stages that measure a trial; none if its settings exclude each other, which ends it."""
        names = short_names(trial.params)
        told = ", ".join(f"{names[key]} {_shown(value)}" for key, value in trial.params.items())
        try:
            matrix = self.study.sweep.matrix(trial.params)
        except ConfigError as error:
            self._fail(trial, str(error))
            return []
        self.say(f"trial {trial.number} of {self.total}: {told}")
        targets = [getattr(cell, part) for cell in matrix.cells for part in sorted(self.study.sweep.needs)]
        for stage in walk(targets):
            self.labels.setdefault(stage.key, f"{stage.stage_name()} · trial {trial.number}")
        self.measured.append(_Measured(trial, matrix, targets, time.monotonic()))
        return targets

    def _has_ended(self, one: _Measured) -> bool:
        return all(stage.key in self.ended or self.study.store.has(stage) for stage in one.targets)

    def _settle(self, one: _Measured) -> None:
        """Tell the study the numbers of a trial, or why it has none; then write the results so far."""
        found = self.values(one.matrix)
        if isinstance(found, str):
            self._fail(one.trial, found)
            return
        self.study.tell(one.trial, found)
        result = self.study.outcome()
        write_outcome(result, self.study.sweep, self.study.folder)
        numbers = zip(self.study.sweep.settings.objectives, found, strict=True)
        told = ", ".join(f"{o.metric} {v:.4f}" for o, v in numbers)
        took = span(time.monotonic() - one.since)
        self.say(f"trial {one.trial.number}: {told} in {took}; {self._standing(result)}")

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        self.study.tell_failed(trial, reason)
        result = self.study.outcome()
        write_outcome(result, self.study.sweep, self.study.folder)
        self.say(f"trial {trial.number} failed: {reason}; {self._standing(result)}")

    def _standing(self, result: SweepResult) -> str:
        """Return how many trials have ended, and the best of them, in words."""
        ended = sum(t.state in ("done", "failed") for t in result.trials)
        if result.best is None:
            return f"{ended} of {self.total} ended"
        metric = next(iter(result.objectives))
        return f"{ended} of {self.total} ended, best: trial {result.best} with {metric} " + (
            f"{result.trial(result.best).values[metric]:.4f}"
        )

    def values(self, matrix: Matrix) -> list[float] | str:
        """Return the objectives, each a mean over the trial's cells, or why they cannot be computed."""
        store, sweep = self.study.store, self.study.sweep
        for stage in walk([getattr(cell, part) for cell in matrix.cells for part in sorted(sweep.needs)]):
            if failure := (None if store.has(stage) else store.failure(stage)):
                return str(failure["error"])
        for cell in matrix.cells:
            if not all(store.has(getattr(cell, part)) for part in sweep.needs):
                return f"{cell.name}: not finished"
            if reason := cell.augmented.skip_reason(store.folder(cell.augmented)):
                return f"{cell.name}: the method declines: {reason}"
        values = []
        for objective in sweep.settings.objectives:
            found = [v for cell in matrix.cells if (v := read_metric(cell, objective.metric, store)) is not None]
            if len(found) < len(matrix.cells):
                missing = len(matrix.cells) - len(found)
                return f"{objective.metric} has no value in {missing} of {len(matrix.cells)} cells"
            values.append(sum(found) / len(found))
        return values


def read_metric(cell: Cell, metric: str, store: Store) -> float | None:
    """Return a metric of `VAL_METRICS` of a finished cell, or None if it has no value there."""
    part: Stage = getattr(cell, VAL_METRICS[metric])
    opened = part.open(store.folder(part))
    record: dict[str, Any] = opened.record if VAL_METRICS[metric] == "classifier" else opened
    return record.get(metric)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
