"""How long do `bench run`, `status` and `table` take on a finished matrix of a hundred cells? Wall seconds.

The store is made once, before that: ten rows and ten seeds of `hundred.yaml`, every stage really computed (two minutes
on two cores; 4.3 GB, mostly a hundred ResNet18s). `--split` shows where the time of one rerun goes.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks import common
from benchmarks.common import Figure

MATRIX = Path(__file__).with_name("hundred.yaml")
BOUND_S = 2.0
HELP_BOUND_S = 0.3
VERBS = {
    "bench run": ["run", str(MATRIX), "--wandb", "off", "--quiet"],
    "bench status": ["status", str(MATRIX)],
    "bench table": ["table", str(MATRIX)],
}


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=1, help="to make the store with")
    parser.add_argument("--store", type=Path, help="a store to make or to use, kept [a temporary one]")
    parser.add_argument("--split", action="store_true", help="also show where the time of a rerun goes")
    given = parser.parse_args()
    with common.folder(given.store, "bench-rerun-") as store:
        started = time.monotonic()
        common.checked_run(common.bench(*VERBS["bench run"], "--store", str(store), "--jobs", str(given.jobs)))
        common.say(f"store made (or found) in {time.monotonic() - started:.0f} s; {given.repeats} repeats of each verb")
        figures = [*figures_of({"bench --help": ["--help"]}, given.repeats, HELP_BOUND_S)]
        timed = {name: [*verb, "--store", str(store)] for name, verb in VERBS.items()}
        figures += figures_of(timed, given.repeats, BOUND_S)
        if given.split:
            figures += [Figure.of(f"of it: {part}", "s", [seconds]) for part, seconds in split(store)]
        return common.report(figures, given.json)


def figures_of(verbs: dict[str, list[str]], repeats: int, bound: float) -> Iterator[Figure]:
    """Yield the wall and the CPU seconds of each command. The first run of each only warms the disk's cache."""
    taken = {name: [timed(common.bench(*verb)) for _ in range(repeats + 1)][1:] for name, verb in verbs.items()}
    for name, runs in taken.items():
        yield Figure.of(name, "s", [wall for wall, _ in runs], bound)
        yield Figure.of(f"{name}, CPU", "s", [cpu for _, cpu in runs])


def timed(command: list[str]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a command.

    Raises:
        SystemExit: if it fails.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = process.stderr.read() if process.stderr else b""
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {process.returncode}\n{told.decode()[-2000:]}")
    return seconds, used.ru_utime + used.ru_stime


def split(root: Path) -> Iterator[tuple[str, float]]:
    """Yield (part, CPU seconds) of a rerun, whose parts are done one after the other in this process."""
    at = time.process_time()

    def since() -> float:
        nonlocal at
        now = time.process_time()
        taken, at = now - at, now
        return taken

    import bench.cli.main  # noqa: F401
    from bench.matrix import load as matrix
    from bench.pipeline.stage import walk
    from bench.plugins import registry
    from bench.results import cells as results
    from bench.results.record import write_record
    from bench.store.store import Store

    yield "imports", since()
    registry.datasets(), registry.methods()
    yield "methods and data sets found", since()
    loaded, store = matrix.load_matrix(str(MATRIX)), Store(root)
    yield "matrix loaded", since()
    targets = [t for c in loaded.cells for t in c.targets]
    stages = walk(targets)
    yield f"keys of {len(stages)} stages", since()
    missing = sum(not store.has(s) for s in stages)
    yield f"store asked ({missing} missing)", since()
    found = results.read_matrix(loaded, store)
    yield "cells read", since()
    for cell, result in zip(loaded.cells, found, strict=True):
        write_record(store, loaded, cell, result, None)
    yield "records checked", since()
    from bench.cli.show_table import without_notes

    yield "imports of reports", since()
    without_notes(loaded, found)
    yield "table with its effects", since()


if __name__ == "__main__":
    sys.exit(main())
