"""What the command line says to a command that it does not understand: one line, like to every other bad request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup

from bench.errors import ConfigError

# typer has this class from click, or a copy of click's inside of itself, by its version
_UsageError: Any = typer.BadParameter.__mro__[1]


class OneLineGroup(TyperGroup):
    """A group of commands whose usage errors are `ConfigError`s."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Read the options of the group."""
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: Any) -> Any:
        """Read the command's arguments and run it."""
        with _in_one_line():
            return super().invoke(ctx)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except _UsageError as error:
        if type(error).show is not _UsageError.show:  # `bench` alone: the help is no error
            raise
        raise ConfigError(_told(error)) from error


def _told(error: Any) -> str:
    above = error.ctx.parent if error.ctx else None
    verb = f"bench {error.ctx.info_name}" if above else "bench"
    said: str = error.format_message().rstrip(".")
    if hasattr(error.__cause__, "errors"):  # pydantic's, which typer quotes without what was got
        from bench.validation import told

        said = f"{' / '.join(error.param.opts)}: {told(error.__cause__)}"
    said = said.replace(". Did you mean", "; did you mean")
    return f"{verb}: {said[0].lower()}{said[1:]} (see `{verb} --help`)"
