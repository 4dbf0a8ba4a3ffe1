"""The verbs for the store: `ls` (what it holds), `verify` (whether that is whole), `gc` (remove what nobody needs)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import DEFAULT_STORE, JsonOpt, MatricesArg, QuietOpt, SetOpt, StoreOpt
from bench.cli.session import load, open_existing_store, print_json, progress_bar, say, stdout_console
from bench.errors import ConfigError, listed, nearest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.progress import ProgressColumn

    from bench.data.read_pictures import Changes
    from bench.store.store import Store

app = typer.Typer()


@app.command("ls", epilog="example: bench ls --size")
def list_store(
    store_path: StoreOpt = DEFAULT_STORE,
    size: Annotated[bool, typer.Option("--size", help="Show what takes the space, by kind of stage.")] = False,
    as_json: JsonOpt = False,
) -> None:
    """List the finished stages, or what takes the space."""
    if size:
        from bench.cli.show_store import print_sizes as show
        from bench.store.inventory import size_rows as rows_of
    else:
        from bench.cli.show_status import print_ls as show
        from bench.run.status import ls_rows as rows_of

    rows = rows_of(open_existing_store(store_path))
    if as_json:
        print_json(rows)
    else:
        show(rows, stdout_console())


@app.command(epilog="example: bench verify demo --jobs 4")
def verify(
    matrices: MatricesArg = None,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    jobs: Annotated[
        int | None,
        typer.Option(
            "--jobs",
            "-j",
            min=1,
            metavar="N",
            help="How many results are read at the same time.",
            show_default="number of cores",
        ),
    ] = None,
    delete: Annotated[
        bool, typer.Option("--delete", help="Remove damaged results, so that the next run computes them again.")
    ] = False,
    quiet: QuietOpt = False,
    as_json: JsonOpt = False,
) -> None:
    """Read stored results and compare them with their digests.

    Without a matrix, all results are read. Of tables that are not keyed by their pictures, the pictures are looked up,
    too. The exit code is 1 if any result is damaged or may not be read, or if pictures have changed since they were
    read.
    """
    from bench.cli.show_store import print_damage
    from bench.store.verify import delete_damaged
    from bench.store.verify import verify as look

    store = open_existing_store(store_path)
    keys = _needed_keys(store, matrices, [], sets) if matrices else None
    with progress_bar(quiet, _bytes, "reading") as bar:
        found = look(
            store,
            keys,
            jobs=jobs or len(os.sched_getaffinity(0)),
            on_progress=lambda done, total: bar(done, total, "reading"),
        )
    gone = delete_damaged(store, found) if delete else []
    sources = dict(_changed_sources(store, keys))
    if as_json:
        print_json(
            {
                "stages": found.stages,
                "files": found.files,
                "bytes": found.bytes,
                "damage": [d.as_dict() for d in found.damage],
                "removed": [key for _, key in gone],
                "sources": {name: str(found) for name, found in sources.items()},
            }
        )
    else:
        print_damage(found, stdout_console())
        for name, changed in sources.items():
            typer.echo(f"{name}: {changed}")
    if any(sources.values()):
        say("these tables are whole, but of the old pictures; give the data set another `edition` to read the new ones")
    if found.unreadable():
        say("what may not be read is neither checked nor removed; its owner can allow it: chmod -R g+rX on the store")
    if found.damaged() and not delete:
        say("`bench verify --delete` removes damaged results; then `bench run` computes them again")
    if gone:
        say(f"removed {len(gone)} of {len(found.damaged())} damaged results")
    raise typer.Exit(1 if found.damage or any(sources.values()) else 0)


def _changed_sources(store: Store, keys: set[str] | None) -> Iterator[tuple[str, Changes]]:
    """Yield the name of every table that has a record of its pictures, and what became of these where that is news."""
    from bench.data.read_pictures import changes
    from bench.store.inventory import results

    for stage, key, folder in results(store):
        if keys is None or key in keys:
            found = changes(folder)
            if found is not None and (found or not found.compared):
                yield f"{stage} {key[:8]}", found


def _bytes() -> ProgressColumn:
    from rich.progress import DownloadColumn

    return DownloadColumn(binary_units=True)


@app.command(epilog="example: bench gc demo paper --dry-run")
def gc(
    matrices: MatricesArg = None,
    sweeps: Annotated[
        list[str] | None,
        typer.Option("--sweep", metavar="SWEEP", help="Keep the trials of this sweep; may be repeated."),
    ] = None,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    yes: Annotated[bool, typer.Option("--yes", help="Remove the results, instead of showing them.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed, even with --yes.")] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", metavar="KIND", help="Keep all results of this kind of stage; may be repeated."),
    ] = None,
    older_than: Annotated[
        float, typer.Option(min=0, metavar="DAYS", help="Remove only results that are older than this.")
    ] = 0.0,
    grace: Annotated[
        float, typer.Option(min=0, metavar="HOURS", help="Keep everything that is younger than this.")
    ] = 1.0,
    as_json: JsonOpt = False,
) -> None:
    """Remove results that no named matrix or sweep needs.

    Without --yes nothing is removed, only shown. Other commands may use the store meanwhile; what they need is kept.
    """
    from bench.cli.show_store import print_unwanted
    from bench.store.cleanup import remove, unwanted

    if not matrices and not sweeps:
        raise ConfigError("gc: name every matrix (or --sweep) whose results are to stay; all others' go")
    store = open_existing_store(store_path)
    _check_kinds(store, keep or [])
    needed = _needed_keys(store, matrices or [], sweeps or [], sets)
    going = unwanted(store, needed, grace_s=grace * 3600, older_than_s=older_than * 86400, keep_kinds=keep or [])
    removes = yes and not dry_run
    gone = remove(store, going, needed) if removes else []
    shown = gone if removes else going
    if as_json:
        print_json({"removed": removes, "bytes": sum(e.bytes for e in shown), "items": [e.as_dict() for e in shown]})
    else:
        print_unwanted(shown, removes, stdout_console())
    if removes and len(gone) < len(going):
        say(f"{len(going) - len(gone)} results were kept, because something uses them by now")


def _check_kinds(store: Store, kinds: list[str]) -> None:
    """Refuse a kind of stage that neither the store nor the code has: what was meant would not be kept."""
    from bench.run.slurm.executor import stage_classes
    from bench.store.inventory import results

    if not kinds:
        return
    known = {stage for stage, _, _ in results(store)} | stage_classes().keys()
    for kind in kinds:
        if kind not in known:
            hint = nearest(kind, known)
            raise ConfigError(f"--keep {kind}: no such kind of stage{hint} (have: {listed(sorted(known), 30)})")


def _needed_keys(store: Store, matrices: list[str], sweeps: list[str], sets: list[str] | None) -> set[str]:
    """Return the keys of all stages that the matrices and the sweeps need.

    With `sets`, that is what they need as they are and what they need with those changes.
    """
    from bench.pipeline.stage import walk

    loaded = [load(m, None) for m in matrices] + ([load(m, sets) for m in matrices] if sets else [])
    stages = [s for m in loaded for cell in m.cells for s in cell.targets]
    if sweeps:
        from sweeps.references import stages_of

        stages += [s for path in sweeps for s in stages_of(path, store)]
        stages += [s for path in sweeps if sets for s in stages_of(path, store, sets)]
    needed = walk(stages)
    there = sum(store.has(s) for s in needed)
    say(f"{there} of the {len(needed)} stages that are named are in the store")
    return {s.key for s in needed}
