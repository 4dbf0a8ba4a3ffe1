"""What is left of a run, against a sum over all stages."""

from __future__ import annotations

import random

import pytest

from bench.pipeline.stage import Stage
from bench.run.time_left import TimeLeft
from tests.reliability.toys import Slow, Toy


class Plain:
    """The same in plain words: every question goes through all stages that are left, in the order of the plan."""

    def __init__(self, expected: dict[str, float | None]) -> None:
        self.expected = expected
        self.left: dict[str, Stage] = {}
        self.took: dict[str, list[float]] = {}
        self.share: dict[str, float] = {}
        self.begun: dict[str, float] = {}

    def ask(self, now: float) -> float | str:
        seconds = 0.0
        for key, stage in self.left.items():
            if (share := self.share.get(key, 0.0)) > 0:
                guess: float | None = (now - self.begun.get(key, 0.0)) * (1 - share) / share
            elif seen := self.took.get(stage.measured_as()):
                guess = sum(seen) / len(seen)
            else:
                guess = self.expected[key]
            if guess is None:
                return stage.measured_as()
            seconds += guess
        return seconds


@pytest.mark.parametrize("seed", range(40))
def test_it_is_the_sum_over_all_stages_whatever_happens_to_them(seed: int) -> None:
    rng = random.Random(seed)
    stages: list[Stage] = [kind(value=v) for v in range(rng.choice([3, 12])) for kind in (Toy, Slow)]
    rng.shuffle(stages)
    unknown = rng.choice([0.0, 0.2, 1.0])
    expected = {s.key: None if rng.random() < unknown else float(rng.randint(1, 90)) for s in stages}
    plain, ours, now = Plain(expected), TimeLeft(lambda stage: expected[stage.key]), 100.0
    plain.left = {s.key: s for s in stages[:-2]}
    ours.planned(stages[:-2])
    asked: list[float | str] = []
    for step in range(60):
        now += rng.random() * 9
        stage, what = rng.choice(stages), rng.choice(["start", "report", "report", "end", "end elsewhere", "fail"])
        if what == "start":
            plain.share.pop(stage.key, None)
            plain.begun[stage.key] = now
            ours.started(stage, now)
        elif what == "report":
            plain.share[stage.key] = ours.share[stage.key] = rng.choice([0.0, 0.25, 1.0])
        elif rng.random() < 0.4:
            took = rng.random() * 50 if what == "end" else None
            plain.left.pop(stage.key, None)
            plain.share.pop(stage.key, None)
            if took is not None:
                plain.took.setdefault(stage.measured_as(), []).append(took)
            ours.finished(stage, took)
        if step == 30:  # a sweep plans again
            plain.left |= {s.key: s for s in stages[-2:]}
            ours.planned(list(plain.left.values()))
        asked.append(plain.ask(now))
        assert ours.ask(now) == (asked[-1] if isinstance(asked[-1], str) else pytest.approx(asked[-1]))
        assert len(ours) == len(plain.left)
    assert len(set(asked)) > 3 or unknown == 1.0


def test_a_question_does_not_go_through_all_stages() -> None:
    n, asked = 400, 0

    def expected(stage: Stage) -> float:
        nonlocal asked
        asked += 1
        return 2.0

    stages = [Slow(value=v) for v in range(n)]
    left = TimeLeft(expected)
    left.planned(stages)
    for i, stage in enumerate(stages):
        assert left.ask(0.0) == pytest.approx(2.0 * (n - i))
        left.finished(stage, None)
    assert left.ask(0.0) == 0
    assert asked == n
