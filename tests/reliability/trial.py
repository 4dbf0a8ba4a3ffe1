"""One store: disturbed by a scenario, then finished and judged."""

from __future__ import annotations

import random
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability import moments
from tests.reliability.helpers import ROOT, group_is_gone
from tests.reliability.judge import COMMAND, LIMIT_S, Reference, Verdict, finished, in_flight
from tests.reliability.warm import Run, Spy, start

Say = Callable[[str], None]
_GO_ON = "stopped; finished stages and checkpoints are kept. Go on with: bench run"


@dataclass
class Trial:
    """A store in a folder of its own; everything that happens to it is decided by `rng`.

    Attributes:
        strikes: the kind of moment of every kill that hit a living run.
    """

    name: str
    folder: Path
    reference: Reference
    rng: random.Random
    jobs: int | None = None
    say: Say = lambda line: None
    strikes: list[str] = field(default_factory=list)
    runs: int = 0

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True)
        self.store = self.folder / "store"
        self.verdict = Verdict(self.reference, self.store, self.folder / "attempts")

    def start(
        self,
        die_at: str | None = None,
        jobs: int | None = None,
        cwd: Path = ROOT,
        store: str = "",
        eager_checkpoints: bool = False,
    ) -> Run:
        """Start `bench run` of the matrix on the store."""
        self.runs += 1
        spy = Spy(self.store, self.verdict.attempts, None, die_at, eager_checkpoints)
        jobs = jobs or self.jobs or self.rng.choice([1, 2])
        arguments = [*COMMAND, "--jobs", str(jobs), "--store", store or str(self.store)]
        return start(arguments, self.folder / f"run{self.runs}", spy, cwd)

    def strike(self, kind: str = "", how: signal.Signals = signal.SIGKILL, grace_s: float = 0.0) -> bool:
        """Start a run and stop it at a random moment; return whether there is still something left to do.

        Another signal than SIGKILL is followed by SIGKILL after a grace, as a scheduler does it.
        """
        drawn, event = moments.pick(self.rng, self.reference, self.store)
        kind = kind or drawn
        event = event if kind == drawn else None
        before = finished(self.store)
        run = self.start(die_at=event, eager_checkpoints="checkpoint" in kind or self.rng.random() < 0.1)
        moments.wait_for(kind, self.rng, self.reference, self.store, run)
        hit = not run.ended() or run.process.exitcode == -signal.SIGKILL
        if how != signal.SIGKILL and not run.ended():
            run.signal(how)
            self._check_orderly(run, run.wait(grace_s))
        if not run.kill():
            self.verdict.faults.append(f"processes are left after {how.name}")
        if not hit and run.process.exitcode != 0 and how == signal.SIGKILL:
            self.verdict.faults.append(f"ended by itself with {run.process.exitcode}: {run.said[-1500:]}")
        self.verdict.after_stop(before)
        if hit:
            self.strikes.append(kind)
        what = f"{how.name} at {kind}{f' ({event})' if event else ''}" if hit else f"over before {kind}"
        done = len(finished(self.store))
        self.say(f"  {what}, after {time.monotonic() - run.began:.2f} s: {done} done; {in_flight(self.store)}")
        return done < len(self.reference.stages)

    def _check_orderly(self, run: Run, code: int | None) -> None:
        """A run that was asked to stop and did so within the grace says how to go on; nobody sees a traceback."""
        began = "stages to compute" in run.said or "nothing to compute" in run.said
        if code is not None and code not in ((130, 0) if began else (130, 0, -signal.SIGTERM, -signal.SIGINT, 1)):
            self.verdict.faults.append(f"a stop ended it with code {code}: {run.said[-1500:]}")
        if "Traceback" in run.said:
            self.verdict.faults.append(f"a stop showed a traceback: {run.said[-1500:]}")
        if code == 130 and not run.said.rstrip().splitlines()[-1].startswith(_GO_ON):
            self.verdict.faults.append(f"a stop does not end with how to go on: {run.said[-1500:]}")
        if code is not None and not group_is_gone(run.group):
            self.verdict.faults.append("a stop ended the driver but not its processes")

    def finish(self) -> list[str]:
        """Run to the end without disturbance, judge, and return what was wrong."""
        before = finished(self.store)
        with self.verdict.one_attempt_each():
            run = self.start()
            code = run.wait(LIMIT_S)
        if code is not None and not group_is_gone(run.group):
            self.verdict.faults.append("the last run ended, but not all of its processes")
        run.kill()
        self.verdict.after_stop(before)
        self.verdict.at_end(code, run.rows if code == 0 else None, run.said)
        if f"{len(before)} finished ones reused" not in run.said:
            self.verdict.faults.append(f"{len(before)} stages were finished; not said to be reused: {run.said[:200]}")
        return self.verdict.faults

    def discard(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder)
