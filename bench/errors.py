"""Errors with one clear line each: what, where, what was got, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

AFFECTS_RESULTS = False


class BenchError(Exception):
    """Base of every error that the harness raises on purpose."""

    exit_code = 2


class ConfigError(BenchError):
    """A request (matrix file, `--set`, command-line value) that cannot be understood or met."""


class DataError(BenchError):
    """A data set's file, row or image that cannot be used."""


class SourceError(DataError, OSError):
    """Pictures that are not where a data set says, or cannot be read; mending them is enough to go on."""


class ContractError(BenchError):
    """A method that broke its contract: names the method, the rule and what was seen."""

    exit_code = 1

    def __init__(self, method: str, rule: str, detail: str) -> None:
        """Compose the line `method 'x' broke the contract (rule): detail`."""
        super().__init__(f"method '{method}' broke the contract ({rule}): {detail}")
        self.method, self.rule, self.detail = method, rule, detail


class StageError(BenchError):
    """A stage that failed while computing; the cause is chained and recorded in the store."""

    exit_code = 1


class StageBusy(StageError):
    """A stage that a living process was still computing when the time to wait for it was over.

    Attributes:
        holder: who: host, pid, since, job (SLURM's id or None), log.
    """

    def __init__(self, message: str, holder: Mapping[str, Any] | None = None) -> None:
        """Keep who holds the stage beside the line that says it."""
        super().__init__(message)
        self.holder = dict(holder or {})


class PluginError(BenchError, ImportError):
    """A plugin that does not import, or breaks where its stages are planned; mending it is enough to go on."""

    exit_code = 1


class BorderError(BenchError):
    """Something that may not leave was about to; nothing was written."""


class StoreError(BenchError):
    """A store that cannot be used: not writable, full, or holding a damaged artefact."""


def nearest(name: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` for the closest allowed name, or an empty string."""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Return names as `a, b, c` (sorted, shortened past `limit`)."""
    ordered = sorted(names)
    rest = len(ordered) - limit
    return ", ".join(ordered[:limit]) + (f", … ({rest} more)" if rest > 0 else "")


def in_words(error: BaseException) -> str:
    """Return `ValueError: what it says` without line breaks."""
    return " ".join(f"{type(error).__name__}: {error}".split()).removesuffix(":")
