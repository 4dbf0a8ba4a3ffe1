"""Placeholders for plugins that cannot be used: their cells fail with the reason, the rest of the matrix runs."""

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
    """Why a plugin cannot be used: one line, and the traceback. It is never part of a key."""

    line: str
    trace: str = ""

    @classmethod
    def of(cls, what: str, error: BaseException) -> Self:
        """Return the reason for an exception; `what` says which part of the plugin raised it."""
        return cls(line=f"{what}: {in_words(error)}", trace="".join(traceback.format_exception(error)))

    def fail(self) -> NoReturn:
        """Raise `PluginError`, with the plugin's own traceback as its cause."""
        raise PluginError(f"{self.line}; mend it and run again") from _RecordedTraceback(self.trace)


class _RecordedTraceback(Exception):
    """An exception that prints a traceback which was recorded earlier."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


class UnusableMethod(Method):
    """Placeholder for a method whose plugin did not import, or raised while its stages were planned.

    Settings and `@value` are kept as written, because without the plugin they cannot be checked.
    """

    name: str  # type: ignore[misc]  # A field here, since one class stands for every broken plugin.
    asked: str
    value: Any = not_semantic(None)
    settings: dict[str, Any] = not_semantic({})
    reason: Reason = not_semantic(...)

    @classmethod
    def of(cls, name: str, value: str | None, settings: dict[str, Any], reason: Reason) -> Self:
        """Return the placeholder for `name@value` with these settings."""
        # The key needs a text: the raw settings may hold any YAML value, and not all of those can be in a key.
        asked = repr((value, settings))
        return cls(name=name, asked=asked, value=value, settings=settings, reason=reason)

    @property
    def label(self) -> str:
        """Return the name and the value, as in the matrix."""
        return self.name if self.value is None else f"{self.name}@{self.value}"

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        """Return the settings of the row as written, so that a resolved matrix file asks for the same method."""
        return self.settings

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Fail with the reason."""
        self.reason.fail()


class UnusableDataset(Dataset):
    """Placeholder for a data set whose plugin did not import."""

    kind: str = ""  # type: ignore[misc]
    sharing: ClassVar[Literal["open", "credentialed"]] = "credentialed"  # Unknown, so assume the stricter one.
    asked: str
    settings: dict[str, Any] = not_semantic({})
    reason: Reason = not_semantic(...)

    @classmethod
    def of(cls, kind: str, settings: dict[str, Any], reason: Reason) -> Self:
        """Return the placeholder for a data set with these settings."""
        return cls(kind=kind, asked=repr(settings), settings=settings, reason=reason)

    @property
    def label(self) -> str:
        """Return the name that the settings give, or the kind."""
        return str(self.settings.get("name") or self.kind)

    @model_serializer(mode="plain")
    def _as_written(self) -> dict[str, Any]:
        return self.settings

    @classmethod
    def stage_name(cls) -> str:
        """Return the name of the folder in the store."""
        return "dataset-unusable"

    def compute(self, work: Work) -> None:
        """Fail with the reason."""
        self.reason.fail()


class UnusableDiagnostics(Stage):
    """Placeholder for diagnostics that raised while they were planned."""

    asked: str
    reason: Reason = not_semantic(...)

    def compute(self, work: Work) -> None:
        """Fail with the reason."""
        self.reason.fail()
