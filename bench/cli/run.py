"""The verbs that compute: `run` and `pretrain`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from bench.cli.options import (
    DEFAULT_STORE,
    DeviceOpt,
    ExecutorOpt,
    JobsOpt,
    JsonOpt,
    MachineOpt,
    MatrixArg,
    QuietOpt,
    Request,
    SetOpt,
    ShareWithOpt,
    StoreOpt,
    ThreadsOpt,
    WandbOpt,
)
from bench.cli.session import (
    in_one_line,
    interruptible,
    load,
    make_execution,
    make_machine,
    make_placement,
    open_store,
    print_json,
    refuse_occupied,
    say,
    stderr_console,
    stdout_console,
    stdout_to_stderr,
)
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.estimate.measured import Measured
    from bench.matrix.matrix import Matrix
    from bench.pipeline.stage import Stage
    from bench.results.cells import CellResult
    from bench.run.machine_file import Machine
    from bench.store.store import Store
    from bench.tracking.tracker import LocalTracker, WandbTracker

app = typer.Typer()


@app.command(epilog="example: bench run demo --set 'seeds=[0,1,2]'")
def run(
    matrix: MatrixArg,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    executor: ExecutorOpt = None,
    machine_file: MachineOpt = None,
    jobs: JobsOpt = None,
    device: DeviceOpt = None,
    threads: ThreadsOpt = None,
    wandb: WandbOpt = "offline",
    share_with: ShareWithOpt = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed stages again.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Compute nothing; print what is missing and what would be computed.")
    ] = False,
    pilot: Annotated[
        bool,
        typer.Option("--pilot", help="Try all rows on a small sample, in <store>-pilot; --dry-run then knows times."),
    ] = False,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Compute every cell of a matrix that is not finished yet.

    Finished stages are reused, so run the same command again to resume. At the end the table is printed.
    """
    machine = make_machine(machine_file, executor, jobs, device, threads)  # before anything imports numpy
    if dry_run and pilot:
        raise ConfigError("--pilot: computes, and --dry-run does not; give one of them, the pilot first")
    if dry_run:
        _dry_run(Request(matrix, sets, store_path), open_store(store_path), machine, retry_failed, as_json)
    from bench.tracking.tracker import make_tracker

    request, loaded, store = Request(matrix, sets, store_path), load(matrix, sets), open_store(store_path)
    if pilot:
        loaded, store, wandb = *_pilot(request, loaded, store), "off"
    tracker = make_tracker(wandb, store, loaded, None, share_with, request.upload_command(wandb, share_with))
    results = compute_cells(request, loaded, store, machine, tracker, retry_failed=retry_failed, quiet=quiet)
    _say_what_is_odd(results, store)
    n_failed = say_failures(results, request)
    if pilot:
        say(f"this was a pilot; its results are in {store.root}")
        say(f"what the whole run takes: {request.command('run', '--dry-run')}")
    if as_json:
        from bench.results.table import table

        print_json(table(results))
    elif not pilot:
        from bench.cli.show_table import print_table

        print_table(request, loaded, results, store, stdout_console())
    raise typer.Exit(1 if n_failed else 0)


def compute_cells(
    request: Request,
    loaded: Matrix,
    store: Store,
    machine: Machine,
    tracker: LocalTracker | WandbTracker,
    *,
    retry_failed: bool = False,
    quiet: bool = False,
    again: str | None = None,
) -> list[CellResult]:
    """Compute the cells of a matrix that are not finished, with progress on stderr, and return what all cells have.

    `again` is the command to go on with after Ctrl-C, `bench run` if None.
    """
    from bench.matrix.inputs import check_before_computing
    from bench.matrix.load import find
    from bench.results.cells import read_matrix
    from bench.run.progress import reporter_for, stage_labels
    from bench.run.run_matrix import run_matrix

    idle = all(store.has(stage) for cell in loaded.cells for stage in cell.targets)
    for note in () if idle else check_before_computing(loaded, find(request.matrix).name):
        say(note)
    placement = make_placement(machine, idle)
    labels = {} if idle else stage_labels({cell.name: cell.targets for cell in loaded.cells})
    expected = None if idle else measured_in(store).seconds
    reporter = reporter_for(stderr_console(), labels, placement.jobs, quiet, expected)
    again = again or shlex.join(["bench", "run", request.matrix])
    with stdout_to_stderr(), interruptible(again, lambda: placement.goes_on_alone), reporter.live():
        run_matrix(
            loaded,
            store,
            executor=placement.executor,
            execution=make_execution(machine),
            reporter=reporter,
            tracker=tracker,
            retry_failed=retry_failed,
        )
    return read_matrix(loaded, store, tracker.finished)


def _pilot(request: Request, matrix: Matrix, store: Store) -> tuple[Matrix, Store]:
    """Return the pilot of a matrix, and the store that it has to itself."""
    from bench.estimate.pilot import pilot_overrides, pilot_store

    overrides = [*(request.sets or []), *pilot_overrides(matrix)]
    return load(request.matrix, overrides), open_store(pilot_store(store.root))


_MOST_NOTES = 8  # lines on odd images; the others are among the notes of the table


def _say_what_is_odd(results: list[CellResult], store: Store) -> None:
    """Say on stderr what is odd about the pictures and about the synthetic images, in counts."""
    from reports.run_facts import by_dataset, dataset_facts, synthetic_notes

    for label, members in by_dataset(results).items():
        facts = dataset_facts(members[0].cell, store)
        notes = [*(facts.notes if facts else ()), *synthetic_notes(members, facts)]
        for note in notes[:_MOST_NOTES]:
            say(f"look at the images: {label}: {note}")
        if len(notes) > _MOST_NOTES:
            say(f"look at the images: {label}: … and {len(notes) - _MOST_NOTES} more")


def say_failures(results: list[CellResult], request: Request) -> int:
    """Say on stderr which cells are not done, and why; return their number."""
    failed = [r for r in results if r.state != "done"]
    for r in failed:
        say(f"failed: {r.cell.name}: {r.reason or 'an input did not finish'}")
    if failed:
        why = request.command("explain", failed[0].cell.name)
        say(f"{len(failed)} of {len(results)} cells failed; why: {why}")
    return len(failed)


def _dry_run(request: Request, store: Store, machine: Machine, retry_failed: bool, as_json: bool) -> NoReturn:
    """Print what a run would compute and take, and end: exit code 1 where something is missing."""
    from bench.cli.show_estimate import print_estimate
    from bench.estimate.estimate import computations_at_once, estimate
    from bench.matrix.inputs import plan
    from bench.run.run_matrix import refuse_changed_sources

    with stdout_to_stderr():
        planned = plan(request.matrix, request.sets or ())
        refuse_changed_sources((s for cell in planned.matrix.cells for s in cell.targets), store)
        found = estimate(planned, store, measured_in(store), computations_at_once(machine), retry_failed)
    if as_json:
        print_json(found)
    else:
        print_estimate(found, request, stdout_console())
    raise typer.Exit(0 if found["ready"] else 1)


def measured_in(store: Store) -> Measured:
    """Return what was measured in a store and in the one of its pilots."""
    from bench.estimate.measured import Measured
    from bench.estimate.pilot import pilot_store

    return Measured.of(store, open_store(pilot_store(store.root)))


@app.command(epilog="example: bench pretrain diffusion mine.yaml --out weights/mine")
def pretrain(
    what: Annotated[str, typer.Argument(metavar="WHAT", help="What to train: diffusion or oracle.")],
    matrix: Annotated[
        str | None,
        typer.Argument(
            metavar="MATRIX",
            help="Train on the data set of this matrix, instead of the data set that is shipped.",
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change a setting of the training (unet.steps=1000) or of the matrix (datasets.0.root=PATH).",
        ),
    ] = None,
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="LABEL", help="Which data set, where a matrix has several.")
    ] = None,
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="M",
            help="Train a diffusion model for so long, instead of a number of steps. Reading the images and drawing "
            "samples at the end come on top.",
        ),
    ] = None,
    store_path: StoreOpt = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Copy the result to this new folder.")] = None,
    executor: ExecutorOpt = None,
    machine_file: MachineOpt = None,
    device: DeviceOpt = None,
    threads: ThreadsOpt = None,
    quiet: QuietOpt = False,
) -> None:
    """Train a small diffusion model, or the phantom's oracle.

    A diffusion model is a VAE, a text encoder and a UNet. It sees the train split alone.
    """
    if minutes is not None and not 0 < minutes < _MOST_MINUTES:
        raise ConfigError(f"--minutes {minutes:g}: want more than 0 and less than {_MOST_MINUTES:,}")
    machine = make_machine(machine_file, executor, 1, device, threads)  # before anything imports numpy
    refuse_occupied(out)
    from bench.pretrain.request import is_of_matrix, pretraining
    from bench.pretrain.stages import copy_out
    from bench.privacy.border import derived_from
    from bench.run.progress import reporter_for
    from bench.run.run_matrix import run_stages

    stage, store = pretraining(what, matrix, sets or (), dataset, minutes), open_store(store_path)
    if note := derived_from(stage):
        say(note)
    placement, reporter = (
        make_placement(machine, store.has(stage)),
        reporter_for(stderr_console(), {}, 1, quiet, line_every=10),
    )
    command = shlex.join(["bench", "pretrain", what, *filter(None, [matrix])])
    with interruptible(command, lambda: placement.goes_on_alone), reporter.live():
        run_stages(
            [stage],
            store,
            executor=placement.executor,
            execution=make_execution(machine),
            reporter=reporter,
            retry_failed=True,
        )
    if not store.has(stage):
        say(f"failed: {what}: {in_one_line(_why_failed(stage, store))}")
        raise typer.Exit(1)
    if out:
        copy_out(store.folder(stage), out)
    made = out or store.folder(stage)
    typer.echo(made)
    setting = "diffusion.folder" if what == "diffusion" else "fidelity.extractor.folder"
    used = [change for change in sets or () if is_of_matrix(change)] if matrix else []
    say(f"use it: {Request(matrix or 'demo', [*used, f'{setting}={made}'], store_path).command('run')}")


_MOST_MINUTES = 60 * 24 * 365


def _why_failed(stage: Stage, store: Store) -> str:
    """Return the error of the first stage that failed, of `stage` and all below it."""
    from bench.pipeline.stage import walk

    errors = (failure["error"] for below in walk([stage]) if (failure := store.failure(below)))
    return next(errors, "an input did not finish")
