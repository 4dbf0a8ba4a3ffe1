"""The errors that the harness raises on purpose. Each message is one line.

A message says what is wrong and where, which value was found, which values are allowed, and what the user can do.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

AFFECTS_RESULTS = False


class BenchError(Exception):
    """Base of every error that the harness raises on purpose."""

    exit_code = 2


class ConfigError(BenchError):
    """A request (matrix file, `--set`, command-line value) that cannot be understood or carried out."""


class DataError(BenchError):
    """A file, row or image of a data set that cannot be used."""


class SourceError(DataError, OSError):
    """Pictures that are missing or cannot be read. The run can continue once they are put right.

    It is an `OSError` too, so that the store does not treat the failure as permanent.
    """


class ContractError(BenchError):
    """A method that broke its contract. The message names the method, the rule and what was found."""

    exit_code = 1

    def __init__(self, method: str, rule: str, detail: str) -> None:
        """Build the message `method 'x' broke the contract (rule): detail`."""
        super().__init__(f"method '{method}' broke the contract ({rule}): {detail}")
        self.method, self.rule, self.detail = method, rule, detail


class StageError(BenchError):
    """A stage that failed while it was computed. The cause is chained to this error and recorded in the store."""

    exit_code = 1


class StageBusy(StageError):
    """A stage that another living process was still computing when the waiting time ran out.

    Attributes:
        holder: the process that computes it: host, pid, since, job (the SLURM job id or None), log.
    """

    def __init__(self, message: str, holder: Mapping[str, Any] | None = None) -> None:
        """Keep the message, and the facts about the process that holds the stage."""
        super().__init__(message)
        self.holder = dict(holder or {})


class PluginError(BenchError, ImportError):
    """A plugin that cannot be imported, or that fails while its stages are planned.

    It is an `ImportError` too, so that the store does not treat the failure as permanent.
    """

    exit_code = 1


class BorderError(BenchError):
    """An attempt to share something that must not leave this machine. Nothing was written."""


class StoreError(BenchError):
    """A store that cannot be used because it is not writable, its disk is full, or a result in it is damaged."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Return the sorted names as `a, b, c`; names beyond the first `limit` are only counted."""
    ordered = sorted(names)
    rest = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f", … ({rest} more)" if rest > 0 else "")


def in_words(error: BaseException) -> str:
    """Return an error as one line, `ValueError: message`."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
