"""One thing that was looked at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from bench.errors import in_words


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: its name.
        ok: whether all is well.
        said: the value that was found; or what is wrong, and what to do.
    """

    what: str
    ok: bool
    said: str

    def __str__(self) -> str:
        return f"{'ok' if self.ok else 'WRONG':5} {self.what}: {self.said}"


def guarded(what: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Yield checks; one that breaks is wrong, and must not keep the others from being made."""
    try:
        yield from checks
    except Exception as error:  # a library that is half installed can fail in any way
        yield Check(what, False, in_words(error))
