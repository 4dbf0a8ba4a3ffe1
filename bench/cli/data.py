"""The verbs that say what can be computed: `describe` (a data set) and `methods` (all methods and data sets)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import DEFAULT_STORE, JsonOpt, QuietOpt, SetOpt, StoreOpt
from bench.cli.session import interruptible, open_store, print_json, progress_bar, say, stdout_console
from bench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.progress import ProgressColumn

    from bench.data.dataset import Dataset, KnownLabels
    from bench.store.store import Store
    from bench.tables import ImageTable

app = typer.Typer()


@app.command(epilog="example: bench describe demo --out classes.png")
def describe(
    matrix: Annotated[
        str,
        typer.Argument(
            metavar="MATRIX",
            help="A matrix file, the name of a shipped matrix, or a kind of data set with its settings as --set.",
        ),
    ],
    dataset: Annotated[
        str | None, typer.Option("--dataset", metavar="LABEL", help="Which data set, where a matrix has several.")
    ] = None,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Also draw the classes into this PNG file.")] = None,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Print what a data set holds: parts, classes, patients.

    The data set need not be computed yet. Only counts are printed, nothing of one image or patient.
    """
    from bench.cli.show_data import print_description
    from bench.data.describe import describe as look
    from bench.matrix.load import find_dataset

    if out is not None and (out.suffix.lower() != ".png" or out.is_dir()):
        raise ConfigError(f"--out {out}: want the name of a PNG file, e.g. classes.png")
    chosen, split = find_dataset(matrix, sets or (), dataset)
    store = open_store(store_path)
    with interruptible(f"bench describe {matrix}"), progress_bar(quiet, _count) as on_progress:
        known, folder = _labels(chosen, store, on_progress)
        found = look(chosen, split, known, folder, on_progress)
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


def _labels(
    dataset: Dataset, store: Store, on_progress: Callable[[float, float, str], None]
) -> tuple[ImageTable | KnownLabels, Path | None]:
    """Return what is known of a data set, and the folder of its table if it is computed.

    A data set that cannot name its labels without its table is computed here.
    """
    from bench.store.work import Execution

    known: ImageTable | KnownLabels | None = None if store.has(dataset) else dataset.known_labels()
    if known is None:
        known = store.get(dataset, Execution(on_progress=lambda stage, *done: on_progress(*done)))
    return known, store.folder(dataset) if store.has(dataset) else None


def _count() -> ProgressColumn:
    from rich.progress import TextColumn

    return TextColumn("{task.completed:,.0f}")


@app.command(epilog="example: bench methods --json")
def methods(as_json: JsonOpt = False) -> None:
    """List the methods and data sets that bench has found.

    Plugins that could not be imported are listed too, each with the reason.
    """
    from bench.plugins.registry import broken
    from bench.plugins.registry import datasets as found_datasets
    from bench.plugins.registry import methods as found_methods

    found = {
        "methods": {name: _first_line(cls) for name, cls in found_methods().items()},
        "datasets": {name: _first_line(cls) for name, cls in found_datasets().items()},
        "broken": {b.module: b.reason for b in broken()},
    }
    if as_json:
        print_json(found)
        return
    for group, members in found.items():
        for name, line in members.items():
            typer.echo(f"{group.rstrip('s')} {name}: {line}")


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").partition("\n")[0]
