"""The result of one check, as `bench doctor` and the audits print it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.errors import in_words

AFFECTS_RESULTS = False


@dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        what: the name of the thing that was checked.
        ok: whether it is in order.
        said: the value that was found; or, if the check failed, what is wrong and what to do.
        warns: whether `said` should be read although nothing is wrong.
    """

    what: str
    ok: bool
    said: str
    warns: bool = False

    def line(self, width: int = 0) -> str:
        """Return the check as one line, with its name in a column `width` characters wide."""
        return (
            f"{'WRONG' if not self.ok else 'NOTE' if self.warns else 'ok':5} {self.what + ':':{width + 1}} {self.said}"
        )


def summary(checks: Sequence[Check]) -> str:
    """Return one line with the number of checks and the names of those that failed or warn."""
    wrong = [check.what for check in checks if not check.ok]
    noted = [check.what for check in checks if check.ok and check.warns]
    told = [
        f"{len(found)} {word}: {'; '.join(found)}" for found, word in ((wrong, "wrong"), (noted, "to note")) if found
    ]
    return f"{len(checks)} things looked at, {', '.join(told) or 'all is well'}"


def guarded(what: str, checks: Iterator[Check]) -> Iterator[Check]:
    """Yield `checks`. If the iterator raises, yield the error as a failed check named `what` instead.

    One group of checks that crashes must not keep the caller from making the other groups.
    """
    try:
        yield from checks
    except Exception as error:  # a half-installed library can fail in any way
        yield Check(what, False, in_words(error))
