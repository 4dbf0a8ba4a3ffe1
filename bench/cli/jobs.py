"""The verbs for the machine: `doctor` (can it compute?), `logs` (what did it say?), `cancel` (stop it)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import DEFAULT_STORE, CellArg, JsonOpt, MachineOpt, MatrixArg, SetOpt, StoreOpt
from bench.cli.session import color, load, open_existing_store, open_store, print_json, say
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.checks import Check
    from bench.run.machine_file import Machine
    from bench.store.store import Store

app = typer.Typer()


@app.command(epilog="example: bench doctor demo")
def doctor(
    matrices: Annotated[
        list[str] | None,
        typer.Argument(metavar="MATRIX", help="Matrices whose data and weights are checked too."),
    ] = None,
    sets: SetOpt = None,
    executor: Annotated[
        str | None, typer.Option("--executor", metavar="NAME", help="Check this executor: inline, processes or slurm.")
    ] = None,
    machine_file: MachineOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="SECONDS", help="How long to wait until a probe job has started.")
    ] = 120.0,
    as_json: JsonOpt = False,
) -> None:
    """Check machine, store, cluster, data and weights before a run.

    The exit code is 1 if anything is wrong.
    """
    from dataclasses import asdict

    from bench.checks import summary
    from bench.run.machine_file import load_machine
    from bench.run.placement import check_executor

    machine = load_machine(machine_file)
    chosen = executor or machine.executor or "inline"
    check_executor(chosen)
    machine = machine.model_copy(update={"executor": chosen})
    found = []
    for width, checks in _sections(machine, open_store(store_path), wait, matrices or [], sets or []):
        for check in checks:
            found.append(check)
            if not as_json:  # each line as soon as it is known: a probe job may take minutes
                typer.secho(check.line(width), bold=not check.ok, fg=None if check.ok else "red", color=color())
    if as_json:
        print_json([asdict(check) for check in found])
    else:
        if not matrices:
            typer.echo("Data and weights were not checked. Name a matrix to check them: bench doctor paper")
        typer.echo(summary(found))
    raise typer.Exit(0 if all(check.ok for check in found) else 1)


def _sections(
    machine: Machine, store: Store, wait: float, matrices: list[str], sets: list[str]
) -> Iterator[tuple[int, Iterable[Check]]]:
    """Yield the checks of machine, cluster and each matrix, with the width of their first column.

    A matrix that cannot be understood is refused before the first check.
    """
    from bench.doctor.machine import examine

    if sets and not matrices:
        raise ConfigError("--set: changes a matrix; name one")
    planned = []
    if matrices:
        from bench.matrix.inputs import plan

        planned = [plan(name, sets) for name in matrices]
    yield 18, examine(machine, store.root)
    if machine.executor == "slurm":
        from bench.doctor.slurm import examine_slurm

        yield 18, examine_slurm(machine, store.root, wait)
    for one in planned:
        from bench.doctor.matrix import examine_matrix, examine_tables

        checks = [*examine_matrix(one, machine), *examine_tables(one, store)]
        yield max(len(check.what) for check in checks), checks


@app.command(epilog="example: bench logs demo ours@5 --lines 50")
def logs(
    matrix: MatrixArg,
    cell: CellArg,
    stage: Annotated[
        str | None, typer.Option(metavar="NAME", help="Print the log of the stage with this name, e.g. classifier.")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Print the logs of all stages of the cell.")] = False,
    lines: Annotated[
        int,
        typer.Option("--lines", "-n", min=1, metavar="N", help="How many lines of each log to print, from its end."),
    ] = 200,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
) -> None:
    """Print the log of a cell's failed, running or last stage."""
    from bench.run.jobs import logs_of

    found = logs_of(load(matrix, sets).cell(cell), open_existing_store(store_path), stage, every)
    for path, why in found:
        say(f"==> {path} ({why})")
        with open(path, encoding="utf-8", errors="replace") as handle:
            typer.echo("".join(handle.readlines()[-lines:]).rstrip("\n"))


@app.command(epilog="example: bench cancel demo")
def cancel(
    matrix: MatrixArg,
    cell: Annotated[str | None, typer.Argument(metavar="CELL", help="Stop this cell's stages alone.")] = None,
    sets: SetOpt = None,
    store_path: StoreOpt = DEFAULT_STORE,
    as_json: JsonOpt = False,
) -> None:
    """Stop the processes and SLURM jobs that compute a matrix.

    Finished stages and checkpoints are kept. Processes are stopped on this machine alone.
    """
    from bench.run.jobs import cancel_stages

    loaded = load(matrix, sets)
    cells = [loaded.cell(cell)] if cell else list(loaded.cells)
    others = [s for c in loaded.cells if c not in cells for s in c.targets]
    done = cancel_stages([s for c in cells for s in c.targets], open_existing_store(store_path), others)
    if as_json:
        print_json(done)
        return
    for line in done["left"]:
        say(f"not stopped: {line}")
    typer.echo(f"cancelled {len(done['jobs'])} SLURM jobs, stopped {len(done['processes'])} processes")
