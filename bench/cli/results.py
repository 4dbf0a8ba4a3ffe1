"""The verbs that read results: `table`, `status`, `explain`, `report`, `effects`, `upload`, `dashboard`.

None computes anything.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import (
    DEFAULT_STORE,
    CellArg,
    JsonOpt,
    MatrixArg,
    QuietOpt,
    Request,
    SetOpt,
    ShareWithOpt,
    StoreOpt,
)
from bench.cli.session import interruptible, load, open_store, print_json, progress_bar, say, stdout_console
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.store.store import Store
    from bench.tracking.upload import Uploaded

OnSent = Callable[[int, int], object]
MatrixOrSweepArg = Annotated[
    str, typer.Argument(metavar="MATRIX|SWEEP", help="A matrix or a sweep: a file, or the name of a shipped one.")
]
app = typer.Typer()


@app.command(epilog="example: bench table demo --notes")
def table(
    matrix: MatrixArg,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    notes: Annotated[
        bool, typer.Option("--notes", help="Also print the verdicts with their numbers, and every footnote.")
    ] = False,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="NAME",
            help="Another figure, such as auroc, f1, calibration_error or recall_tail; may be repeated.",
        ),
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Print the table of results beside the poster's numbers.

    Rows that are not finished are in it too, each with the reason.
    """
    from bench.results.cells import read_matrix

    loaded, store = load(matrix, sets), open_store(store_path)
    results = read_matrix(loaded, store)
    if as_json:
        from bench.results.table import table as rows
        from reports.beside_map import metric_keys

        print_json(rows(results, metric_keys(results, metrics or ())))
    else:
        from bench.cli.show_table import figures_of, print_table

        figures = figures_of(results, metrics or ())  # which may refuse a name: before anything is printed
        print_table(Request(matrix, sets, store_path), loaded, results, store, stdout_console(), notes, figures)


@app.command(epilog="example: bench status demo")
def status(
    matrix: MatrixArg, sets: SetOpt = None, store_path: StoreOpt = DEFAULT_STORE, as_json: JsonOpt = False
) -> None:
    """Show which cells are done, running, failed or missing.

    The store alone answers, so that any machine that sees the store can ask.
    """
    from bench.cli.show_status import print_status
    from bench.run.status import status_rows

    rows = status_rows(load(matrix, sets), open_store(store_path))
    if as_json:
        print_json(rows)
    else:
        print_status(rows, Request(matrix, sets, store_path), stdout_console())


@app.command(epilog="example: bench explain demo ours@5")
def explain(
    matrix: MatrixArg,
    cell: CellArg,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    as_json: JsonOpt = False,
) -> None:
    """Show which stages of a cell would run or be reused, and why.

    A stage that failed is shown with its traceback.
    """
    from bench.cli.show_status import print_explain
    from bench.run.explain import explain_rows

    loaded = load(matrix, sets)
    rows = explain_rows(loaded.cell(cell), open_store(store_path))
    if as_json:
        print_json(rows)
    else:
        print_explain(loaded.cell(cell), rows, stdout_console())


@app.command(epilog="example: bench report demo --out demo-report")
def report(
    matrix: MatrixArg,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="The folder to write.", show_default="STORE/reports/MATRIX")
    ] = None,
    share: Annotated[
        bool,
        typer.Option("--share", help="Write a report to pass on: of credentialed data it has aggregates alone."),
    ] = False,
) -> None:
    """Write tables, figures and one page that holds them all.

    The tables are Markdown, LaTeX, CSV and HTML. The path of the page is printed first.
    """
    from bench.results.cells import read_matrix
    from reports.report import write_report

    loaded, store = load(matrix, sets), open_store(store_path)
    folder = out or store.root / "reports" / (f"{loaded.name}-shared" if share else loaded.name)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--out {folder}: is a file; give a folder")
    results = read_matrix(loaded, store)
    try:
        paths = write_report(loaded, results, store, folder, share=share)
    except OSError as error:
        raise ConfigError(f"--out {folder}: cannot be written: {error.strerror}; give another folder") from error
    for path in paths:
        typer.echo(path)


@app.command(epilog="example: bench effects demo --column map_tail")
def effects(
    matrix: MatrixArg,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    columns: Annotated[
        list[str] | None, typer.Option("--column", metavar="NAME", help="A figure to compare; may be repeated.")
    ] = None,
    as_json: JsonOpt = False,
) -> None:
    """Print how rows differ from the controls, with intervals.

    Differences are paired by seed. A row that names another row (`against`) is compared with that one instead.
    """
    from bench.results.cells import read_matrix
    from reports.effects import effects_rows, effects_table

    loaded, store = load(matrix, sets), open_store(store_path)
    results = read_matrix(loaded, store)
    if as_json:
        print_json(effects_rows(loaded, results, store, columns))
    else:
        stdout_console().print(effects_table(loaded, results, store, columns))


@app.command(epilog="example: bench upload demo")
def upload(
    matrix: MatrixOrSweepArg,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    wandb: Annotated[
        str,
        typer.Option(metavar="MODE", help="Send it (online), or write the offline copies that are missing (offline)."),
    ] = "online",
    share_with: ShareWithOpt = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Send to Weights & Biases what it lacks of a matrix or of a sweep.

    Every finished cell or trial is sent that the server does not have whole, also if a run with --wandb offline or off
    made it. The server is asked afterwards. The exit code is 1 if it lacks something then.
    """
    from rich.progress import MofNCompleteColumn

    from sweeps.settings import is_sweep

    request, store = Request(matrix, sets, store_path), open_store(store_path)
    command = request.upload_command(wandb, share_with)
    what, send = ("trial", _upload_trials) if is_sweep(matrix) else ("cell", _upload_cells)
    with interruptible(command), progress_bar(quiet, MofNCompleteColumn, "sending") as bar:
        found = send(request, store, wandb, share_with, lambda done, total: bar(done, total, "sending"))
    if as_json:
        print_json(found.as_dict())
    else:
        typer.echo(found.in_words(what))
    raise typer.Exit(1 if found.lacking else 0)


def _upload_cells(request: Request, store: Store, mode: str, share_with: str | None, on_progress: OnSent) -> Uploaded:
    """Send what W&B lacks of a matrix."""
    from bench.tracking.tracker import WandbTracker, make_tracker
    from bench.tracking.upload import upload as send

    loaded = load(request.matrix, request.sets)
    tracker = make_tracker(mode, store, loaded, say, share_with, request.upload_command(mode, share_with))
    if not isinstance(tracker, WandbTracker):
        raise ConfigError(f"--wandb {mode}: nothing would be sent; give online or offline")
    return send(tracker, loaded, on_progress)


def _upload_trials(request: Request, store: Store, mode: str, share_with: str | None, on_progress: OnSent) -> Uploaded:
    """Send what W&B lacks of a sweep."""
    from bench.tracking.sender import make_sender
    from bench.tracking.upload import finish
    from sweeps.records import TrialTracker
    from sweeps.references import found_so_far
    from sweeps.settings import load_sweep

    command = request.upload_command(mode, share_with)
    sender = make_sender(store.root, mode, share_with, say, command, "trials")
    if sender is None:
        raise ConfigError(f"--wandb {mode}: nothing would be sent; give online or offline")
    tracker = TrialTracker(load_sweep(request.matrix, request.sets or ()), store, say, sender, share_with)
    found = found_so_far(request.matrix, store, request.sets or ())
    store.require_writable()  # else it could not be remembered what was sent
    n = tracker.ended(found)
    return finish(sender, n, len(found.trials) - n, on_progress)


@app.command(epilog="example: bench dashboard demo --dry-run")
def dashboard(
    matrix: MatrixOrSweepArg,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    entity: Annotated[
        str | None, typer.Option(metavar="NAME", help="The owner of the project.", show_default="as uploaded")
    ] = None,
    project: Annotated[
        str | None, typer.Option(metavar="NAME", help="The project to save in.", show_default="as uploaded")
    ] = None,
    share_with: ShareWithOpt = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print as JSON what would be saved, and contact nobody.")
    ] = False,
    as_json: JsonOpt = False,
) -> None:
    """Save panels and a report at W&B that compare rows or trials.

    The runs must have been uploaded. What an earlier call has saved there is replaced.
    """
    from bench.cli.show_dashboard import dry_run as look
    from bench.cli.show_dashboard import save_and_tell

    request, store = Request(matrix, sets, store_path), open_store(store_path)
    if dry_run:
        if entity or project:
            raise ConfigError("--dry-run: names no project, since nothing is saved; leave out --entity and --project")
        print_json(look(request, store, share_with))
        return
    with interruptible(request.command("dashboard")):
        saved = save_and_tell(request, store, entity, project, share_with)
    if as_json:
        print_json(saved)
    else:
        for one in (*saved["workspaces"], saved["report"]):
            typer.echo(f"{one['was']} {one['name']}: {one['url']}")
