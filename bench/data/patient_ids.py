"""Find out which pictures are of one patient: by a column of the CSV file, or by a pattern in the paths."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from bench.data.cell_values import is_rounded, same_patients
from bench.data.class_columns import NO_VALUE, is_patient_column
from bench.data.csv_file import Problems, Rows, quoted
from bench.tables import Int64

# What paths of public sets look like: patient00012/study1, sub-012_ses-1, p10/p10000032/s5, 00000013_005.png. Neither
# slashes nor backslashes are in the patterns: they mean something else in YAML, and words with them leave no machine.
_WORDS = ("patient", "subject", "participant", "person", "case", "sub", "pid", "mrn")
_IN_PATHS = (
    *(f"{sign}{word}[-_]?([0-9]+)" for word in _WORDS for sign in ("", "(?i)")),
    "p([0-9]{5,})",
    "^([0-9]{5,})",
    "([0-9]{5,})_[0-9]+[.]",
)


def one_group(pattern: str) -> str:
    """Return a regular expression unchanged, or say that it cannot be used.

    Raises:
        ValueError: if it is none, or has more or fewer groups than one.
    """
    try:
        n_groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"'{pattern}' is no regular expression ({error})") from error
    if n_groups != 1:
        raise ValueError(f"'{pattern}' has {n_groups} groups; want one, e.g. patient([0-9]+)")
    return pattern


def ids_of(rows: Rows, column: str | None, pattern: str | None, path_column: str, problems: Problems) -> list[str]:
    """Return the id of the patient of every row, in a form in which equal patients are equal; empty if none is known.

    Rows without a patient are added to `problems`.

    Args:
        rows: the CSV file.
        column: the column of patients, or None.
        pattern: a regular expression with one group, which is searched in the path, or None.
        path_column: the column of paths.
        problems: collects the faults.
    """
    if column is None and pattern is None:
        return []
    cells = rows.column(column or path_column)
    if pattern is not None:
        found = [re.search(pattern, cell) for cell in cells]
        cells = tuple((match.group(1) or "") if match else "" for match in found)
    where = f"column '{column}'" if column else f"patient_pattern {quoted(pattern or '')}"
    for line, cell in zip(rows.lines, cells, strict=True):
        if not cell:
            fault = "is blank" if column else "finds nothing in the path"
            problems.add(line, f"{where} {fault}; every row needs its patient")
        elif is_rounded(cell):
            fault = "a number that was rounded, as spreadsheets do"
            problems.add(line, f"{where} is {quoted(cell)}, {fault}; write the ids as text")
        elif cell.casefold() in NO_VALUE:
            fault = "which says that there is no value"
            problems.add(line, f"{where} is {quoted(cell)}, {fault}; every row needs its patient")
    common = same_patients(cells)
    return [common[cell] for cell in cells]


def numbered(ids: Sequence[str], n_rows: int) -> Int64:
    """Return the number of each row's patient, `int64 [n_rows]`. Without ids, every row is a patient of its own."""
    numbers: dict[str, int] = {}
    found = [numbers.setdefault(i, len(numbers)) for i in ids] if ids else range(n_rows)
    return np.array(found, dtype=np.int64)


def hint(rows: Rows, named: Sequence[str], path_column: str) -> str:
    """Return which setting would give the patients, if a column or the paths look like it; else an empty text.

    The text holds no value of a cell.
    """
    for name in rows.header:
        if name not in named and is_patient_column(name) and _repeats(rows.column(name)):
            return f"column {quoted(name)} looks like ids of patients; if it is, set patient_column: {name}"
    paths = rows.column(path_column)
    for pattern in _IN_PATHS:
        # The first path rules most patterns out, so that not every pattern is searched in half a million paths.
        if not re.search(pattern, paths[0]):
            continue
        found = [re.search(pattern, path) for path in paths]
        if all(found) and _repeats([match.group(1) for match in found if match]):
            return f'the paths look as if they hold ids of patients; if so, set patient_pattern: "{pattern}"'
    return ""


def _repeats(ids: Sequence[str]) -> bool:
    """Tell whether ids of pictures may be those of patients: several, and some of them more than once."""
    return 1 < len(set(ids)) < len(ids)
