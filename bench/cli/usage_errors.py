"""Usage errors (a wrong verb, option or value) are told in one line, like every other request that cannot be met."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from bench.errors import ConfigError

# Typer takes these two classes from click, or from a copy of click inside of itself; which of the two depends on
# typer's version, so that neither can be imported by name.
UsageError: Any = typer.BadParameter.__mro__[1]
Context = Any


class OneLineGroup(TyperGroup):
    """A group of verbs that raises a usage error as a `ConfigError`."""

    def make_context(self, *args: Any, **kwargs: Any) -> Context:
        """Read the options that stand before the verb."""
        with _as_config_error():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Context) -> Any:
        """Read the verb's arguments and run it."""
        try:
            with _as_config_error():
                return super().invoke(ctx)
        except KeyboardInterrupt:  # typer would end with 1 and "Aborted!"
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not end our end with a traceback
            typer.echo("stopped", err=True)
            raise typer.Exit(130) from None


@contextmanager
def _as_config_error() -> Iterator[None]:
    try:
        yield
    except UsageError as error:
        if type(error).show is not UsageError.show:  # `bench` without a verb prints the help, which is no error
            raise
        raise ConfigError(_message(error)) from error


def _message(error: Any) -> str:
    """Return `bench run: no such option: --job (see `bench run --help`)` for a usage error."""
    above = error.ctx.parent if error.ctx else None
    verb = f"bench {error.ctx.info_name}" if above else "bench"
    said: str = error.format_message().rstrip(".")
    if hasattr(error.__cause__, "errors"):  # an error of pydantic, whose own text does not quote the value
        from bench.config.validation import told

        said = f"{' / '.join(error.param.opts)}: {told(error.__cause__)}"
    said = said.replace(". Did you mean", "; did you mean")
    return f"{verb}: {said[0].lower()}{said[1:]} (see `{verb} --help`)"
