"""Run a matrix: plan the unfinished stages of all cells, compute them, tell the tracker as each cell ends."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from bench.data.dataset import Dataset
from bench.errors import DataError
from bench.matrix.cell import Cell
from bench.matrix.matrix import Matrix
from bench.pipeline.stage import Stage, walk
from bench.run.workload import Executor, Reporter, Workload
from bench.store.store import Store
from bench.store.work import Execution


class Tracker(Protocol):
    """Is called with each cell when it has finished or failed; `bench.tracking.tracker` has the implementations."""

    def begun(self, cells: Sequence[Cell]) -> None:
        """Take note of the cells whose classifiers are going to be trained, before any is."""

    def cell_ended(self, cell: Cell) -> None:
        """Take note of a cell that has finished or failed; the store holds its results."""

    def close(self) -> None:
        """Take note that no more cells will come."""


def run_stages(
    targets: Iterable[Stage],
    store: Store,
    *,
    executor: Executor,
    execution: Execution,
    reporter: Reporter,
    retry_failed: bool = False,
    on_outcome: Callable[[Stage], None] = lambda stage: None,
    more: Callable[[], list[Stage]] = list,
) -> Workload:
    """Compute the unfinished stages below `targets` and return what became of each.

    Args:
        targets: what to compute.
        store: has the finished stages, and gets the others.
        executor: computes.
        execution: the device and the number of threads.
        reporter: is called with everything that happens to a stage.
        retry_failed: also try stages again whose failure is on record.
        on_outcome: is called with each stage that has ended.
        more: is called after each stage that has ended, and returns further targets. They are computed in the same
            go, so a place that becomes free need not wait for the slowest of the others.

    Raises:
        ConfigError: if a target was planned without its inputs.
        DataError: if the pictures of a finished table have changed since it was made.
        StoreError: if something is left to compute and the store cannot be written.
    """
    targets = list(targets)
    for target in targets:
        target.require_inputs()
    refuse_changed_sources(targets, store)
    _require_writable(targets, store)
    store.tidy()
    if retry_failed:
        for stage in walk(targets):
            store.forget_failure(stage)
    work = Workload.plan(targets, store, execution, reporter)
    with contextlib.ExitStack() as in_use:

        def ended(stage: Stage) -> None:
            heard = [stage]
            while heard:
                for one in heard:
                    on_outcome(one)
                heard = []
                if further := more():
                    in_use.enter_context(store.using(further))
                    heard = work.add(further)

        work.on_outcome = ended
        if work.stages:
            in_use.enter_context(store.using(targets))
            executor.run(work)
    return work


_SEEN: set[Path] = (
    set()
)  # the tables that were compared with their source: a sweep comes here for every batch of trials


def refuse_changed_sources(targets: Iterable[Stage], store: Store) -> None:
    """Refuse to go on from a finished table whose pictures have changed since it was made.

    Raises:
        DataError: saying how many have changed, and what to do.
    """
    for dataset in (stage for stage in walk(list(targets)) if isinstance(stage, Dataset)):
        if store.has(dataset) and (folder := store.folder(dataset)) not in _SEEN:
            if said := dataset.changed_source(folder):
                raise DataError(f"{dataset.label}: {said}")
            _SEEN.add(folder)


def _require_writable(targets: list[Stage], store: Store) -> None:
    """Refuse a read-only store if something is left to compute. A finished matrix can be read from such a store."""
    if not all(store.has(s) for s in targets):
        store.require_writable()


def run_matrix(
    matrix: Matrix,
    store: Store,
    *,
    executor: Executor,
    execution: Execution,
    reporter: Reporter,
    tracker: Tracker,
    retry_failed: bool = False,
) -> None:
    """Compute the stages of all cells into the store. A cell that fails does not stop the others."""
    targets = [s for c in matrix.cells for s in c.targets]
    _require_writable(targets, store)  # before the tracker writes anything
    waiting: dict[str, list[Cell]] = defaultdict(list)
    for cell in matrix.cells:
        for stage in cell.targets:
            waiting[stage.key].append(cell)
    ended: set[str] = set()
    told: set[str] = set()

    def tell(cell: Cell) -> None:
        """Give a cell to the tracker, once, when each of its targets has ended."""
        if cell.name not in told and all(s.key in ended or store.has(s) for s in cell.targets):
            told.add(cell.name)
            tracker.cell_ended(cell)

    def on_outcome(stage: Stage) -> None:
        ended.add(stage.key)
        for cell in waiting.get(stage.key, []):
            tell(cell)

    try:
        tracker.begun([cell for cell in matrix.cells if not store.has(cell.classifier)])
        run_stages(
            targets,
            store,
            executor=executor,
            execution=execution,
            reporter=reporter,
            retry_failed=retry_failed,
            on_outcome=on_outcome,
        )
        for cell in matrix.cells:
            tell(cell)  # a cell that was finished before this run may not have been mirrored yet
    finally:
        tracker.close()
