"""The order of the stages, and the protocols of those who compute them and of those who report it."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bench.pipeline.stage import Stage, walk
from bench.store.claims import described
from bench.store.store import Store
from bench.store.work import Execution

_LOG = logging.getLogger(__name__)
_LOOK_S = 0.25  # between two looks at what other processes compute
BUSY_S = 0.5  # how long to try for a stage that looked free; then another process has it

Outcome = Literal["done", "reused", "failed", "blocked"]


class Reporter(Protocol):
    """Is called with everything that happens to a stage; see `bench.run.progress`."""

    def planned(self, pending: list[Stage], reused: int) -> None:
        """Take note of the stages left to compute, and of how many are finished already."""

    def started(self, stage: Stage) -> None:
        """Take note that the computation of a stage began."""

    def polled(self, stage: Stage, done: float, total: float, note: str) -> None:
        """Take note that a running stage has done `done` of `total` units."""

    def finished(self, stage: Stage, outcome: Outcome, detail: str = "") -> None:
        """Take note of how a stage ended."""


class Executor(Protocol):
    """Computes pending stages, inputs first. A failed stage blocks only the stages that need it."""

    def run(self, work: Workload) -> None:
        """Bring every stage of the workload to an outcome."""


@dataclass
class Workload:
    """The unfinished stages of some targets, and the outcome of each. Targets may be added while it is computed.

    Attributes:
        stages: key → stage, inputs before the stages that need them.
        waits_for: key → keys of the unfinished stages that this one needs directly.
        outcomes: key → how the stage ended; a stage without an entry has not ended.
        on_outcome: is called after each outcome.
    """

    store: Store
    execution: Execution
    reporter: Reporter
    stages: dict[str, Stage] = field(default_factory=dict)
    waits_for: dict[str, set[str]] = field(default_factory=dict)
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    on_outcome: Callable[[Stage], None] = lambda stage: None
    _said_waiting: bool = field(default=False, repr=False)

    @classmethod
    def plan(cls, targets: Iterable[Stage], store: Store, execution: Execution, reporter: Reporter) -> Workload:
        """Return the stages that are left to compute for `targets`, each once."""
        work = cls(store, execution, reporter)
        work.add(targets)
        return work

    def add(self, targets: Iterable[Stage]) -> list[Stage]:
        """Plan the stages that are left to compute for further targets; executors take them up at once.

        A stage that has an outcome keeps it. Return the new stages that can never be computed, since a stage that they
        need has failed already.
        """
        targets = list(targets)
        everything = walk(targets)
        wanted: dict[str, Stage] = {}

        # The walk stops at finished stages. An input that only finished stages need may have been removed to save
        # space, and computing it again would help nobody.
        def want(stage: Stage) -> None:
            if stage.key not in wanted and stage.key not in self.stages and not self.store.has(stage):
                wanted[stage.key] = stage
                for below in stage.inputs():
                    want(below)

        for stage in targets:
            want(stage)
        new = {s.key: s for s in everything if s.key in wanted}
        self.stages |= new
        self.waits_for |= {key: {b.key for b in stage.inputs()} & self.stages.keys() for key, stage in new.items()}
        vars(self).pop("minutes_behind", None)
        left = [s for key, s in self.stages.items() if key not in self.outcomes]
        self.reporter.planned(left, sum(self.store.has(s) for s in everything))
        return [s for key, s in new.items() if self._block_if_lost(key)]

    def _block_if_lost(self, key: str) -> bool:
        """Record that a stage is blocked if a stage that it needs has failed or is blocked, and tell whether it is."""
        lost = next((b for b in self.waits_for[key] if self.outcomes.get(b) in ("failed", "blocked")), None)
        if lost is not None:
            self.outcomes[key] = "blocked"
            self.reporter.finished(self.stages[key], "blocked", _needs(self.stages[lost]))
        return lost is not None

    def ready(self) -> list[Stage]:
        """Return the stages whose inputs are finished, those with the longest critical path first."""
        free = [s for k, s in self.stages.items() if k not in self.outcomes and self._settled(k)]
        return sorted(free, key=lambda s: -self.minutes_behind[s.key])

    def free(self, ours: Collection[str] = ()) -> list[Stage]:
        """Return the ready stages that no process computes, after recording those that other processes have finished.

        Any number of commands may run one matrix. Each takes what is free, instead of waiting for what another does.

        Args:
            ours: keys of the stages that this command computes now; they are left out.
        """
        while done := [s for s in self.ready() if s.key not in ours and self.store.has(s)]:
            for stage in done:
                self.record_outcome(stage, "done")
        return [s for s in self.ready() if s.key not in ours and not self.store.holder(s)]

    def wait_for_others(self) -> None:
        """Wait a moment, because other processes compute all that could begin now. The first time, say so."""
        holders = [(s, h) for s in self.ready() if (h := self.store.holder(s))]
        if holders and not self._said_waiting:
            self._said_waiting = True
            (stage, holder), n = holders[0], len(holders)
            named = f"stage {stage.stage_name()} {stage.key[:8]}" + (f" and {n - 1} more" if n > 1 else "")
            _LOG.warning("waiting: %s is being computed by %s", named, described(holder))
        time.sleep(_LOOK_S)

    def _settled(self, key: str) -> bool:
        return all(self.outcomes.get(k) == "done" for k in self.waits_for[key])

    @functools.cached_property
    def minutes_behind(self) -> dict[str, float]:
        """Key → minutes of the critical path that begins with the stage, by `Resources.minutes`."""
        # Inputs come before the stages that need them, so each stage is settled before it is added to its inputs.
        behind = {key: float(stage.resources.minutes) for key, stage in self.stages.items()}
        longest_above = dict.fromkeys(behind, 0.0)
        for key in reversed(list(self.stages)):
            behind[key] += longest_above[key]
            for below in self.waits_for[key]:
                longest_above[below] = max(longest_above[below], behind[key])
        return behind

    def record_outcome(self, stage: Stage, outcome: Outcome, detail: str = "") -> None:
        """Record an outcome. A failure blocks all stages that need this one; those are reported first."""
        self.outcomes[stage.key] = outcome
        blocked = self._blocked_by(stage) if outcome == "failed" else []
        for above in blocked:
            self.outcomes[above.key] = "blocked"
            self.reporter.finished(above, "blocked", _needs(stage))
        self.reporter.finished(stage, outcome, detail)
        for ended in [stage, *blocked]:
            self.on_outcome(ended)

    def _blocked_by(self, stage: Stage) -> list[Stage]:
        """Return the stages without an outcome that need `stage`, directly or indirectly."""
        gone = {stage.key}
        for key, below in self.waits_for.items():  # inputs come before the stages that need them
            if below & gone:
                gone.add(key)
        return [self.stages[k] for k in self.waits_for if k in gone and k not in self.outcomes]

    @property
    def finished(self) -> bool:
        """Tell whether every stage has an outcome."""
        return len(self.outcomes) == len(self.stages)


def _needs(stage: Stage) -> str:
    return f"needs {stage.stage_name()} {stage.key[:8]}"
