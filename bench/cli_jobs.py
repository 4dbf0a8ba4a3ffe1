"""The command line's verbs for what is computing now, its logs, its end, and for whether it can at all."""

from __future__ import annotations

from itertools import chain
from typing import Annotated

import typer

from bench.options import DEFAULT_STORE, CellArg, ExecutorOpt, JsonOpt, MachineOpt, MatrixArg, SetOpt, StoreOpt
from bench.terminal import load, open_store, print_json, say

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
    executor: ExecutorOpt = None,
    machine: MachineOpt = None,
    store: StoreOpt = DEFAULT_STORE,
    wait: Annotated[
        float, typer.Option("--wait", min=0, metavar="SECONDS", help="how long a probe job may wait for its start")
    ] = 120.0,
    as_json: JsonOpt = False,
) -> None:
    """Look for what a run would stumble over: this machine, the store, plugins, and the cluster. Exit 1 if anything."""
    from dataclasses import asdict

    from bench.doctor.here import examine
    from bench.execute.choose import check_executor
    from bench.machine import load_machine

    settings = load_machine(machine)
    chosen = executor or settings.executor or "inline"
    check_executor(chosen)
    settings = settings.model_copy(update={"executor": chosen})
    root = open_store(store).root
    found = []
    checks = [examine(settings, root)]
    if chosen == "slurm":
        from bench.doctor.slurm import examine_slurm

        checks.append(examine_slurm(settings, root, wait))
    for check in chain(*checks):
        found.append(check)
        if not as_json:
            typer.echo(str(check))
    if as_json:
        print_json([asdict(check) for check in found])
    raise typer.Exit(0 if all(check.ok for check in found) else 1)
