"""The verb `sweep`: search for good settings, look at the search, and confirm what it found."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import (
    DEFAULT_STORE,
    DeviceOpt,
    ExecutorOpt,
    JobsOpt,
    JsonOpt,
    MachineOpt,
    QuietOpt,
    Request,
    SetOpt,
    ShareWithOpt,
    StoreOpt,
    ThreadsOpt,
    WandbOpt,
)
from bench.cli.run import compute_cells, measured_in, say_failures
from bench.cli.session import (
    interruptible,
    load,
    make_execution,
    make_machine,
    make_placement,
    open_store,
    print_json,
    say,
    stderr_console,
    stdout_console,
    stdout_to_stderr,
)
from bench.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table

    from bench.run.machine_file import Machine
    from bench.store.store import Store
    from sweeps.confirmation import Confirmed
    from sweeps.outcome import SweepResult
    from sweeps.settings import Sweep

app = typer.Typer()
CONFIRMED = ["row", "in the search", "mean", "sd", "n"]


@app.command(epilog="example: bench sweep cam --trials 20")
def sweep(
    file: Annotated[
        str, typer.Argument(metavar="SWEEP", help="A sweep file, or the name of a shipped sweep: il_se, cam.")
    ],
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of trials in all, with those that are finished.")
    ] = None,
    status: Annotated[bool, typer.Option("--status", help="Compute nothing; print what was found so far.")] = False,
    confirm: Annotated[
        bool,
        typer.Option("--confirm", help="After the search, train the best settings and the untuned one with new seeds."),
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also write a page with figures, <store>/reports/sweep-<name>/sweep.html.")
    ] = False,
    executor: ExecutorOpt = None,
    machine_file: MachineOpt = None,
    jobs: JobsOpt = None,
    device: DeviceOpt = None,
    threads: ThreadsOpt = None,
    wandb: WandbOpt = "offline",
    share_with: ShareWithOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Search for good settings with Optuna, judged on val alone.

    Run the same command again to continue a search. The best settings are written as a matrix for `bench run`.
    """
    machine = make_machine(machine_file, executor, jobs, device, threads)  # before anything imports numpy
    from sweeps.settings import load_sweep

    if status and (confirm or trials):
        raise ConfigError("--status: computes nothing; leave out --confirm and --trials")
    store, overrides = open_store(store_path), tuple(sets or ())
    if status:
        from sweeps.references import found_so_far

        result = found_so_far(file, store, overrides)
    else:
        from bench.run.progress import reporter_for
        from bench.tracking.sender import make_sender, to_stderr
        from sweeps.records import TrialTracker
        from sweeps.study import run_sweep

        command = Request(file, sets, store_path).upload_command(wandb, share_with)
        sender = make_sender(store.root, wandb, share_with, None, command, "trials")
        tracker = TrialTracker(load_sweep(file, overrides), store, to_stderr, sender, share_with)
        labels: dict[str, str] = {}
        placement = make_placement(machine)
        reporter = reporter_for(stderr_console(), labels, placement.jobs, quiet, measured_in(store).seconds)
        with stdout_to_stderr(), interruptible(f"bench sweep {file}", placement.goes_on_alone), reporter.live():
            result = run_sweep(
                file,
                store,
                n_trials=trials,
                placement=placement,
                execution=make_execution(machine),
                reporter=reporter,
                overrides=overrides,
                say=say,
                labels=labels,
                tracker=tracker,
            )
    n_failed = 0
    if confirm and result.best_path:
        n_failed = _confirm(Request(result.best_path, None, store_path), store, machine, (wandb, share_with), quiet)
    described = load_sweep(file, overrides)
    confirmation = _confirmed(result, described, store)
    _print(result, confirmation, as_json)
    if report:
        page = _write_page(result, described, confirmation, store)
        if not as_json:
            typer.echo(page)
    raise typer.Exit(1 if n_failed else 0)


def _confirm(request: Request, store: Store, machine: Machine, copies: tuple[str, str | None], quiet: bool) -> int:
    """Compute the matrix of the best settings, and return how many of its cells failed.

    `copies` has the mode and the server of `--wandb` and `--share-with`.
    """
    from bench.tracking.tracker import make_tracker

    matrix = load(request.matrix, None)
    say(f"confirming the best settings: {len(matrix.cells)} cells with seeds that no trial has used")
    mode, share_with = copies
    tracker = make_tracker(mode, store, matrix, None, share_with, request.upload_command(mode, share_with))
    return say_failures(compute_cells(request, matrix, store, machine, tracker, quiet=quiet), request)


def _confirmed(result: SweepResult, described: Sweep, store: Store) -> Confirmed | None:
    """Return what the finished cells of the confirmation say, or None if there is none."""
    from sweeps.confirmation import confirmed

    if result.best_path is None:
        return None
    return confirmed(result, described, load(result.best_path, None), store)


def _write_page(result: SweepResult, described: Sweep, confirmation: Confirmed | None, store: Store) -> Path:
    """Write the page of a sweep and return its path."""
    from reports.beside_fid import TextTable
    from reports.figures.search import Search, Trial
    from reports.sweep_page import write_sweep_page
    from sweeps.outcome import short_names

    search = described.settings.search
    names = short_names(search)
    table = None
    if confirmation and confirmation.rows:
        title = f"Confirmation: {confirmation.metric} on val with seeds that no trial has used"
        table = TextTable(title, CONFIRMED, [r.shown() for r in confirmation.rows], [])
    page = Search(
        name=result.name,
        objectives=result.objectives,
        trials=tuple(
            Trial(t.number, t.state, t.values, {names[k]: v for k, v in t.params.items()}, t.seconds)
            for t in result.trials
        ),
        best=result.best,
        pareto=result.pareto,
        importances={m: {names[k]: v for k, v in found.items()} for m, found in result.importances.items()},
        log_scaled=frozenset(names[key] for key, dimension in search.items() if getattr(dimension, "log", False)),
    )
    said = [*result.lines(), *([confirmation.line()] if table and confirmation else [])]
    out = store.root / "reports" / f"sweep-{result.name}"
    return write_sweep_page(page, described.settings.description, table, said, out)[0]


def _print(result: SweepResult, confirmation: Confirmed | None, as_json: bool) -> None:
    """Print the trials, which settings decide, and what was left of the gain."""
    if as_json:
        found: dict[str, Any] = result.as_dict()
        print_json(found | {"confirmed": confirmation.as_dict() if confirmation else None})
        return
    console = stdout_console()
    console.print(result.table())
    for line in result.lines():
        typer.echo(line)
    if confirmation and confirmation.rows:
        console.print(_confirmation_table(confirmation))
        typer.echo(confirmation.line())
    if result.best_path is None:
        typer.echo("no trial finished")
    elif confirmation and confirmation.rows:
        typer.echo(f"its scores on test: bench table {result.best_path}")
    else:
        typer.echo(f"best settings: {result.best_path}; train them again with new seeds: --confirm")


def _confirmation_table(confirmation: Confirmed) -> Table:
    from rich.table import Table

    table = Table(title=f"confirmation: {confirmation.metric} with seeds that no trial has used")
    for name in CONFIRMED:
        table.add_column(name, justify="left" if name == CONFIRMED[0] else "right")
    for row in confirmation.rows:
        table.add_row(*row.shown(), style="bold" if row.row == confirmation.chosen else None)
    return table
