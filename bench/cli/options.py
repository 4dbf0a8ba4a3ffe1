"""Arguments and options that several verbs share, with their help, and a request that is made of three of them."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

MatrixArg = Annotated[
    str,
    typer.Argument(
        metavar="MATRIX", help="A matrix file, or the name of a shipped matrix: demo, toy, audit, paper, ..."
    ),
]
MatricesArg = Annotated[
    list[str] | None, typer.Argument(metavar="MATRIX", help="Matrix files, or names of shipped matrices.")
]
CellArg = Annotated[
    str, typer.Argument(metavar="CELL", help="A cell's name, or a part of it that no other cell has, e.g. ours@5.")
]
SetOpt = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one setting of the file; may be repeated."),
]
StoreOpt = Annotated[
    Path, typer.Option("--store", metavar="FOLDER", envvar="BENCH_STORE", help="The folder that holds all results.")
]
ExecutorOpt = Annotated[
    str | None,
    typer.Option(
        "--executor",
        metavar="NAME",
        help="How stages are computed: inline, processes or slurm. Without it: inline for one job, else processes.",
    ),
]
MachineOpt = Annotated[
    Path | None,
    typer.Option(
        "--machine",
        metavar="FILE",
        envvar="BENCH_MACHINE",
        help="A machine file: where stages are computed and what SLURM jobs get.",
    ),
]
JobsOpt = Annotated[
    int | None,
    typer.Option(
        "--jobs",
        "-j",
        metavar="N",
        help="How many stages are computed at the same time.",
        show_default="number of GPUs, else cores",
    ),
]
DeviceOpt = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="NAME",
        help="The device that computes: auto, cpu, mps, cuda or cuda:0.",
        show_default="auto",
    ),
]
ThreadsOpt = Annotated[
    int | None,
    typer.Option(
        "--threads",
        min=1,
        metavar="N",
        help="CPU threads of each computation. Another number rounds results differently.",
        show_default="1",
    ),
]
WandbOpt = Annotated[
    str,
    typer.Option("--wandb", metavar="MODE", help="Copy what has ended to Weights & Biases: offline, online, off."),
]
ShareWithOpt = Annotated[
    str | None,
    typer.Option(metavar="HOST", help="Your own W&B server, if results go there online: it may get credentialed data."),
]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
QuietOpt = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress.")]
DEFAULT_STORE = Path("bench-runs")


@dataclass(frozen=True)
class Request:
    """The results that a person asks for: a matrix, its changes, a store. Other verbs for them repeat all three."""

    matrix: str
    sets: list[str] | None
    store_path: Path

    def command(self, verb: str, *more: str, sets: list[str] | None = None) -> str:
        """Return `bench VERB MATRIX` for these results, to be pasted into a shell.

        The store is named only where the verb would take another one without it.

        Args:
            verb: the verb.
            more: further words, after the matrix.
            sets: instead of the request's own `--set`.
        """
        words = ["bench", verb, self.matrix, *more]
        words += [word for change in (sets or self.sets or []) for word in ("--set", change)]
        if self.store_path != Path(os.environ.get("BENCH_STORE") or DEFAULT_STORE):
            words += ["--store", str(self.store_path)]
        return shlex.join(words)

    def upload_command(self, mode: str, share_with: str | None) -> str:
        """Return the `bench upload` that sends what W&B lacks of these results, as `bench run --wandb MODE` would."""
        more = ["--wandb", mode] if mode == "offline" else []
        more += ["--share-with", share_with] if share_with else []
        return self.command("upload", *more)
