"""What a person sees while a matrix runs: bars with an ETA on a terminal, plain lines elsewhere. Always on stderr."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from bench.pipeline.stage import Stage, walk
from bench.run.time_left import Expected, TimeLeft
from bench.run.workload import Outcome


def stage_labels(cells: dict[str, list[Stage]]) -> dict[str, str]:
    """Return what to call each stage: `classifier · phantom/smote/s0`, or `latents · shared by 14 cells`."""
    users: dict[str, list[str]] = defaultdict(list)
    names: dict[str, str] = {}
    for cell, targets in cells.items():
        for stage in walk(targets):
            users[stage.key].append(cell)
            names[stage.key] = stage.stage_name()
    return {
        key: f"{names[key]} · {found[0] if len(found) == 1 else f'shared by {len(found)} cells'}"
        for key, found in users.items()
    }


class Silent:
    """Says nothing (`--quiet`, tests)."""

    @contextmanager
    def live(self) -> Iterator[Silent]:
        """Show nothing for the length of a block."""
        yield self

    def planned(self, pending: list[Stage], reused: int) -> None:
        """Say nothing."""

    def started(self, stage: Stage) -> None:
        """Say nothing."""

    def polled(self, stage: Stage, done: float, total: float, note: str) -> None:
        """Say nothing."""

    def finished(self, stage: Stage, outcome: Outcome, detail: str = "") -> None:
        """Say nothing."""


def _unknown(stage: Stage) -> None:
    """Say that nothing is known of a stage."""


class Live:
    """One bar for the whole, one for each running stage; a line for each that ends."""

    def __init__(
        self,
        console: Console,
        labels: dict[str, str],
        jobs: int,
        expected: Expected = _unknown,
        line_every: float | None = None,
    ) -> None:
        """Write to a console.

        Args:
            console: where.
            labels: key → what to call the stage.
            jobs: computations at once.
            expected: the seconds that earlier runs say a stage takes, or None.
            line_every: seconds between two lines on a running stage where there is no terminal; None: no such lines.
        """
        self.console, self.labels, self.jobs = console, labels, jobs
        self.time_left, self.line_every = TimeLeft(expected), line_every
        self.part: dict[str, tuple[str, float, float]] = {}  # key → note, and when it came and with how much done
        self.last_line: dict[str, float] = {}
        self.bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeElapsedColumn(),
            TextColumn("{task.fields[eta]}"),
            console=console,
            transient=True,
        )
        self.tasks: dict[str, TaskID] = {}
        self.begun = self.time_left.begun
        self.whole: TaskID | None = None
        self.n_planned = 0
        self.n_blocked = 0  # by the failure that is told next

    @contextmanager
    def live(self) -> Iterator[Live]:
        """Show the bars for the length of a block (on a terminal; plain lines otherwise)."""
        if self.console.is_terminal:
            with self.bars:
                yield self
        else:
            yield self

    def planned(self, pending: list[Stage], reused: int) -> None:
        """Say what is reused and what is left."""
        if self.whole is not None:  # a sweep plans again for every batch of trials
            self.bars.remove_task(self.whole)
        self.time_left.planned(pending)
        self.n_planned = len(pending)
        what = f"{len(pending)} stages to compute" if pending else "nothing to compute"
        beside = f", {self.jobs} at once" if pending else ""
        self._print(f"{what}, {reused} finished ones reused{beside}")
        self.whole = self.bars.add_task("all stages", total=max(len(pending), 1), eta="")

    def started(self, stage: Stage) -> None:
        """Add a bar (in place of the one of an attempt that was killed)."""
        if (task := self.tasks.pop(stage.key, None)) is not None:
            self.bars.remove_task(task)
        self.part.pop(stage.key, None)
        self.time_left.started(stage, time.monotonic())
        self.tasks[stage.key] = self.bars.add_task("  " + escape(self._label(stage)), total=None, eta="")

    def polled(self, stage: Stage, done: float, total: float, note: str) -> None:
        """Move a bar."""
        task = self.tasks.get(stage.key)
        if task is None or total <= 0:
            return
        done = min(done, total)
        self.time_left.share[stage.key] = done / total
        eta = (
            f"{note}, {span(left)} left" if (left := self._left_of_part(stage, done, total, note)) is not None else note
        )
        self.bars.update(task, total=total, completed=done, eta=escape(eta))
        self._whole()
        self._tell(stage, f"{done / total:.0%} of {eta}")

    def _tell(self, stage: Stage, how_far: str) -> None:
        """Print how far a stage is, where there is no terminal to show a bar, once every `line_every` seconds."""
        now = time.monotonic()
        if self.line_every is None or self.console.is_terminal:
            return
        if now - self.last_line.get(stage.key, self.begun[stage.key]) >= self.line_every:
            self.last_line[stage.key] = now
            self._print(f"{self._label(stage)}: {how_far}")

    def _left_of_part(self, stage: Stage, done: float, total: float, note: str) -> float | None:
        """Return the seconds to the end of what the note names, at the rate since it was first named."""
        now, begun = time.monotonic(), self.begun[stage.key]
        known = self.part.get(stage.key)
        if known is None or known[0] != note or done < known[2]:
            self.part[stage.key] = (note, now, done)
            known = (note, begun, 0.0) if known is None else (note, now, done)
        _, since, before = known
        return (now - since) * (total - done) / (done - before) if done > before else None

    def finished(self, stage: Stage, outcome: Outcome, detail: str = "") -> None:
        """Take the bar away and say how the stage ended; of what a failure blocks, its own line tells."""
        took = time.monotonic() - self.begun[stage.key] if stage.key in self.begun else None  # elsewhere, unwatched
        self.time_left.finished(stage, took if outcome == "done" else None)
        if (task := self.tasks.pop(stage.key, None)) is not None:
            self.bars.remove_task(task)
        if outcome == "blocked":  # a dead data set blocks a hundred stages: the failure's line says how many
            self.n_blocked += 1
            return
        count = f"[{self.n_planned - len(self.time_left)}/{self.n_planned}]"
        took_it = f" in {span(took)}" if took is not None else " done"
        tail = took_it if outcome == "done" else f": {outcome}: {' '.join(detail.split())}"
        if outcome == "failed" and self.n_blocked:
            tail += f" (blocks {self.n_blocked} {'stages' if self.n_blocked > 1 else 'stage'})"
            self.n_blocked = 0
        eta = f"; {left}" if outcome == "done" and (left := self._eta()) else ""
        style = {"failed": "red"}.get(outcome)
        self._print(f"{count} {self._label(stage)}{tail}{eta}", style)
        self._whole()

    def _print(self, line: str, style: str | None = None) -> None:
        """Print a line as one line: in a log it must not be cut at 80 columns."""
        self.console.print(line, style=style, markup=False, highlight=False, soft_wrap=not self.console.is_terminal)

    def _label(self, stage: Stage) -> str:
        return self.labels.get(stage.key, f"{stage.stage_name()} {stage.key[:8]}")

    def _whole(self) -> None:
        if self.whole is not None:
            self.bars.update(self.whole, completed=self.n_planned - len(self.time_left), eta=self._eta())

    def _eta(self) -> str:
        """Return what is left in words.

        Where nothing is known of a kind of stage, the time is not known either. A sum without that kind would name
        twenty seconds before seven trainings of two minutes each begin.
        """
        left = self.time_left.ask(time.monotonic())
        if isinstance(left, str):
            return f"ETA after the first {left}"
        return f"about {span(left / self.jobs)} left" if left else ""


def span(seconds: float) -> str:
    """Return a length of time as `41 s`, `3 min 20 s` or `2 h 5 min`."""
    s = round(seconds)
    if s < 60:
        return f"{s} s" if s else f"{seconds:.1f} s"
    return f"{s // 60} min {s % 60} s" if s < 3600 else f"{s // 3600} h {s % 3600 // 60} min"


def reporter_for(
    console: Console,
    labels: dict[str, str],
    jobs: int,
    quiet: bool = False,
    expected: Expected | None = None,
    line_every: float | None = None,
) -> Silent | Live:
    """Return a reporter: `Silent` when quiet, else `Live`."""
    return Silent() if quiet else Live(console, labels, jobs, expected or _unknown, line_every)
