"""The reliability suite at length: `python -m tests.reliability --kills 200 --seed 1`.

Stops a small but whole matrix again and again, lets it finish, and holds what came out against an undisturbed run.
Ends with 1 if anything was wrong; the stores concerned are kept and named.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import time
from collections import Counter
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
    """Run trials until enough kills have struck; return the exit code."""
    options = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # what is mounted must be unmounted
    scratch = Path(tempfile.mkdtemp(prefix="bench-reliability-", dir=options.scratch))
    began = time.monotonic()
    reference = undisturbed(scratch / "undisturbed")
    say(
        f"undisturbed: {len(reference.stages)} stages in {reference.wall_s:.1f} s, planning {reference.planning_s:.2f} s"
    )
    moments: Counter[str] = Counter()
    trials: Counter[str] = Counter()
    bad: list[Path] = []
    first = [options.scenario] if options.scenario else list(SCENARIOS)
    rng, number = random.Random(options.seed), 0
    while sum(moments.values()) < options.kills or number < len(first):
        drawn = options.scenario or rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        name = first[number] if number < len(first) else drawn
        seed = f"{options.seed}/{number}"
        number += 1
        say(f"trial {seed} {name} ({sum(moments.values())} of {options.kills} kills, {time.monotonic() - began:.0f} s)")
        trial = run_trial(name, seed, scratch / f"{number}-{name}", reference, options.jobs)
        moments.update(trial.strikes)
        trials[name] += 1
        for fault in trial.verdict.faults:
            say(f"  VIOLATION: {fault}")
        if trial.verdict.faults:
            bad.append(trial.folder)
        elif not options.keep:
            trial.discard()
    _summarise(moments, trials, bad, time.monotonic() - began)
    return 1 if bad else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="kills that hit a living run, in all [200]")
    parser.add_argument("--seed", default="0", help="decides everything but timing [0]")
    parser.add_argument("--scenario", choices=list(SCENARIOS), help="only this one")
    parser.add_argument("--jobs", type=int, help="computations at once in the runs [1 or 2, at random]")
    parser.add_argument("--keep", action="store_true", help="keep all stores, not only those with violations")
    parser.add_argument("--scratch", type=Path, help="folder for the stores [the system's temporary folder]")
    return parser.parse_args(arguments)


def _summarise(moments: Counter[str], trials: Counter[str], bad: list[Path], seconds: float) -> None:
    say("kills by moment: " + ", ".join(f"{kind} {n}" for kind, n in moments.most_common()))
    say("stores by scenario: " + ", ".join(f"{kind} {n}" for kind, n in trials.most_common()))
    say(f"{sum(moments.values())} kills, {sum(trials.values())} stores, {len(bad)} with violations, {seconds:.0f} s")
    for folder in bad:
        say(f"look at {folder}")


if __name__ == "__main__":
    sys.exit(main())
