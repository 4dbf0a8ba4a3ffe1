"""The command line's verbs for the store: what it holds."""

from __future__ import annotations

import typer

from bench.options import DEFAULT_STORE, JsonOpt, StoreOpt
from bench.terminal import open_store, print_json, stdout_console

app = typer.Typer()


@app.command("ls")
def list_store(store: StoreOpt = DEFAULT_STORE, as_json: JsonOpt = False) -> None:
    """List the finished stages of the store."""
    from bench.status import ls_rows, print_ls

    rows = ls_rows(open_store(store))
    if as_json:
        print_json(rows)
    else:
        print_ls(rows, stdout_console())
