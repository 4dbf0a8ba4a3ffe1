"""Read what a CSV file says about pictures: classes, labels, patients and the official split.

Everything that can be checked without opening a picture is checked here.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.data.csv_file import Problems, Rows, missing_column, quoted, read_rows
from bench.errors import DataError, listed
from bench.tables import Float32, Int64

Uncertain = Literal["unknown", "negative", "positive"]
Blank = Literal["unknown", "negative"]
Bools = npt.NDArray[np.bool_]
PARTS = {"train": 0, "val": 1, "valid": 1, "validate": 1, "validation": 1, "test": 2}
_INVERTED = {"1": True, "1.0": True, "MONOCHROME1": True, "0": False, "0.0": False, "MONOCHROME2": False}
_PART_NAMES = ("train", "val", "test")
_LABELS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0}
_UNCERTAIN = ("-1", "-1.0")
# These words are not labels, but a column of them is meant to be a class. It must be refused and not silently ignored.
_WORDS = {"yes", "no", "true", "false", "positive", "negative"}
_NO_VALUE = {"nan", "na", "n/a", "none", "null", "uncertain", "unknown"}


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, and what their cells mean. `FolderDataset` has the settings of the same names."""

    path: str
    patient: str | None
    split: str | None
    classes: tuple[str, ...] | None
    uncertain: Uncertain
    blank: Blank
    inverted: str | None = None

    @property
    def others(self) -> list[str]:
        """The columns that do not hold a class."""
        return [c for c in (self.path, self.patient, self.split, self.inverted) if c is not None]

    @property
    def meaning(self) -> dict[str, float]:
        """The label that each text in a cell stands for; NaN = unknown. Other texts are not labels."""
        values = {"unknown": np.nan, "negative": 0.0, "positive": 1.0}
        return _LABELS | dict.fromkeys(_UNCERTAIN, values[self.uncertain]) | {"": values[self.blank]}


@dataclass(frozen=True)
class Listing:
    """A checked CSV file with one row per picture.

    Attributes:
        digest: the digest of the file's bytes.
        paths: the paths of the pictures, as they are written.
        lines: the line of each row in the file.
        class_names: in the order of the columns, or in the order of the settings if these name them.
        labels: `float32 [n, C]`, 0, 1 or NaN = unknown; read-only.
        patients: `int64 [n]`; read-only.
        splits: `int64 [n]`, 0 train, 1 val, 2 test, or None; read-only.
        inverted: `bool [n]`, whether black and white are exchanged in the picture, or None; read-only.
    """

    digest: str
    paths: tuple[str, ...]
    lines: tuple[int, ...]
    class_names: tuple[str, ...]
    labels: Float32
    patients: Int64
    splits: Int64 | None
    inverted: Bools | None = None


def read_listing(csv: Path, columns: Columns) -> Listing:
    """Return what a CSV file says. It is read only once while it does not change.

    Raises:
        DataError: if it cannot be read or understood, or if its rows contradict each other.
    """
    # A plan asks for the listing of one file dozens of times. Inode, size and time tell whether the file has changed.
    try:
        found = csv.stat()
    except OSError as error:
        raise DataError(f"{csv}: cannot be read ({error.strerror}); check the setting 'csv'") from error
    return _read(csv, columns, Path.cwd(), (found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=4)
def _read(csv: Path, columns: Columns, cwd: Path, version: tuple[int, ...]) -> Listing:
    rows = read_rows(csv, columns.others)
    names = _class_columns(rows, columns)
    problems = Problems(str(csv))
    labels = _labels(rows, names, columns, problems)
    patients = _patients(rows, columns, problems)
    splits = _splits(rows, columns, problems)
    inverted = _inverted(rows, columns, problems)
    problems.raise_if_any("row")
    for array in (labels, patients, splits, inverted):
        if array is not None:
            array.setflags(write=False)  # all callers share these arrays through the cache
    digest = hashlib.sha256(rows.source).hexdigest()
    return Listing(digest, rows.column(columns.path), tuple(rows.lines), names, labels, patients, splits, inverted)


def _class_columns(rows: Rows, columns: Columns) -> tuple[str, ...]:
    """Return the columns that hold classes: those that the settings name, else all that hold mostly labels.

    Raises:
        DataError: if a named column is missing, or if fewer than two columns are found.
    """
    # "Mostly" and not "only": a single wrong cell must be reported, and must not make a class disappear.
    if columns.classes is not None:
        for name in columns.classes:
            if name not in rows.header:
                raise DataError(f"{rows.path}: class_names: {missing_column(name, rows.header)}")
        return columns.classes
    names = tuple(c for c in rows.header if c and c not in columns.others and _mostly_labels(rows.column(c), columns))
    if len(names) < 2:
        have = listed(quoted(c)[1:-1] for c in rows.header)
        raise DataError(f"{rows.path}: found {len(names)} columns of 0/1, want two or more (have: {have})")
    return names


def _mostly_labels(cells: Sequence[str], columns: Columns) -> bool:
    said = {c: n for c, n in Counter(cells).items() if c and c.lower() not in _NO_VALUE}
    meaning = columns.meaning
    return 2 * sum(n for c, n in said.items() if c in meaning or c.lower() in _WORDS) > sum(said.values())


def _labels(rows: Rows, names: tuple[str, ...], columns: Columns, problems: Problems) -> Float32:
    """Return the labels `float32 [n, C]`, 0, 1 or NaN = unknown. Cells that are no label are added to `problems`."""
    labels = np.zeros((len(rows), len(names)), np.float32)
    meaning = columns.meaning
    for column, name in enumerate(names):
        cells = rows.column(name)
        if set(cells) <= meaning.keys():
            labels[:, column] = list(map(meaning.__getitem__, cells))
            continue
        for row, text in enumerate(cells):
            if text in meaning:
                labels[row, column] = meaning[text]
            else:
                allowed = "allowed: 1, 0, -1 (uncertain) or blank"
                problems.add(rows.lines[row], f"class '{name}' is {quoted(text)}; {allowed}")
                problems.hint = "" if columns.classes else "; leave columns that are not classes out of class_names"
    return labels


def _patients(rows: Rows, columns: Columns, problems: Problems) -> Int64:
    if columns.patient is None:
        return np.arange(len(rows), dtype=np.int64)
    numbers: dict[str, int] = {}
    cells = rows.column(columns.patient)
    for line, patient in zip(rows.lines, cells, strict=True):
        if not patient:
            problems.add(line, f"column '{columns.patient}' is blank; every row needs its patient")
    return np.array([numbers.setdefault(p, len(numbers)) for p in cells], dtype=np.int64)


def _splits(rows: Rows, columns: Columns, problems: Problems) -> Int64 | None:
    if columns.split is None:
        return None
    cells = rows.column(columns.split)
    for line, text in zip(rows.lines, cells, strict=True):
        if text.lower() not in PARTS:
            said = f"is {quoted(text)}" if text else "is blank"
            problems.add(line, f"column '{columns.split}' {said}; allowed: train, val, test")
    splits = np.array([PARTS.get(text.lower(), 0) for text in cells], dtype=np.int64)
    if columns.patient is not None and not problems.found:
        _refuse_cut_patients(rows, rows.column(columns.patient), splits, problems)
    return splits


def _inverted(rows: Rows, columns: Columns, problems: Problems) -> Bools | None:
    if columns.inverted is None:
        return None
    cells = [text.upper() for text in rows.column(columns.inverted)]
    for line, text in zip(rows.lines, cells, strict=True):
        if text not in _INVERTED:
            allowed = "allowed: 1 or MONOCHROME1 (inverted), 0 or MONOCHROME2"
            problems.add(line, f"column '{columns.inverted}' is {quoted(text)}; {allowed}")
    return np.array([_INVERTED.get(text, False) for text in cells], np.bool_)


def _refuse_cut_patients(rows: Rows, patients: Sequence[str], splits: Int64, problems: Problems) -> None:
    first: dict[str, int] = {}
    told: set[str] = set()
    for row, patient in enumerate(patients):
        other = first.setdefault(patient, row)
        if splits[row] != splits[other] and patient not in told:
            told.add(patient)
            one, two = _PART_NAMES[splits[other]], _PART_NAMES[splits[row]]
            where = f"in row {rows.lines[row]} in {two}; a patient must be in one part"
            problems.add(rows.lines[other], f"patient {quoted(patient)} is in {one}, {where}")
