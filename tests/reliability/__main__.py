"""The reliability suite at length: `python -m tests.reliability --kills 200 --seed 1`.

Stops a small but whole matrix again and again, lets it finish, and holds what came out against an undisturbed run.
Ends with 1 if anything was wrong; the stores concerned are kept and named.
"""

from __future__ import annotations

import argparse
import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tests.reliability.judge import Reference, undisturbed
from tests.reliability.scenarios import FINISH_THEMSELVES, SCENARIOS, Refused
from tests.reliability.trial import Trial

# how often a scenario comes in a long run, beside once each at its beginning
WEIGHTS = {"killed": 12, "terminated": 3, "worker": 2, "two-drivers": 2, "disk-full": 1, "truncated": 1}


def say(line: str) -> None:
    """Print a line at once."""
    print(line, flush=True)


def run_trial(name: str, number: str, folder: Path, reference: Reference, jobs: int | None) -> Trial:
    """Disturb and finish one store; everything in it follows from its number."""
    trial = Trial(name, folder, reference, random.Random(number), jobs, say)
    try:
        SCENARIOS[name](trial)
        if name not in FINISH_THEMSELVES:
            trial.finish()
    except Refused as refusal:
        say(f"  skipped: {refusal}")
    return trial


def main(arguments: list[str] | None = None) -> int:
    """Run trials until enough kills have struck or the time is over; return the exit code."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is mounted must be unmounted
    scratch = Path(tempfile.mkdtemp(prefix="bench-reliability-", dir=options.scratch))
    tally = Tally(options.kills, 60 * options.minutes)
    reference = undisturbed(scratch / "undisturbed")
    say(
        f"undisturbed: {len(reference.stages)} stages in {reference.wall_s:.1f} s, planning {reference.planning_s:.2f} s"
    )
    first = [options.scenario] if options.scenario else list(SCENARIOS)
    rng, number = random.Random(options.seed), 0
    try:
        while number < len(first) or not tally.enough:
            drawn = options.scenario or rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            name = first[number] if number < len(first) else drawn
            say(f"trial {options.seed}/{number} {name} ({tally})")
            folder = scratch / f"{number}-{name}"
            trial = run_trial(name, f"{options.seed}/{number}", folder, reference, options.jobs)
            if tally.add(trial) and not options.keep:
                trial.discard()
            number += 1
    finally:
        tally.summarise()
    if not tally.bad and not options.keep:
        shutil.rmtree(scratch)
    return 1 if tally.bad else 0


@dataclass
class Tally:
    """What has been done so far, and what was found."""

    kills: int
    seconds: float
    began: float = field(default_factory=time.monotonic)
    moments: Counter[str] = field(default_factory=Counter)
    trials: Counter[str] = field(default_factory=Counter)
    bad: list[Path] = field(default_factory=list)
    swept: int = 0

    @property
    def enough(self) -> bool:
        """Tell whether no further trial is wanted."""
        return self.moments.total() >= self.kills or time.monotonic() - self.began > self.seconds

    def __str__(self) -> str:
        return f"{self.moments.total()} kills, {time.monotonic() - self.began:.0f} s"

    def add(self, trial: Trial) -> bool:
        """Count a trial, say what was wrong with it, and return whether nothing was."""
        self.moments.update(trial.strikes)
        self.trials[trial.name] += 1
        self.swept += len(trial.verdict.swept)
        for fault in trial.verdict.faults:
            say(f"  VIOLATION: {fault}")
        if trial.verdict.faults:
            self.bad.append(trial.folder)
        return not trial.verdict.faults

    def summarise(self) -> None:
        """Print the figures, and where to look."""
        say("kills by moment: " + ", ".join(f"{kind} {n}" for kind, n in self.moments.most_common()))
        say("stores by scenario: " + ", ".join(f"{kind} {n}" for kind, n in self.trials.most_common()))
        say(
            f"{self}; {self.trials.total()} stores, {len(self.bad)} with violations; {self.swept} small files went with gc"
        )
        for folder in self.bad:
            say(f"look at {folder}")


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills that hit a living run, in all [200]")
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin nothing new after so long")
    parser.add_argument("--seed", default="0", help="decides everything but timing [0]")
    parser.add_argument("--scenario", choices=list(SCENARIOS), help="only this one")
    parser.add_argument("--jobs", type=int, help="computations at once in the runs [1 or 2, at random]")
    parser.add_argument("--keep", action="store_true", help="keep all stores, not only those with violations")
    parser.add_argument("--scratch", type=Path, help="folder for the stores [the system's temporary folder]")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
