"""The base class of all settings, and the mark for fields that never enter a key."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

AFFECTS_RESULTS = False


class Settings(BaseModel):
    """A frozen pydantic model that refuses unknown fields. Stages, methods and all other settings derive from it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def is_place(cls, field: str, value: str) -> bool:
        """Tell whether a text in a field is a path on disk. In a matrix file it is relative to the folder of the file.

        By default, texts in the fields of `not_semantic` are, but for those of `word=True`.
        """
        info = cls.model_fields.get(field)
        return bool(value) and info is not None and not is_semantic(info) and not is_word(info)


def not_semantic(default: Any, *, word: bool = False, **kwargs: Any) -> Any:
    """Return a pydantic field that never enters a key, because it says where or how fast something is computed.

    A text in such a field is taken for a place on disk: a relative path counts from the folder of the matrix file, and
    reports for others leave it out. `word=True` says that it is an ordinary word that may be shown.
    """
    return Field(default, json_schema_extra={"semantic": False, "word": word}, **kwargs)


def quoting(default: Any, **kwargs: Any) -> Any:
    """Return a pydantic field, column → cells, that quotes the user's file. Reports for others withhold the cells.

    A cell may be a patient's id, which nobody can tell by its looks: `s7` and `4021` are ids somewhere.
    """
    return Field(default, json_schema_extra={"quotes": True}, **kwargs)


def is_quoting(info: FieldInfo) -> bool:
    """Tell whether a field of a model quotes cells of the user's file."""
    return bool((info.json_schema_extra or {}).get("quotes"))  # type: ignore[union-attr]


def is_semantic(info: FieldInfo) -> bool:
    """Tell whether a field of a model enters keys."""
    return bool((info.json_schema_extra or {}).get("semantic", True))  # type: ignore[union-attr]


PLAIN = frozenset({type(None), bool, int, float, str})  # types of settings below which no model can be


def is_word(info: FieldInfo) -> bool:
    """Tell whether a field outside of keys holds ordinary words, and no place on disk."""
    return bool((info.json_schema_extra or {}).get("word"))  # type: ignore[union-attr]


def place_of(model: BaseModel) -> str:
    """Return a text that stands for where a model looks for its files: its class and the fields outside of keys.

    Two models with equal places read the same input.
    """
    cls = type(model)
    given = {name: getattr(model, name) for name, info in cls.model_fields.items() if not is_semantic(info)}
    return f"{cls.__module__}.{cls.__qualname__} {given!r}"
