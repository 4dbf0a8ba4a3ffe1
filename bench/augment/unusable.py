"""Stand-ins for plugins that cannot be used: their cells fail with the reason, and the rest of the matrix runs."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NoReturn, Self

from pydantic import model_serializer

from bench.augment.method import Context, Method
from bench.data.dataset import Dataset
from bench.errors import PluginError, in_words
from bench.pipeline.settings import Settings, not_semantic
from bench.pipeline.stage import Stage, Work
from bench.tables import AugmentedBatch

AFFECTS_RESULTS = False


class Reason(Settings):
    """Why a plugin cannot be used: in a line, and the traceback. Never part of a key: mending changes what is asked."""

    line: str
    trace: str = ""

    @classmethod
    def of(cls, what: str, error: BaseException) -> Self:
        """Return the reason that an exception is, `what` being the place that raised it."""
        return cls(line=f"{what}: {in_words(error)}", trace="".join(traceback.format_exception(error)))

    def fail(self) -> NoReturn:
        """Raise `PluginError`, the plugin's own traceback above it in the record."""
        raise PluginError(f"{self.line}; mend it and run again") from _Told(self.trace)


class _Told(Exception):
    """Shows a traceback that was written down elsewhere."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class UnusableMethod(Method):
    """Takes the place of a method whose plugin did not import, or broke while its stages were planned.

    Settings and `@value` are kept as written: nobody can tell whether they are right.
    """

    name: str  # type: ignore[misc]  # of each instance its own, for every plugin that is broken
    asked: str
    value: Any = not_semantic(None)
    settings: dict[str, Any] = not_semantic({})
    reason: Reason = not_semantic(...)

    @classmethod
    def of(cls, name: str, value: str | None, settings: dict[str, Any], reason: Reason) -> Self:
        """Return the stand-in for `name@value` with some settings."""
        asked = repr((value, settings))  # whatever YAML can hold: not all of it could stand in a key
        return cls(name=name, asked=asked, value=value, settings=settings, reason=reason)

    @property
    def label(self) -> str:
        """The name and the value, as in the matrix."""
        return self.name if self.value is None else f"{self.name}@{self.value}"

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        """Return the settings of the row, so that a resolved matrix file asks for the same."""
        return self.settings

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Fail with the reason."""
        self.reason.fail()


class UnusableDataset(Dataset):
    """Takes the place of a data set whose plugin did not import."""

    kind: str = ""  # type: ignore[misc]
    sharing: ClassVar[Literal["open", "credentialed"]] = "credentialed"  # whose it is cannot be told
    asked: str
    settings: dict[str, Any] = not_semantic({})
    reason: Reason = not_semantic(...)

    @classmethod
    def of(cls, kind: str, settings: dict[str, Any], reason: Reason) -> Self:
        """Return the stand-in for a data set with some settings."""
        return cls(kind=kind, asked=repr(settings), settings=settings, reason=reason)

    @property
    def label(self) -> str:
        """The name that the settings give, or the kind."""
        return str(self.settings.get("name") or self.kind)

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        return self.settings

    @classmethod
    def stage_name(cls) -> str:
        """Name of the folder in the store."""
        return "dataset-unusable"

    def compute(self, work: Work) -> None:
        """Fail with the reason."""
        self.reason.fail()


class UnusableDiagnostics(Stage):
    """Takes the place of diagnostics that broke while they were planned."""

    asked: str
    reason: Reason = not_semantic(...)

    def compute(self, work: Work) -> None:
        """Fail with the reason."""
        self.reason.fail()
