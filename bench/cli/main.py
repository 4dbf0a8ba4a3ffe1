"""The `bench` command: its verbs under their headings, and the exit code of every error."""

from __future__ import annotations

import os
import re
import sys
from importlib import metadata
from typing import Annotated, Any

import typer

from bench.cli.data import app as data_verbs
from bench.cli.jobs import app as machine_verbs
from bench.cli.results import app as reading_verbs
from bench.cli.run import app as run_verbs
from bench.cli.session import in_one_line, make_streams_safe, say
from bench.cli.store import app as store_verbs
from bench.cli.sweep import app as sweep_verbs
from bench.cli.usage_errors import Context, OneLineGroup
from bench.errors import BenchError
from bench.installed import require_installed

HEADINGS = {
    "Run": (run_verbs, sweep_verbs),
    "Read": (reading_verbs,),
    "Data": (data_verbs,),
    "Store": (store_verbs,),
    "Machine": (machine_verbs,),
}


class VerbGroup(OneLineGroup):
    """Lists the verbs under the headings that `HEADINGS` gives them.

    Typer groups verbs only in its pages made by rich, whose import takes longer than everything else in `bench --help`.
    """

    def format_commands(self, ctx: Context, formatter: Any) -> None:
        """Write one section a heading."""
        width = max(map(len, self.commands))
        for heading in HEADINGS:
            rows = [
                (name.ljust(width), verb.get_short_help_str(formatter.width - width - 6))
                for name, verb in self.commands.items()
                if getattr(verb, "rich_help_panel", None) == heading
            ]
            with formatter.section(heading):
                formatter.write_dl(rows)


app = typer.Typer(
    cls=VerbGroup,
    help=(
        "Compare methods of long-tail image augmentation. A matrix is a YAML file of data sets, methods and seeds: "
        "`bench run` computes its cells into a store, and the other verbs read, check and tidy the store. "
        "To begin: bench run demo"
    ),
    epilog="`bench VERB --help` shows a verb's options and an example. With --debug, errors show their traceback.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _heading, _apps in HEADINGS.items():
    for _verbs in _apps:
        for _verb in _verbs.registered_commands:
            _verb.rich_help_panel = _heading
        app.add_typer(_verbs)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"longtail-bench {metadata.version('longtail-bench')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line. An error that is meant for people becomes one line and an exit code."""
    _keep_docstrings()
    make_streams_safe()
    # Verbs that only read want one thread of numpy, whose import else starts one for every core. Verbs that compute
    # set the threads of all libraries by the machine file and --threads, see `make_machine`.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    try:
        require_installed("methods", "reports", "sweeps")
        app()
    except BenchError as error:
        if debug:
            raise
        say(f"error: {in_one_line(str(error))}")
        sys.exit(error.exit_code)
    except OSError as error:  # a full or forbidden disk; typer itself ends quietly where a pipe is closed
        if debug:
            raise
        say(f"error: {in_one_line(f'{error.filename or type(error).__name__}: {error.strerror or error}')}")
        sys.exit(2)


def _keep_docstrings() -> None:
    """Start this command again without -OO (PYTHONOPTIMIZE=2), under which Python has no docstrings."""
    # The help is made of them, and transformers cannot be imported without them.
    kept = [word for word in sys.orig_argv[1:] if not re.fullmatch("-O+", word)]
    told = os.environ.pop("PYTHONOPTIMIZE", None)
    if sys.flags.optimize > 1 and (told or kept != sys.orig_argv[1:]):  # else it would start again for ever
        os.execv(sys.executable, [sys.executable, *kept])  # noqa: S606 - our own command again
