"""The command line's verbs for the store: what it holds, whether that is whole, what of it may go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import DEFAULT_STORE, JsonOpt, QuietOpt, SetOpt, StoreOpt
from bench.cli.session import load, open_store, print_json, say, stderr_console, stdout_console
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.store import Store

app = typer.Typer()
MatricesArg = Annotated[list[str] | None, typer.Argument(metavar="MATRIX...", help="matrix files, or shipped ones")]


@app.command("ls")
def list_store(
    store: StoreOpt = DEFAULT_STORE,
    size: Annotated[bool, typer.Option("--size", help="what takes the space, by kind")] = False,
    as_json: JsonOpt = False,
) -> None:
    """List the finished stages of the store, or what takes its space."""
    if size:
        from bench.cli.show_store import print_sizes as show
        from bench.inventory import size_rows as rows_of
    else:
        from bench.status import ls_rows as rows_of
        from bench.status import print_ls as show

    rows = rows_of(open_store(store))
    if as_json:
        print_json(rows)
    else:
        show(rows, stdout_console())


@app.command()
def verify(
    matrices: MatricesArg = None,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    jobs: Annotated[int | None, typer.Option("--jobs", "-j", min=1, help="results read at once [cores]")] = None,
    delete: Annotated[bool, typer.Option("--delete", help="remove damaged results; the next run makes them")] = False,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Read every result (of the matrices, if any are named) and compare it with its digests; exit 1 at damage."""
    from bench.cli.show_store import print_damage
    from bench.verify import delete_damaged
    from bench.verify import verify as look

    place = open_store(store)
    keys = _referenced(place, matrices, [], sets) if matrices else None
    with _bytes_bar(quiet) as on_progress:
        found = look(place, keys, jobs=jobs or len(os.sched_getaffinity(0)), on_progress=on_progress)
    gone = delete_damaged(place, found) if delete else []
    if as_json:
        told: dict[str, Any] = {"stages": found.stages, "files": found.files, "bytes": found.bytes}
        print_json(told | {"damage": [d.as_dict() for d in found.damage], "removed": [key for _, key in gone]})
    else:
        print_damage(found, stdout_console())
    if found.damage and not delete:
        say("`bench verify --delete` removes the damaged results; `bench run` then computes them anew")
    if gone:
        say(f"removed {len(gone)} of {len(found.damaged())} damaged results")
    raise typer.Exit(1 if found.damage else 0)


@app.command()
def gc(
    matrices: MatricesArg = None,
    sweeps: Annotated[
        list[str] | None, typer.Option("--sweep", help="keep this sweep's trials; may be given often")
    ] = None,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="remove; without it only what would go is shown")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would go (as without --yes)")] = False,
    keep: Annotated[list[str] | None, typer.Option("--keep", metavar="KIND", help="keep all results of a kind")] = None,
    older_than: Annotated[float, typer.Option(min=0, metavar="DAYS", help="only results older than this")] = 0.0,
    grace: Annotated[float, typer.Option(min=0, metavar="HOURS", help="whatever is younger stays")] = 1.0,
    as_json: JsonOpt = False,
) -> None:
    """Remove what no named matrix or sweep stands on. Safe beside running ones; shows what would go unless --yes."""
    from bench.cli.show_store import print_unwanted
    from bench.housekeeping import remove, unwanted

    if not matrices and not sweeps:
        raise ConfigError("gc: name every matrix (or --sweep) whose results are to stay; all others' go")
    place = open_store(store)
    wanted = _referenced(place, matrices or [], sweeps or [], sets)
    kinds = keep or []
    going = unwanted(place, wanted, grace_s=grace * 3600, older_than_s=older_than * 86400, keep_kinds=kinds)
    acts = yes and not dry_run
    gone = remove(place, going, wanted) if acts else []
    shown = gone if acts else going
    if as_json:
        print_json({"removed": acts, "bytes": sum(e.bytes for e in shown), "items": [e.as_dict() for e in shown]})
    else:
        print_unwanted(shown, acts, stdout_console())
    if acts and len(gone) < len(going):
        say(f"{len(going) - len(gone)} came into use meanwhile and stay")


def _referenced(store: Store, matrices: list[str], sweeps: list[str], sets: list[str] | None) -> set[str]:
    """Return the keys of all that the matrices (as they are, and with the changes) and the sweeps stand on."""
    from bench.stage import walk

    loaded = [load(m, None) for m in matrices] + ([load(m, sets) for m in matrices] if sets else [])
    stages = [s for m in loaded for cell in m.cells for s in cell.targets]
    if sweeps:
        from sweeps.references import stages_of

        stages += [s for path in sweeps for s in stages_of(path, store)]
        stages += [s for path in sweeps if sets for s in stages_of(path, store, sets)]
    everything = walk(stages)
    there = sum(store.has(s) for s in everything)
    say(f"{there} of the {len(everything)} stages that are named are in the store")
    return {s.key for s in everything}


@contextlib.contextmanager
def _bytes_bar(quiet: bool) -> Iterator[Callable[[int, int], Any]]:
    """Show a bar with bytes and an ETA on stderr where that is a terminal."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("reading"), BarColumn(), DownloadColumn(binary_units=True), TimeRemainingColumn())
    with Progress(*columns, console=stderr_console(), transient=True, disable=quiet) as bar:
        task = bar.add_task("", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
