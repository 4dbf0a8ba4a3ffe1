"""What a person is told while a matrix runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bench.run import progress
from bench.run.progress import Live, Silent, reporter_for, stage_labels
from tests.reliability.toys import Slow, Toy


class Clock:
    """Time that moves only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


def live(terminal: bool = False, jobs: int = 1) -> tuple[Live, io.StringIO]:
    text = io.StringIO()
    console = Console(file=text, width=160, force_terminal=terminal)
    return Live(console, {}, jobs), text


def test_labels_name_the_cell_or_how_many_share_a_stage() -> None:
    shared, own = Toy(value=1), Slow(value=2)
    labels = stage_labels(
        {"a/b/s0": [Toy(value=3, inputs_=(shared, own))], "a/c/s0": [Toy(value=4, inputs_=(shared,))]}
    )
    assert labels[shared.key] == "toy · shared by 2 cells"
    assert labels[own.key] == "slow · a/b/s0"
    assert len(labels) == 4


def test_lines_count_time_and_guess_what_is_left(clock: Clock) -> None:
    reporter, text = live()
    stages = [Toy(value=v) for v in range(4)]
    with reporter.live():
        reporter.planned([*stages, Slow()], reused=3)
        for stage, seconds in zip(stages[:2], (4, 6), strict=True):
            reporter.started(stage)
            clock.now += seconds
            reporter.finished(stage, "done")
        reporter.started(Slow())
        clock.now += 10
        reporter.polled(Slow(), 1, 5, "step")
        reporter.started(stages[2])
        clock.now += 1
        reporter.finished(stages[3], "blocked", "needs toy")
        reporter.finished(stages[2], "failed", "ValueError: [no] good")
    lines = text.getvalue().splitlines()
    assert lines[0] == "5 stages to compute, 3 finished ones reused, 1 at once"
    assert lines[1].startswith("[1/5] toy ")
    assert "in 4 s; ETA after the first slow" in lines[1]  # a sum of toys alone would promise too much
    assert "in 6 s; ETA after the first slow" in lines[2]
    assert lines[3].startswith("[4/5]")
    assert lines[3].endswith(": failed: ValueError: [no] good (blocks 1 stage)")
    assert len(lines) == 4  # what is blocked has no line of its own


def test_the_guess_uses_the_share_of_a_running_stage_and_the_number_of_jobs(clock: Clock) -> None:
    reporter, text = live(jobs=2)
    first, second = Toy(value=1), Slow(value=2)
    reporter.planned([first, second], reused=0)
    reporter.started(first)
    reporter.started(second)
    clock.now += 20
    reporter.polled(second, 1, 3, "step")
    reporter.finished(first, "done")
    assert "about 20 s left" in text.getvalue()  # 40 s of work on two jobs


def test_what_earlier_runs_measured_is_used_until_this_run_knows_better(clock: Clock) -> None:
    text = io.StringIO()
    reporter = Live(Console(file=text, width=200), {}, 1, lambda stage: 30.0 if isinstance(stage, Slow) else 5.0)
    stages = [Toy(value=v) for v in range(3)]
    with reporter.live():
        reporter.planned([*stages, Slow()], reused=0)
        reporter.started(stages[0])
        clock.now += 2
        reporter.finished(stages[0], "done")
    assert "about 34 s left" in text.getvalue()  # two more toys of 2 s, and the slow one's 30 s


def test_nothing_to_do_is_said() -> None:
    reporter, text = live()
    reporter.planned([], reused=9)
    assert text.getvalue() == "nothing to compute, 9 finished ones reused\n"


def test_a_second_attempt_takes_the_place_of_the_first(clock: Clock) -> None:
    reporter, _ = live(terminal=True)
    with reporter.live():
        reporter.planned([Toy()], reused=0)
        reporter.started(Toy())
        reporter.polled(Toy(), 9, 10, "step")
        reporter.started(Toy())
        assert len(reporter.bars.tasks) == 2  # the whole and one attempt
        assert reporter.time_left.share == {}


@pytest.mark.parametrize(("done", "total"), [(0, 10), (3, 10), (10, 10), (12, 10), (0, 0), (1, 0)])
def test_bars_on_a_terminal_bear_odd_reports_and_brackets(clock: Clock, done: float, total: float) -> None:
    reporter, text = live(terminal=True)
    with reporter.live():
        reporter.planned([Toy()], reused=0)
        reporter.polled(Toy(), 1, 2, "too early")
        reporter.started(Toy())
        clock.now += 5
        reporter.polled(Toy(), done, total, "epoch [/1]")
        reporter.bars.refresh()
        reporter.finished(Toy(), "done")
    assert "[1/1] toy" in text.getvalue()
    assert "-" not in text.getvalue().partition("left")[0].rpartition(",")[2]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.04, "0.0 s"), (41.4, "41 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_spans_are_written_for_people(seconds: float, text: str) -> None:
    assert progress.span(seconds) == text


def test_quiet_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    reporter = reporter_for(Console(stderr=True), {}, 1, quiet=True)
    assert isinstance(reporter, Silent)
    with reporter.live():
        reporter.planned([Toy()], 0)
        reporter.started(Toy())
        reporter.polled(Toy(), 1, 2, "x")
        reporter.finished(Toy(), "failed", "x")
    assert capsys.readouterr() == ("", "")


def test_a_long_stage_is_told_in_lines_where_there_is_no_terminal(clock: Clock) -> None:
    """Two parts, each with its own rate; a resumed one is measured from where it went on."""
    text = io.StringIO()
    reporter = Live(Console(file=text, width=20), {Toy().key: "training"}, 1, line_every=10)
    reporter.planned([Toy()], 0)
    reporter.started(Toy())
    clock.now += 100  # imports
    reporter.polled(Toy(), 50, 100, "part one")  # 50 were done before
    for done, note in ((60, "part one"), (70, "part one"), (0, "part two"), (10, "part two")):
        clock.now += 5
        reporter.polled(Toy(), done, 100, note)
    assert text.getvalue().splitlines()[1:] == [
        "training: 50% of part one, 1 min 40 s left",  # all that is known is when it began
        "training: 70% of part one, 15 s left",  # 20 in 10 s
        "training: 10% of part two, 45 s left",  # 10 in 5 s
    ]
    quiet, said = live()
    quiet.planned([Toy()], 0)
    quiet.started(Toy())
    clock.now += 100
    quiet.polled(Toy(), 1, 2, "x")
    assert len(said.getvalue().splitlines()) == 1  # a matrix has a line for each stage that ends


def test_what_was_computed_elsewhere_between_two_looks_has_no_time() -> None:
    reporter, text = live()
    reporter.planned([Toy(value=1)], reused=0)
    reporter.finished(Toy(value=1), "done")
    assert text.getvalue().splitlines()[1].endswith(" done")


def test_a_failure_tells_how_many_stages_it_blocks_in_its_own_line(clock: Clock) -> None:
    reporter, text = live()
    stages = [Toy(value=v) for v in range(5)]
    reporter.planned(stages, reused=0)
    for stage in stages[1:3]:
        reporter.finished(stage, "blocked", "needs toy")
    reporter.finished(stages[0], "failed", "OSError: no disk")
    reporter.finished(stages[3], "failed", "OSError: no disk")
    reporter.finished(stages[4], "done")
    lines = text.getvalue().splitlines()[1:]
    assert len(lines) == 3
    assert lines[0].startswith("[3/5]")
    assert lines[0].endswith("OSError: no disk (blocks 2 stages)")
    assert lines[1].endswith("OSError: no disk")


def test_brackets_in_the_names_of_rows_and_data_sets_are_no_markup() -> None:
    reporter, text = live(terminal=True)
    reporter.labels = {Toy(value=1).key: "toy · set[/a[new]/s0"}
    with reporter.live():
        reporter.planned([Toy(value=1)], reused=0)
        reporter.started(Toy(value=1))
        reporter.bars.refresh()
    assert "toy · set[/a[new]/s0" in text.getvalue()
