"""How long do `bench run`, `status` and `table` take on a finished matrix of a hundred cells, or of many more?

The store is made once, before that: ten rows of `hundred.yaml` and a seed for every ten cells. The stages of the first
seeds (`--computed`) are really computed (two minutes on two cores for ten seeds; 4.3 GB, mostly a hundred ResNet18s).
Those of further seeds are hard links to the files of these, each in a folder with a manifest of its own. So all files
that a rerun looks at are there, and only their figures repeat. `--split` shows where the time of one rerun goes.
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
ROWS = 10
BOUND_S = 2.0  # of wall time, for a hundred cells
CPU_BOUNDS_S = {100: 2.0, 1_000: 5.0, 10_000: 40.0}  # for up to so many cells; none for more
HELP_BOUND_S = 0.3


def verbs(n_seeds: int, store: Path) -> dict[str, list[str]]:
    """Return the arguments of each verb that is measured."""
    given = [str(MATRIX), "--store", str(store), "--set", f"seeds={list(range(n_seeds))}"]
    return {
        "bench run": ["run", *given, "--wandb", "off", "--quiet"],
        "bench status": ["status", *given],
        "bench table": ["table", *given],
    }


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--cells", type=int, default=100, help="a multiple of ten [100]")
    parser.add_argument("--computed", type=int, default=10, help="seeds that are really computed [10]")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--jobs", type=int, default=1, help="to make the store with")
    parser.add_argument("--store", type=Path, help="a store to make or to use, kept [a temporary one]")
    parser.add_argument("--split", action="store_true", help="also show where the time of a rerun goes")
    given = parser.parse_args()
    if given.cells < ROWS or given.cells % ROWS or given.computed < 1:
        parser.error(f"--cells {given.cells} --computed {given.computed}: want a multiple of {ROWS}, and 1 or more")
    n_seeds = given.cells // ROWS
    with common.folder(given.store, "bench-rerun-") as store:
        make_store(store, n_seeds, min(n_seeds, given.computed), given.jobs)
        figures = [*figures_of({"bench --help": ["--help"]}, given.repeats, HELP_BOUND_S)]
        cpu_bound = next((bound for most, bound in CPU_BOUNDS_S.items() if given.cells <= most), None)
        wall_bound = BOUND_S if given.cells <= 100 else None
        figures += figures_of(verbs(n_seeds, store), given.repeats, wall_bound, cpu_bound)
        if given.split:
            figures += [Figure.of(f"of it: {part}", "s", [seconds]) for part, seconds in split(store, n_seeds)]
        return common.report(figures, given.json, cells=given.cells, computed_seeds=min(n_seeds, given.computed))


def make_store(store: Path, n_seeds: int, computed: int, jobs: int) -> None:
    """Make the store: compute the first seeds, link the others, and let a run write the records of all cells."""
    started = time.monotonic()
    common.checked_run(common.bench(*verbs(computed, store)["bench run"], "--jobs", str(jobs)))
    linked = link_seeds(store, n_seeds, computed)
    if linked:
        common.checked_run(common.bench(*verbs(n_seeds, store)["bench run"]))
    common.say(f"store made (or found) in {time.monotonic() - started:.0f} s; {linked} of its stages are linked now")


def link_seeds(root: Path, n_seeds: int, computed: int) -> int:
    """Give the cells of further seeds the results of the computed ones, and return how many stages were linked."""
    from bench.files import write_json
    from bench.matrix import load
    from bench.pipeline.stage import walk
    from bench.store.attempt import files_of
    from bench.store.store import Store

    store, linked = Store(root), 0
    matrix = load.load_matrix(str(MATRIX), [f"seeds={list(range(n_seeds))}"])
    of = {(cell.label, cell.seed): walk(cell.targets) for cell in matrix.cells}
    for (row, seed), stages in of.items():
        for stage, like in zip(stages, of[row, seed % computed], strict=True):
            if store.has(stage):
                continue
            if stage.stage_name() != like.stage_name():
                raise SystemExit(f"{row}: {stage.stage_name()} stands where another seed has {like.stage_name()}")
            folder = store.folder(stage)
            for name, path in files_of(store.folder(like)):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(path, folder / name)
            own = {
                "key": stage.key,
                "identity": stage.identity,
                "inputs": {s.key: s.stage_name() for s in stage.inputs()},
            }
            write_json(folder / "manifest.json", store.manifest(like) | own)
            linked += 1
    return linked


def figures_of(
    commands: dict[str, list[str]], repeats: int, wall_bound: float | None, cpu_bound: float | None = None
) -> Iterator[Figure]:
    """Yield the wall and the CPU seconds of each command. The first run of each only warms the disk's cache."""
    taken = {name: [timed(common.bench(*verb)) for _ in range(repeats + 1)][1:] for name, verb in commands.items()}
    for name, runs in taken.items():
        yield Figure.of(name, "s", [wall for wall, _ in runs], wall_bound)
        yield Figure.of(f"{name}, CPU", "s", [cpu for _, cpu in runs], cpu_bound)


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


def split(root: Path, n_seeds: int) -> Iterator[tuple[str, float]]:
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
    loaded = matrix.load_matrix(str(MATRIX), [f"seeds={list(range(n_seeds))}"])
    store = Store(root)
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
