"""The command line's verb for data sets: what one holds, before and after it is computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.options import DEFAULT_STORE, JsonOpt, QuietOpt, SetOpt, StoreOpt
from bench.cli.session import interruptible, open_store, print_json, say, stderr_console, stdout_console
from bench.errors import ConfigError

app = typer.Typer()


@app.command()
def describe(
    matrix: Annotated[
        str, typer.Argument(help="a matrix file, a shipped one, or a kind of data set with its settings as --set")
    ],
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="LABEL", help="which [the only one]")] = None,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(help="also draw it: a PNG file to write")] = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Print what a data set (of a matrix, or by its kind) holds: parts, counts, co-occurrence, patients, pictures."""
    from bench.describe import describe as look
    from bench.describe import find_dataset, print_description

    if out is not None and (out.suffix.lower() != ".png" or out.is_dir()):
        raise ConfigError(f"--out {out}: want the name of a PNG file, e.g. classes.png")
    chosen, split = find_dataset(matrix, sets or (), dataset)
    place = open_store(store)
    with interruptible(f"bench describe {matrix}"), _bar(quiet) as tell:
        found = look(chosen, split, place, tell)
    if as_json:
        print_json(found)
    else:
        print_description(found, stdout_console())
    if out is not None:
        from reports.figures.describe import write_figure

        try:
            write_figure(found, out)
        except OSError as error:
            raise ConfigError(f"--out {out}: cannot be written: {error.strerror}; give another file") from error
        say(f"drawn: {out}")


@contextlib.contextmanager
def _bar(quiet: bool) -> Iterator[Callable[[float, float, str], None]]:
    """Show a bar with an ETA on stderr where that is a terminal."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,.0f}"),
        TimeRemainingColumn(),
    )
    console = stderr_console()
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total, note: bar.update(task, completed=done, total=total, description=note)
