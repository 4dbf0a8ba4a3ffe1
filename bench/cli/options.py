"""Arguments and options that several verbs of the command line share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

MatrixArg = Annotated[
    str, typer.Argument(metavar="MATRIX", help="a matrix file, or a shipped one: demo, toy, audit, paper, ...")
]
CellArg = Annotated[str, typer.Argument(metavar="CELL", help="a cell's name or a unique part of it, e.g. ours@5")]
SetOpt = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change one setting of the file")]
StoreOpt = Annotated[Path, typer.Option("--store", envvar="BENCH_STORE", help="folder of results")]
ExecutorOpt = Annotated[
    str | None, typer.Option("--executor", help="inline, processes or slurm [processes where --jobs is more than 1]")
]
MachineOpt = Annotated[
    Path | None, typer.Option("--machine", envvar="BENCH_MACHINE", help="machine file: where and with what jobs run")
]
JobsOpt = Annotated[int | None, typer.Option("--jobs", "-j", help="computations at once [GPUs, else cores]")]
JsonOpt = Annotated[bool, typer.Option("--json", help="print data as JSON on stdout")]
DeviceOpt = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda [auto]")]
ThreadsOpt = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads of one computation; changes rounding [1]")
]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="no progress")]
DEFAULT_STORE = Path("bench-runs")
