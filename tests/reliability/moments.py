"""When to strike: at random, at what can be seen in the store, or just before one file operation of one stage."""

from __future__ import annotations

import contextlib
import random
import time
from collections import defaultdict
from pathlib import Path

from tests.reliability.helpers import found
from tests.reliability.judge import LIMIT_S, Reference, finished
from tests.reliability.warm import Run

# what is waited for: files like this, of at least so many bytes; and the longest that is waited after it
WATCHED: dict[str, tuple[str, int, float]] = {
    "training": ("c*/*.work/progress.json", 0, 0.5),  # of a classifier or a codec
    "checkpoint": ("*/*.work/ckpt*/*.part", 0, 0.05),
    "large file": ("classifier/*.work/out*/*.safetensors", 1 << 16, 0.03),
    "array": ("*/*.work/out*/*.npy", 0, 0.01),
    "commit": ("*/*.work/out*/manifest.json", 0, 0.01),
}
TIMED = ("any time", "any stage", "planning")


def labels_of(events: list[str]) -> dict[str, list[str]]:
    """Return the file operations of a run by what they are part of; all kinds are struck alike often."""
    labels: dict[str, list[str]] = defaultdict(list)
    for event in dict.fromkeys(events):
        labels[f"op: {_label(*event.split(' ', 1))}"].append(event)
    return dict(labels)


def _label(operation: str, path: str) -> str:
    folder, _, rest = path.partition(".work")
    if path.startswith(("locks", "cells", "logs")):
        return path.partition("/")[0]
    if not rest:
        return "commit" if operation == "rename" and not path.endswith(".json") else "failure record"
    if operation == "rmdir" or (operation == "remove" and "progress" not in rest):
        return "clean-up"
    for name, words in (
        ("manifest", ("manifest", "/out/.*")),
        ("checkpoint", ("/ckpt/",)),
        ("result file", ("/out/",)),
    ):
        if any(word in rest for word in words):
            return name
    return "begin" if operation == "mkdir" else "progress"


def pick(rng: random.Random, reference: Reference, store: Path) -> tuple[str, str | None]:
    """Return a kind of moment and, for a file operation, which; of stages that are not finished."""
    operations = labels_of(reference.events)
    kind = rng.choice([*TIMED, *WATCHED, *operations])
    if kind not in operations:
        return kind, None
    done = finished(store)
    left = [e for e in operations[kind] if not any(name in e for name in done)] or operations[kind]
    stage = rng.choice(sorted({_stage(e) for e in left}))  # of each kind alike often, however many there are
    return kind, rng.choice([e for e in left if _stage(e) == stage])


def _stage(event: str) -> str:
    return event.split(" ", 1)[1].partition("/")[0]


def wait_for(kind: str, rng: random.Random, reference: Reference, store: Path, run: Run) -> None:
    """Return when it is time to strike, or when the run has ended."""
    if kind.startswith("op: "):
        run.wait(LIMIT_S)  # it kills itself
    elif kind in WATCHED:
        pattern, size, after = WATCHED[kind]
        seen: set[str] = set()
        wanted = rng.randint(1, 3)
        while len(seen) < wanted and not run.ended():
            seen |= _fresh(store, pattern, size, run.began_at)
            time.sleep(0.001)
        run.wait(rng.uniform(0, after))
    elif kind == "any stage":
        last = len(reference.stages) - 1
        wait_until_done(rng.randint(min(len(finished(store)), last), last), store, run)
        run.wait(rng.uniform(0, 3 * reference.wall_s / len(reference.stages)))
    else:
        left = max(0.2, 1 - len(finished(store)) / len(reference.stages))
        longest = reference.planning_s if kind == "planning" else reference.wall_s * left
        run.wait(rng.uniform(0, longest))


def wait_until_done(wanted: int, store: Path, run: Run) -> None:
    """Return when so many stages are finished, or when the run has ended."""
    while len(found(store, "*/*/manifest.json")) < wanted and not run.ended():
        time.sleep(0.005)


def _fresh(store: Path, pattern: str, size: int, since: float) -> set[str]:
    """Return the files that this run wrote: what an earlier one left does not count."""
    fresh = set()
    for path in found(store, pattern):
        with contextlib.suppress(OSError):  # renamed while we looked
            told = path.stat()
            if told.st_mtime > since and told.st_size >= size:
                fresh.add(str(path))
    return fresh
