"""Read single cells of a CSV file: numbers in the formats that spreadsheets write, and the ids of patients."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping

_NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)(e[+-]?\d{1,3})?", re.ASCII | re.IGNORECASE)
_THOUSANDS = re.compile(r"[+-]?[1-9]\d{0,2},\d{3}", re.ASCII)
_PLAIN = re.compile(r"\d+(\.\d*)?", re.ASCII)
_ROUNDED = re.compile(r"\d+([.,]\d*)?e\+\d+", re.ASCII | re.IGNORECASE)  # with +: `12e4` may be part of a hash


def number(text: str) -> float | None:
    """Return the number that a cell holds, in any of the forms `1`, `1.0`, `1,0` and `1e0`, or None.

    `1,000` is none: it may be one or a thousand.
    """
    if not _NUMBER.fullmatch(text) or _THOUSANDS.fullmatch(text):
        return None
    return float(text.replace(",", "."))


def label_of(text: str, uncertain: float = math.nan, blank: float = math.nan) -> float | None:
    """Return the label in a cell, 0, 1 or NaN = unknown, or None if the cell holds no label.

    Args:
        text: the cell, without spaces around it.
        uncertain: what -1 stands for.
        blank: what an empty cell stands for.
    """
    if not text:
        return blank
    return {1.0: 1.0, 0.0: 0.0, -1.0: uncertain}.get(found) if (found := number(text)) is not None else None


def same_patients(ids: Iterable[str]) -> Mapping[str, str]:
    """Return a common form of each id of a patient, so that ids that differ only as texts are equal.

    A column that went through a floating-point number has `10000032.0` where another source has `10000032`. If all ids
    are numbers, those that are equal as numbers are one patient; otherwise only a `.0` behind digits is dropped.
    """
    cells = set(ids)
    if all(_PLAIN.fullmatch(cell) for cell in cells):  # as text: a float would round ids of more than 15 digits
        return {cell: _as_number(cell) for cell in cells}
    return {cell: re.sub(r"^(\d+)\.0+$", r"\1", cell) for cell in cells}


def _as_number(text: str) -> str:
    whole, _, fraction = text.partition(".")
    return f"{whole.lstrip('0') or '0'}.{fraction.rstrip('0')}".rstrip(".")


def is_rounded(text: str) -> bool:
    """Tell whether a long number was written with fewer digits: `1.23E+17` by a spreadsheet, `1e+17` by Python."""
    return _ROUNDED.fullmatch(text) is not None
