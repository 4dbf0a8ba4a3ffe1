"""The command line: one verb a function. Data goes to stdout, talk to stderr; heavy imports wait for their verb."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from bench.cli import data as data_verbs
from bench.cli import jobs as job_verbs
from bench.cli import store as store_verbs
from bench.cli.options import (
    DEFAULT_STORE,
    CellArg,
    DeviceOpt,
    ExecutorOpt,
    JobsOpt,
    JsonOpt,
    MachineOpt,
    MatrixArg,
    QuietOpt,
    SetOpt,
    StoreOpt,
    ThreadsOpt,
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
    steady_streams,
    talk_on_stderr,
)
from bench.cli.usage_errors import OneLineGroup
from bench.errors import BenchError, ConfigError

if TYPE_CHECKING:
    from bench.machine import Machine
    from bench.matrix import Matrix
    from bench.store import Store

app = typer.Typer(
    cls=OneLineGroup,
    help="Benchmark of long-tail image augmentation: run matrices of data set x method x seed, read and report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

app.add_typer(data_verbs.app)
app.add_typer(job_verbs.app)
app.add_typer(store_verbs.app)


@app.command()
def run(
    matrix: MatrixArg,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    executor: ExecutorOpt = None,
    machine: MachineOpt = None,
    jobs: JobsOpt = None,
    device: DeviceOpt = None,
    threads: ThreadsOpt = None,
    wandb: Annotated[str, typer.Option(help="offline, online or off")] = "offline",
    share_with: Annotated[
        str | None, typer.Option(metavar="HOST", help="with online: your own W&B server, may have credentialed data")
    ] = None,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="try failed stages again")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="compute nothing: tell what is missing, what would run, hours and disk")
    ] = False,
    tflops: Annotated[
        float | None, typer.Option(min=0.001, help="with --dry-run: assumed of a GPU never measured here [10]")
    ] = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Run every cell of a matrix; what is finished is reused. Run it again to resume."""
    where = make_machine(machine, executor, jobs, device, threads)  # before numpy is imported: it sets the threads
    if dry_run:
        _dry_run(matrix, sets, open_store(store), where, tflops, retry_failed, as_json)
    if tflops is not None:
        raise ConfigError("--tflops: is an assumption of --dry-run; leave it out, or add --dry-run")
    from bench.progress import reporter_for, stage_labels
    from bench.results import read_matrix
    from bench.run import run_matrix
    from bench.track import make_tracker

    loaded, place = load(matrix, sets), open_store(store)
    placed = make_placement(where, idle=all(place.has(s) for c in loaded.cells for s in c.targets))
    tracker = make_tracker(wandb, place, loaded, share_with=share_with)
    labels = stage_labels({c.name: c.targets for c in loaded.cells})
    reporter = reporter_for(stderr_console(), labels, placed.jobs, quiet)
    with talk_on_stderr(), interruptible(f"bench run {matrix}", placed.goes_on_alone), reporter.live():
        run_matrix(
            loaded,
            place,
            executor=placed.executor,
            execution=make_execution(where),
            reporter=reporter,
            tracker=tracker,
            retry_failed=retry_failed,
        )
    results = read_matrix(loaded, place)
    failed = [r for r in results if r.state != "done"]
    for r in failed:
        say(f"failed: {r.cell.name}: {r.reason or 'an input did not finish'}")
    if failed:
        say(f"{len(failed)} of {len(results)} cells failed; why: `bench explain {matrix} CELL`; again: --retry-failed")
    if as_json:
        print_json(_table_rows(loaded, place))
    else:
        _print_table(loaded, place)
    raise typer.Exit(1 if failed else 0)


def _dry_run(
    matrix: str,
    sets: list[str] | None,
    store: Store,
    machine: Machine,
    tflops: float | None,
    retry_failed: bool,
    as_json: bool,
) -> NoReturn:
    from bench.dry_run import at_once, estimate, print_estimate
    from bench.inputs import plan
    from bench.rates import DEFAULT_TFLOPS

    with talk_on_stderr():
        told = estimate(plan(matrix, sets or ()), store, at_once(machine), tflops or DEFAULT_TFLOPS, retry_failed)
    if as_json:
        print_json(told)
    else:
        print_estimate(told, matrix, stdout_console())
    raise typer.Exit(0 if told["ready"] else 1)


@app.command()
def table(matrix: MatrixArg, sets: SetOpt = None, store: StoreOpt = DEFAULT_STORE, as_json: JsonOpt = False) -> None:
    """Print the paper's table as far as it is measured, the poster's numbers beside it."""
    loaded, place = load(matrix, sets), open_store(store)
    if as_json:
        print_json(_table_rows(loaded, place))
    else:
        _print_table(loaded, place)


@app.command()
def status(matrix: MatrixArg, sets: SetOpt = None, store: StoreOpt = DEFAULT_STORE, as_json: JsonOpt = False) -> None:
    """Tell of every cell whether it is done, running, failed (why) or missing, from the store alone."""
    from bench.status import print_status, status_rows

    rows = status_rows(load(matrix, sets), open_store(store))
    if as_json:
        print_json(rows)
    else:
        print_status(rows, stdout_console())


@app.command()
def explain(
    matrix: MatrixArg,
    cell: CellArg,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    as_json: JsonOpt = False,
) -> None:
    """Show a cell's stages: what would be reused, what would run, and why."""
    from bench.status import explain_rows, print_explain

    loaded = load(matrix, sets)
    rows = explain_rows(loaded.cell(cell), open_store(store))
    if as_json:
        print_json(rows)
    else:
        print_explain(loaded.cell(cell), rows, stdout_console())


@app.command()
def report(
    matrix: MatrixArg,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="folder to write [<store>/reports/<matrix>]")] = None,
    share: Annotated[
        bool,
        typer.Option("--share", help="one to be passed on: of credentialed data aggregates alone [<matrix>-shared]"),
    ] = False,
) -> None:
    """Write the report: tables (Markdown, LaTeX, CSV, HTML), figures, one self-contained page."""
    from bench.results import read_matrix
    from reports import write_report

    loaded, place = load(matrix, sets), open_store(store)
    folder = out or place.root / "reports" / (f"{loaded.name}-shared" if share else loaded.name)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: is a file; give a folder")
    results = read_matrix(loaded, place)
    try:
        paths = write_report(loaded, results, place, folder, share=share)
    except OSError as error:
        raise ConfigError(f"--out {folder}: cannot be written: {error.strerror}; give another folder") from error
    for path in paths:
        typer.echo(path)


@app.command()
def effects(
    matrix: MatrixArg,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    columns: Annotated[list[str] | None, typer.Option("--column", help="a figure to compare; may be repeated")] = None,
    as_json: JsonOpt = False,
) -> None:
    """Print paired differences over seeds, with intervals: each row against the controls, or the row that it names."""
    from bench.results import read_matrix
    from reports.effects import effects_rows, effects_table

    loaded, place = load(matrix, sets), open_store(store)
    results = read_matrix(loaded, place)
    if as_json:
        print_json(effects_rows(loaded, results, place, columns))
    else:
        stdout_console().print(effects_table(loaded, results, place, columns))


@app.command()
def sweep(
    file: Annotated[str, typer.Argument(help="a sweep file, or a shipped one: il_se, cam")],
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    trials: Annotated[int | None, typer.Option(min=1, help="trials in all, finished ones included")] = None,
    executor: ExecutorOpt = None,
    machine: MachineOpt = None,
    jobs: JobsOpt = None,
    device: DeviceOpt = None,
    threads: ThreadsOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Search settings with Optuna on val; run it again to go on. Writes the best as a matrix for `bench run`."""
    where = make_machine(machine, executor, jobs, device, threads)  # before numpy is imported: it sets the threads
    from bench.progress import reporter_for
    from sweeps.study import run_sweep

    place, placed = open_store(store), make_placement(where)
    reporter = reporter_for(stderr_console(), {}, placed.jobs, quiet)
    with talk_on_stderr(), interruptible(f"bench sweep {file}", placed.goes_on_alone), reporter.live():
        result = run_sweep(
            file,
            place,
            n_trials=trials,
            placement=placed,
            execution=make_execution(where),
            reporter=reporter,
            overrides=tuple(sets or ()),
            say=say,
        )
    if as_json:
        print_json(result.as_dict())
    else:
        stdout_console().print(result.table())
        typer.echo(f"best settings: {result.best_path}" if result.best_path else "no trial finished")


@app.command()
def pretrain(
    what: Annotated[str, typer.Argument(help="diffusion or oracle")],
    matrix: Annotated[
        str | None, typer.Argument(help="train on this matrix's first data set [the shipped data]")
    ] = None,
    sets: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="e.g. unet.steps=1000")] = None,
    store: StoreOpt = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="copy the result to this new folder")] = None,
    executor: ExecutorOpt = None,
    machine: MachineOpt = None,
    device: DeviceOpt = None,
    threads: ThreadsOpt = None,
    quiet: QuietOpt = False,
) -> None:
    """Train a small diffusion pipeline (VAE, text encoder, UNet) on a train split, or the phantom's oracle."""
    where = make_machine(machine, executor, 1, device, threads)  # before numpy is imported: it sets the threads
    from bench.border import derived_from
    from bench.pretrain.request import pretraining
    from bench.pretrain.stages import copy_out
    from bench.progress import reporter_for
    from bench.run import run_stages
    from bench.stage import walk

    refuse_occupied(out)
    stage, place = pretraining(what, matrix, sets or ()), open_store(store)
    if note := derived_from(stage):
        say(note)
    placed, reporter = make_placement(where), reporter_for(stderr_console(), {}, 1, quiet)
    with interruptible(f"bench pretrain {what}", placed.goes_on_alone), reporter.live():
        run_stages(
            [stage],
            place,
            executor=placed.executor,
            execution=make_execution(where),
            reporter=reporter,
            retry_failed=True,
        )
    if not place.has(stage):
        why = next((f["error"] for s in walk([stage]) if (f := place.failure(s))), "an input did not finish")
        say(f"failed: {what}: {in_one_line(why)}")
        raise typer.Exit(1)
    if out:
        copy_out(place.folder(stage), out)
    typer.echo(out or place.folder(stage))


@app.command()
def methods(as_json: JsonOpt = False) -> None:
    """List the methods and data sets that are found, and the plugins that did not import."""
    from bench import registry

    found = {
        "methods": {k: (v.__doc__ or "").partition("\n")[0] for k, v in registry.methods().items()},
        "datasets": {k: (v.__doc__ or "").partition("\n")[0] for k, v in registry.datasets().items()},
        "broken": {b.module: b.reason for b in registry.broken()},
    }
    if as_json:
        print_json(found)
        return
    for group, members in found.items():
        for name, line in members.items():
            typer.echo(f"{group.rstrip('s')} {name}: {line}")


def _table_rows(matrix: Matrix, store: Store) -> list[dict[str, Any]]:
    from bench.results import read_matrix
    from bench.results import table as rows

    return rows(read_matrix(matrix, store))


def _print_table(matrix: Matrix, store: Store) -> None:
    from bench.results import read_matrix
    from reports.paper_table import terminal_table

    stdout_console().print(terminal_table(matrix, read_matrix(matrix, store), store))


def main() -> None:
    """Run the command line; an error that we raise on purpose is one line and its exit code."""
    steady_streams()
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        app()
    except BenchError as error:
        if debug:
            raise
        say(f"error: {in_one_line(str(error))}")
        sys.exit(error.exit_code)
    except OSError as error:  # a full or forbidden disk; typer itself ends quietly where a pipe is closed
        if debug:
            raise
        say(f"error: {in_one_line(f'{error.filename or type(error).__name__}: {error.strerror or error}')}")
        sys.exit(2)
