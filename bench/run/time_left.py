"""How long the stages that are left will take, kept up to date so that asking costs little however many there are."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import islice

from bench.pipeline.stage import Stage

Expected = Callable[[Stage], float | None]


@dataclass
class _Kind:
    """The stages of one kind that are left, and what is known of their time.

    Attributes:
        left: key → stage.
        took, n_took: seconds of those that this run has computed, in all, and their number.
        known: key → seconds that earlier runs say, of those left; None until it is needed.
        known_s: the sum of `known`.
        unknown: keys of those left of which earlier runs say nothing, in the order of the plan.
    """

    left: dict[str, Stage] = field(default_factory=dict)
    took: float = 0.0
    n_took: int = 0
    known: dict[str, float] | None = None
    known_s: float = 0.0
    unknown: dict[str, None] = field(default_factory=dict)

    def ask(self, expected: Expected) -> dict[str, float]:
        """Return `known`, after asking `expected` of every stage that is left if nobody has asked before."""
        if self.known is None:
            asked = {key: expected(stage) for key, stage in self.left.items()}
            self.known = {key: seconds for key, seconds in asked.items() if seconds is not None}
            self.known_s = sum(self.known.values())
            self.unknown = dict.fromkeys(key for key, seconds in asked.items() if seconds is None)
        return self.known

    def drop(self, key: str) -> None:
        """Take a stage away."""
        self.left.pop(key, None)
        self.unknown.pop(key, None)
        if self.known is not None:
            self.known_s -= self.known.pop(key, 0.0)


class TimeLeft:
    """The seconds of computation that are left of a run.

    A question takes time for each kind of stage and for each running stage. A sum over all stages at each report of
    each of them would take longer than the stages themselves, if there are ten thousand.
    """

    def __init__(self, expected: Expected) -> None:
        """Begin without stages; `expected` returns the seconds that earlier runs say a stage takes, or None."""
        self.expected = expected
        self.share: dict[str, float] = {}  # key → how much of a running stage is done, 0 to 1
        self.begun: dict[str, float] = {}
        self._kinds: defaultdict[str, _Kind] = defaultdict(_Kind)
        self._kind_of: dict[str, str] = {}  # of those left
        self._place: dict[str, int] = {}

    def __len__(self) -> int:
        """Return how many stages are left."""
        return len(self._kind_of)

    def planned(self, pending: Iterable[Stage]) -> None:
        """Replace the stages that are left; what was measured stays."""
        for kind in self._kinds.values():
            kind.left, kind.known, kind.unknown = {}, None, {}
        stages = {stage.key: stage for stage in pending}
        self._place = {key: i for i, key in enumerate(stages)}
        self._kind_of = {key: stage.measured_as() for key, stage in stages.items()}
        for key, stage in stages.items():
            self._kinds[self._kind_of[key]].left[key] = stage

    def started(self, stage: Stage, now: float) -> None:
        """Take note that a stage begins, perhaps once more."""
        self.share.pop(stage.key, None)
        self.begun[stage.key] = now

    def finished(self, stage: Stage, took: float | None) -> None:
        """Take a stage away that has ended; `took` are its seconds, if they tell how long others will take."""
        self.share.pop(stage.key, None)
        if (name := self._kind_of.pop(stage.key, None)) is not None:
            self._kinds[name].drop(stage.key)
        if took is not None:
            kind = self._kinds[stage.measured_as()]
            kind.took += took
            kind.n_took += 1

    def ask(self, now: float) -> float | str:
        """Return the seconds that are left, or the kind of the first stage of which nothing is known.

        They are known from the share of a running stage, from like stages of this run, or from earlier runs.
        """
        seconds, moving = 0.0, defaultdict(list)
        for key, share in self.share.items():
            if share > 0 and key in self._kind_of:
                moving[self._kind_of[key]].append(key)
                seconds += (now - self.begun.get(key, 0.0)) * (1 - share) / share
        unknown: list[str] = []
        for name, kind in self._kinds.items():
            waiting = len(kind.left) - len(moving[name])
            if not waiting:
                continue
            if kind.n_took:
                seconds += waiting * kind.took / kind.n_took
                continue
            known = kind.ask(self.expected)
            seconds += kind.known_s - sum(known.get(key, 0.0) for key in moving[name])
            unknown += islice((key for key in kind.unknown if key not in moving[name]), 1)
        return self._kind_of[min(unknown, key=self._place.__getitem__)] if unknown else seconds
