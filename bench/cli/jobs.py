"""The command line's verbs for what is computing now, its logs, its end, and for whether it can at all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.options import DEFAULT_STORE, CellArg, ExecutorOpt, JsonOpt, MachineOpt, MatrixArg, SetOpt, StoreOpt
from bench.cli.session import load, open_store, print_json, say
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench.doctor.check import Check
    from bench.machine import Machine

app = typer.Typer()


@app.command()
def logs(
    matrix: MatrixArg,
    cell: CellArg,
    stage: Annotated[
        str | None, typer.Option(help="one stage by its name, e.g. classifier [the one in question]")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="all stages of the cell")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="last lines of each log")] = 200,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
) -> None:
    """Print what a cell's computations said: of the stage that failed, that runs, or that ran last."""
    from bench.jobs import logs_of

    found = logs_of(load(matrix, sets).cell(cell), open_store(store), stage, every)
    for path, why in found:
        say(f"==> {path} ({why})")
        with open(path, encoding="utf-8", errors="replace") as handle:
            typer.echo("".join(handle.readlines()[-lines:]).rstrip("\n"))


@app.command()
def cancel(
    matrix: MatrixArg,
    cell: Annotated[str | None, typer.Argument(metavar="[CELL]", help="only this cell's stages")] = None,
    sets: SetOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    as_json: JsonOpt = False,
) -> None:
    """Stop what computes a matrix: its SLURM jobs, and its processes on this machine. What is finished is kept."""
    from bench.jobs import cancel_stages

    loaded = load(matrix, sets)
    cells = [loaded.cell(cell)] if cell else list(loaded.cells)
    others = [s for c in loaded.cells if c not in cells for s in c.targets]
    done = cancel_stages([s for c in cells for s in c.targets], open_store(store), others)
    if as_json:
        print_json(done)
        return
    for line in done["left"]:
        say(f"not stopped: {line}")
    typer.echo(f"cancelled {len(done['jobs'])} SLURM jobs, stopped {len(done['processes'])} processes")


@app.command()
def doctor(
    matrices: Annotated[
        list[str] | None, typer.Argument(metavar="[MATRIX]...", help="whose data and weights to look at as well")
    ] = None,
    sets: SetOpt = None,
    executor: ExecutorOpt = None,
    machine: MachineOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="SECONDS", help="how long a probe job may wait for its start")
    ] = 120.0,
    as_json: JsonOpt = False,
) -> None:
    """Look for what a run would stumble over: machine, store, plugins, cluster, data, weights. Exit 1 if anything."""
    from dataclasses import asdict

    from bench.doctor.check import summary
    from bench.execute.choose import check_executor
    from bench.machine import load_machine

    settings = load_machine(machine)
    chosen = executor or settings.executor or "inline"
    check_executor(chosen)
    settings = settings.model_copy(update={"executor": chosen})
    found = []
    for width, checks in _looks(settings, open_store(store).root, wait, matrices or [], sets or []):
        for check in checks:
            found.append(check)
            if not as_json:
                typer.secho(check.line(width), bold=not check.ok, fg=None if check.ok else "red")
    if as_json:
        print_json([asdict(check) for check in found])
    else:
        if not matrices:
            typer.echo("of data and weights nothing was looked at: name a matrix, e.g. `bench doctor paper --set ...`")
        typer.echo(summary(found))
    raise typer.Exit(0 if all(check.ok for check in found) else 1)


def _looks(
    machine: Machine, root: Path, wait: float, matrices: list[str], sets: list[str]
) -> Iterator[tuple[int, Iterable[Check]]]:
    """Yield the parts of the page, each with the width of its first column; typing errors are raised before any."""
    from bench.doctor.here import examine

    if sets and not matrices:
        raise ConfigError("--set: changes a matrix; name one")
    planned = []
    if matrices:
        from bench.inputs import plan

        planned = [plan(name, sets) for name in matrices]
    yield 18, examine(machine, root)
    if machine.executor == "slurm":
        from bench.doctor.slurm import examine_slurm

        yield 18, examine_slurm(machine, root, wait)
    for one in planned:
        from bench.doctor.matrix import examine_matrix

        checks = list(examine_matrix(one, machine))
        yield max(len(check.what) for check in checks), checks
