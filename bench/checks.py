"""One thing that was looked at."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.errors import in_words

AFFECTS_RESULTS = False


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

    def line(self, width: int = 0) -> str:
        """Return it as a line, what was looked at in a column `width` letters wide."""
        return f"{'ok' if self.ok else 'WRONG':5} {self.what + ':':{width + 1}} {self.said}"


def summary(checks: Sequence[Check]) -> str:
    """Return how many things were looked at, and the names of those that are wrong."""
    wrong = [check.what for check in checks if not check.ok]
    told = f"{len(wrong)} wrong: {'; '.join(wrong)}" if wrong else "all is well"
    return f"{len(checks)} things looked at, {told}"


def guarded(what: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Yield checks; one that breaks is wrong, and must not keep the others from being made."""
    try:
        yield from checks
    except Exception as error:  # a library that is half installed can fail in any way
        yield Check(what, False, in_words(error))
