"""Decide which words may pass the border. A word that looks like a place on disk or like somebody's id may not."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, TypeVar

from pydantic import BaseModel

from bench.pipeline.key import content_of
from bench.pipeline.settings import is_quoting, is_semantic, is_word

M = TypeVar("M", bound=BaseModel)

WITHHELD = "withheld"

_SEPARATOR = re.compile(r"[/\\]|^~|^[A-Za-z]:")
_ABSOLUTE = re.compile(r"(?:^|[\s'\"(=:,])(?:~|[A-Za-z]:)?[/\\]|[/\\][^/\\]*[/\\]|[A-Za-z]:\\")
_FILE = re.compile(
    r"\.(?:jpe?g|png|dcm|dicom|tiff?|bmp|gif|webp|nii|csv|tsv|txt|json|ya?ml|npy|npz|parquet|pkl|pth?|ckpt|gz|zip|tar|"
    r"safetensors|log|py)(?![A-Za-z0-9])",
    re.IGNORECASE,
)
_UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4,8}){2,}", re.IGNORECASE)  # MIMIC-CXR-JPG names its pictures like this
_UID = re.compile(r"\d+(?:\.\d+){4,}")  # a DICOM UID
_DIGEST = re.compile(r"(?<![0-9A-Za-z])(?=[0-9]*[a-f])[0-9a-f]{8,64}(?![0-9A-Za-z])")
_LONG_NUMBER = re.compile(r"\d{6,}")
_SEED = re.compile(r"(?:^|[._])seeds?(?:$|\.)")  # seeds are long whole numbers too, but they identify nobody
_MOST_DIGITS = 7  # a whole number with more digits may be an id: MIMIC-CXR's patients and studies have eight


def is_plain(text: str) -> bool:
    """Tell whether a text is a single line and holds nothing that looks like a path, a file or an id."""
    return not _SEPARATOR.search(text) and _is_nobody(text)


def is_name(text: str) -> bool:
    """Tell whether the name of a class or row is harmless. It may hold one slash that means `or`: `Nodule/Mass`."""
    return not _ABSOLUTE.search(text) and _is_nobody(text)


def _is_nobody(text: str) -> bool:
    if not (text.isprintable() or not text) or _FILE.search(text) or _UUID.search(text) or _UID.search(text):
        return False
    # Our own digests hold long runs of digits and are harmless. They are taken out first.
    return not _LONG_NUMBER.search(_DIGEST.sub("", text))


def plain_words(text: str) -> str:
    """Return a sentence in which every word that is not plain (see `is_plain`) is replaced."""
    return " ".join(word if is_plain(word) else WITHHELD for word in text.split())


def without_paths(text: str) -> str:
    """Return a sentence in which every word that looks like a path is replaced, and nothing else."""
    return " ".join(WITHHELD if _ABSOLUTE.search(word) else word for word in text.split())


def plain(value: Any, name: str = "") -> Any:
    """Return a copy of a JSON tree without anything that looks like a path, a file or an id.

    Texts that are not plain are replaced. Entries whose names are not harmless are left out. Whole numbers that are as
    long as an id are replaced too, except seeds.

    Args:
        value: the JSON tree.
        name: its dotted name, which says whether a number is a seed.
    """
    if isinstance(value, dict):
        return {k: plain(v, f"{name}.{k}") for k, v in value.items() if is_name(str(k))}
    if isinstance(value, (list, tuple)):
        return [plain(v, name) for v in value]
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    if whole and not isinstance(value, bool):
        return value if abs(value) < 10**_MOST_DIGITS or _SEED.search(name) else WITHHELD
    return value if not isinstance(value, str) or is_plain(value) else WITHHELD


def stand_ins(names: Iterable[str], what: str) -> dict[str, str]:
    """Return what to call each name: itself if it is harmless, else `what` and its position, e.g. `class 3`."""
    return {name: name if is_name(name) else f"{what} {i}" for i, name in enumerate(names, start=1)}


def reduced(model: M, words: bool) -> M:
    """Return a copy of settings that names no place on disk. The copy is only for reading; nothing is computed with it.

    Args:
        model: the settings. A text in a field that never enters a key says where something lies. It is replaced, unless
            it is the default or the field is declared with `not_semantic(..., word=True)`.
        words: if true, texts in the other fields are replaced if they are not plain, and all that is quoted from the
            user's file is; if false, only what is certainly a path.
    """
    changes: dict[str, Any] = {}
    for name, info in type(model).model_fields.items():
        value = getattr(model, name)
        if not is_semantic(info):
            kept = is_word(info) or value == info.default
            changes[name] = value if kept else _no_text(value, WITHHELD + _digest_of(model))
        elif words and is_quoting(info):
            changes[name] = {column: WITHHELD for column in value if is_name(str(column))}
        else:
            changes[name] = _reduced(value, words, name)
    return model.model_copy(update=changes)


def _reduced(value: Any, words: bool, name: str) -> Any:
    if isinstance(value, BaseModel):
        return reduced(value, words)
    if isinstance(value, (list, tuple)):
        return type(value)(_reduced(v, words, name) for v in value)
    if isinstance(value, dict) and any(isinstance(v, BaseModel) for v in value.values()):
        return {k: _reduced(v, words, str(k)) for k, v in value.items() if not words or is_name(str(k))}
    return plain(value, name) if words else _pathless(value)


def _pathless(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _pathless(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_pathless(v) for v in value)
    return without_paths(value) if isinstance(value, str) and _ABSOLUTE.search(value) else value


def _no_text(value: Any, instead: str) -> Any:
    if isinstance(value, (dict, list, tuple)):
        return type(value)()
    return value if value is None or isinstance(value, (bool, int, float)) else instead


def _digest_of(model: BaseModel) -> str:
    """Return a text that identifies the weights that settings name without saying where they lie, or an empty text."""
    found = list(content_of(model).values())
    return f" (sha256 {found[0][:8]}…)" if found else ""


def places(value: Any) -> set[str]:
    """Return all texts in settings, and in models inside them, that say where something lies."""
    if isinstance(value, BaseModel):
        found: set[str] = set()
        for name, info in type(value).model_fields.items():
            inner = getattr(value, name)
            hidden = not is_semantic(info) and not is_word(info) and inner != info.default
            found |= {inner} if hidden and isinstance(inner, str) else places(inner)
        return found
    if isinstance(value, dict):
        return {p for v in value.values() for p in places(v)}
    return {p for v in value for p in places(v)} if isinstance(value, (list, tuple)) else set()
