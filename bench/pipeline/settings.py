"""Settings: frozen models that refuse unknown fields, and the mark of fields that never enter a key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

AFFECTS_RESULTS = False


class Settings(BaseModel):
    """A frozen model that refuses unknown fields: the base of stages, methods and every other setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def not_semantic(default: Any, *, word: bool = False, **kwargs: Any) -> Any:
    """Return a pydantic field that never enters a key: where or how fast, not what.

    A text in it is taken for a place on disk, which no report that is passed on names, unless it is a `word`.
    """
    return Field(default, json_schema_extra={"semantic": False, "word": word}, **kwargs)


def is_semantic(info: FieldInfo) -> bool:
    """Tell whether a field of a model enters keys."""
    return bool((info.json_schema_extra or {}).get("semantic", True))  # type: ignore[union-attr]


def place_of(model: BaseModel) -> str:
    """Return where a model looks: its settings that never enter a key. Equal places are one input."""
    cls = type(model)
    given = {name: getattr(model, name) for name, info in cls.model_fields.items() if not is_semantic(info)}
    return f"{cls.__module__}.{cls.__qualname__} {given!r}"
