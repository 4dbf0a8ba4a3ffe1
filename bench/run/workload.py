"""The order of the stages, and the protocols of those who compute them and of those who report it."""

from __future__ import annotations

import functools
import logging
import math
import time
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, Protocol

from bench.pipeline.stage import Stage, walk
from bench.store.claims import described
from bench.store.store import Store
from bench.store.work import Execution

_LOG = logging.getLogger(__name__)
_MANY = 100  # With more stages, a run takes so long that its first results are wanted before all is trained.
_LOOK_S = 0.25  # between two looks at what other processes compute
BUSY_S = 0.5  # how long to try for a stage that looked free; then another process has it

Outcome = Literal["done", "reused", "failed", "blocked"]
_Rank = tuple[float, int, str]  # minus the minutes of the critical path, the place in the plan, the key


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
        waits_for: key → keys of the unfinished stages that this one needs directly; they leave it as they finish.
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
    _needed_by: defaultdict[str, list[str]] = field(default_factory=lambda: defaultdict(list), repr=False)
    _place: dict[str, int] = field(default_factory=dict, repr=False)  # in the order of `stages`

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
        for key, stage in new.items():
            self._place[key] = len(self.stages)
            self.stages[key] = stage
            below = {b.key for b in stage.inputs()} & self.stages.keys()
            self.waits_for[key] = {k for k in below if self.outcomes.get(k) != "done"}
            for k in self.waits_for[key]:
                self._needed_by[k].append(key)
        for found in ("minutes_behind", "_ready"):
            vars(self).pop(found, None)
        left = [s for key, s in self.stages.items() if key not in self.outcomes]
        self.reporter.planned(left, sum(s.key not in wanted and self.store.has(s) for s in everything))
        return [s for key, s in new.items() if self._block_if_lost(key)]

    def _block_if_lost(self, key: str) -> bool:
        """Record that a stage is blocked if a stage that it needs has failed or is blocked, and tell whether it is."""
        lost = next((b for b in self.waits_for[key] if self.outcomes.get(b) in ("failed", "blocked")), None)
        if lost is not None:
            self._set_outcome(key, "blocked")
            self.reporter.finished(self.stages[key], "blocked", _needs(self.stages[lost]))
        return lost is not None

    def ready(self) -> Iterator[Stage]:
        """Yield the stages whose inputs are finished, those with the longest critical path first.

        With many stages, those that no other stage needs come even before them. Else the scores of all cells would be
        computed last. With few, such short stages fill the gaps at the end, where not all jobs have a long one.

        No outcome may be recorded meanwhile.
        """
        return (self.stages[key] for _, _, key in self._ready)

    @functools.cached_property
    def _ready(self) -> list[_Rank]:
        """The ready stages in their order. It is kept from one start to the next, since there may be thousands."""
        return sorted(self._rank(k) for k, below in self.waits_for.items() if not below and k not in self.outcomes)

    def _rank(self, key: str) -> _Rank:
        ends_a_cell = len(self.stages) > _MANY and not self._needed_by.get(key)
        return -math.inf if ends_a_cell else -self.minutes_behind[key], self._place[key], key

    def free(self, ours: Collection[str] = (), at_most: int | None = None) -> list[Stage]:
        """Return ready stages that no process computes, after recording those that other processes have finished.

        Any number of commands may run one matrix. Each takes what is free, instead of waiting for what another does.

        Args:
            ours: keys of the stages that this command computes now; they are left out.
            at_most: how many to return, None for all. The store is not asked about the stages that come after them.
        """
        while True:
            found: list[Stage] = []
            done: list[Stage] = []
            for stage in self.ready():
                if at_most is not None and len(found) >= at_most:
                    break
                if stage.key in ours:
                    continue
                if self.store.has(stage):
                    done.append(stage)
                elif not self.store.holder(stage):
                    found.append(stage)
            if not done:
                return found
            for stage in done:
                self.record_outcome(stage, "done")

    def wait_for_others(self) -> None:
        """Wait a moment, because other processes compute all that could begin now. The first time, say so."""
        # Asked once: there may be thousands of ready stages, and this is called four times a second.
        holders = [] if self._said_waiting else [(s, h) for s in self.ready() if (h := self.store.holder(s))]
        if holders:
            self._said_waiting = True
            (stage, holder), n = holders[0], len(holders)
            named = f"stage {stage.stage_name()} {stage.key[:8]}" + (f" and {n - 1} more" if n > 1 else "")
            _LOG.warning("waiting: %s is being computed by %s", named, described(holder))
        time.sleep(_LOOK_S)

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
        self._set_outcome(stage.key, outcome)
        blocked = self._blocked_by(stage) if outcome == "failed" else []
        for above in blocked:
            self._set_outcome(above.key, "blocked")
            self.reporter.finished(above, "blocked", _needs(stage))
        self.reporter.finished(stage, outcome, detail)
        for ended in [stage, *blocked]:
            self.on_outcome(ended)

    def _set_outcome(self, key: str, outcome: Outcome) -> None:
        """Set an outcome, and bring `waits_for` and the ready stages up to date."""
        ready = self._ready  # before anything changes: it is made when it is first asked for
        self.outcomes[key] = outcome
        place = bisect_left(ready, self._rank(key))
        if ready[place : place + 1] == [self._rank(key)]:
            del ready[place]
        for above in self._needed_by[key] if outcome == "done" else ():
            below = self.waits_for[above]
            if key in below:
                below.remove(key)
                if not below and above not in self.outcomes:
                    insort(ready, self._rank(above))

    def _blocked_by(self, stage: Stage) -> list[Stage]:
        """Return the stages without an outcome that need `stage`, directly or indirectly, in the order of `stages`."""
        gone: set[str] = set()
        todo = [stage.key]
        while todo:
            new = [key for key in self._needed_by[todo.pop()] if key not in gone]
            gone.update(new)
            todo += new
        return [self.stages[k] for k in sorted(gone, key=self._place.__getitem__) if k not in self.outcomes]

    @property
    def finished(self) -> bool:
        """Tell whether every stage has an outcome."""
        return len(self.outcomes) == len(self.stages)


def _needs(stage: Stage) -> str:
    return f"needs {stage.stage_name()} {stage.key[:8]}"
