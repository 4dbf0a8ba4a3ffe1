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
from sweeps.outcome import SweepResult, short_names
from sweeps.result_files import write_outcome
from sweeps.settings import VAL_METRICS, Gate, Sweep

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

    def tell_pruned(self, trial: optuna.Trial, measured: dict[str, float], reason: str) -> None:
        """Take note that a trial was given up before its classifier."""

    def at_the_gate(self, trial: optuna.Trial, value: float) -> list[float]:
        """Take the gate's metric of a trial, and return that of the other trials."""

    def outcome(self) -> SweepResult:
        """Return what the study has found so far."""


@dataclass
class _Measured:
    """A trial that is being measured: first, if the sweep has a gate, what is known before the classifier."""

    trial: optuna.Trial
    matrix: Matrix
    parts: list[str]
    since: float

    @property
    def targets(self) -> list[Stage]:
        """The stages that are being computed for it."""
        return [getattr(cell, part) for cell in self.matrix.cells for part in self.parts]


class Trials:
    """The trials of this process that are being measured."""

    def __init__(
        self,
        study: Study,
        total: int,
        places: int,
        say: Callable[[str], object],
        labels: dict[str, str],
        on_ended: Callable[[SweepResult], object],
    ) -> None:
        """Measure trials of `study`, at most `places` at once, until it has `total` of all drivers together.

        `on_ended` is called with what the study has found each time a trial ends.
        """
        self.study, self.total, self.places, self.say, self.labels = study, total, places, say, labels
        self.on_ended = on_ended
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
                found += self._settle(one)
            begun = False
            while (trial := self.study.ask(self.total, self.places)) is not None:
                begun = True
                found += self._begin(trial)
            if not begun and not any(self._has_ended(one) for one in self.measured):
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
        needs, gate = sorted(self.study.sweep.needs), self.study.sweep.settings.gate
        for stage in walk([getattr(cell, part) for cell in matrix.cells for part in needs]):
            self.labels.setdefault(stage.key, f"{stage.stage_name()} · trial {trial.number}")
        parts = [VAL_METRICS[gate.metric]] if gate and "classifier" in needs else needs
        one = _Measured(trial, matrix, parts, time.monotonic())
        self.measured.append(one)
        return one.targets

    def _has_ended(self, one: _Measured) -> bool:
        return all(stage.key in self.ended or self.study.store.has(stage) for stage in one.targets)

    def _settle(self, one: _Measured) -> list[Stage]:
        """Return what is left to compute for a trial that passed the gate; or tell the study how the trial ended."""
        settings, needs = self.study.sweep.settings, sorted(self.study.sweep.needs)
        if one.parts != needs and settings.gate:
            early = self.values(one.matrix, [settings.gate.metric])
            if not isinstance(early, str):
                others = self.study.at_the_gate(one.trial, early[0])
                if settings.gate.passes(early[0], others):
                    one.parts = needs
                    self.measured.append(one)
                    return one.targets
                self._prune(one, settings.gate, early[0])
                return []
        found = self.values(one.matrix, [o.metric for o in settings.objectives])
        if isinstance(found, str):
            self._fail(one.trial, found)
            return []
        self.study.tell(one.trial, found)
        numbers = zip(settings.objectives, found, strict=True)
        told = ", ".join(f"{o.metric} {v:.4f}" for o, v in numbers)
        self._say_how_it_ended(f"trial {one.trial.number}: {told} in {span(time.monotonic() - one.since)}")
        return []

    def _prune(self, one: _Measured, gate: Gate, value: float) -> None:
        reason = f"{gate.metric} {value:.4f} is not among the best {gate.keep:.0%} so far; its classifier was left out"
        known = [o.metric for o in self.study.sweep.settings.objectives if VAL_METRICS[o.metric] in one.parts]
        measured = {gate.metric: value}
        for metric in known:
            if not isinstance(found := self.values(one.matrix, [metric]), str):
                measured[metric] = found[0]
        self.study.tell_pruned(one.trial, measured, reason)
        self._say_how_it_ended(f"trial {one.trial.number} pruned: {reason}")

    def _fail(self, trial: optuna.Trial, reason: str) -> None:
        self.study.tell_failed(trial, reason)
        self._say_how_it_ended(f"trial {trial.number} failed: {reason}")

    def _say_how_it_ended(self, line: str) -> None:
        """Write the results so far, and say how a trial ended, how many have, and which is the best."""
        result = self.study.outcome()
        write_outcome(result, self.study.sweep, self.study.folder)
        self.on_ended(result)
        self.say(f"{line}; {result.standing(self.total)}")

    def values(self, matrix: Matrix, metrics: list[str]) -> list[float] | str:
        """Return some metrics, each a mean over the trial's cells, or why they cannot be computed."""
        store, parts = self.study.store, sorted({VAL_METRICS[metric] for metric in metrics})
        for stage in walk([getattr(cell, part) for cell in matrix.cells for part in parts]):
            if failure := (None if store.has(stage) else store.failure(stage)):
                return str(failure["error"])
        for cell in matrix.cells:
            if not all(store.has(getattr(cell, part)) for part in parts):
                return f"{cell.name}: not finished"
            if reason := cell.augmented.skip_reason(store.folder(cell.augmented)):
                return f"{cell.name}: the method declines: {reason}"
        values = []
        for metric in metrics:
            found = [v for cell in matrix.cells if (v := read_metric(cell, metric, store)) is not None]
            if len(found) < len(matrix.cells):
                missing = len(matrix.cells) - len(found)
                return f"{metric} has no value in {missing} of {len(matrix.cells)} cells"
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
