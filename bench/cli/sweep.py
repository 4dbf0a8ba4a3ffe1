"""The verb `sweep`: search for good settings, look at the search, and confirm what it found."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

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
    say,
    stderr_console,
    stdout_to_stderr,
)
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.run.machine_file import Machine
    from bench.store.store import Store

app = typer.Typer()


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
    from bench.cli.show_sweep import confirmed_so_far, print_sweep, write_page
    from sweeps.settings import load_sweep

    if status and (confirm or trials):
        raise ConfigError("--status: computes nothing; leave out --confirm and --trials")
    request, store, overrides = Request(file, sets, store_path), open_store(store_path), tuple(sets or ())
    if status:
        from sweeps.references import found_so_far

        result = found_so_far(file, store, overrides)
    else:
        from bench.run.progress import reporter_for
        from bench.tracking.sender import make_sender, to_stderr
        from sweeps.records import TrialTracker
        from sweeps.study import run_sweep

        command = request.upload_command(wandb, share_with)
        sender = make_sender(store.root, wandb, share_with, None, command, "trials")
        tracker = TrialTracker(load_sweep(file, overrides), store, to_stderr, sender, share_with)
        labels: dict[str, str] = {}
        placement = make_placement(machine)
        reporter = reporter_for(stderr_console(), labels, placement.jobs, quiet, measured_in(store).seconds)
        again = shlex.join(["bench", "sweep", file])
        with stdout_to_stderr(), interruptible(again, lambda: placement.goes_on_alone), reporter.live():
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
        best = replace(request, matrix=result.best_path, sets=None)
        n_failed = _confirm(best, store, machine, (wandb, share_with), quiet, shlex.join(["bench", "sweep", file]))
    described = load_sweep(file, overrides)
    confirmation = confirmed_so_far(result, described, store)
    print_sweep(request, result, confirmation, as_json)
    if report:
        page = write_page(result, described, confirmation, store)
        if not as_json:
            typer.echo(page)
    found_nothing = not status and result.best_path is None and all(t.has_ended for t in result.trials)
    raise typer.Exit(1 if n_failed or found_nothing else 0)


def _confirm(
    request: Request, store: Store, machine: Machine, copies: tuple[str, str | None], quiet: bool, again: str
) -> int:
    """Compute the matrix of the best settings, and return how many of its cells failed.

    `copies` has the mode and the server of `--wandb` and `--share-with`, and `again` the command to go on with.
    """
    from bench.tracking.tracker import make_tracker

    matrix = load(request.matrix, None)
    say(f"confirming the best settings: {len(matrix.cells)} cells with seeds that no trial has used")
    mode, share_with = copies
    tracker = make_tracker(mode, store, matrix, None, share_with, request.upload_command(mode, share_with))
    return say_failures(compute_cells(request, matrix, store, machine, tracker, quiet=quiet, again=again), request)
