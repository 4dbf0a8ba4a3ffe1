"""The rows of a CSV of labels: read strictly, faults collected by line."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.errors import DataError, listed, nearest
from bench.types import Float32

LABELS = {"1": 1.0, "1.0": 1.0, "0": 0.0, "0.0": 0.0, "-1": np.nan, "-1.0": np.nan, "": np.nan}
PARTS = {"train": 0, "val": 1, "valid": 1, "validate": 1, "validation": 1, "test": 2}
_SHOWN = 5


@dataclass(frozen=True)
class Rows:
    """The table as text.

    Attributes:
        source: the file's bytes.
        header: column names.
        cells: one list a row, as long as the header, stripped.
        lines: line number of every row in the file (the header is line 1).
    """

    source: bytes
    header: list[str]
    cells: list[list[str]]
    lines: list[int]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.cells)

    def column(self, name: str) -> list[str]:
        """Return a column's cells."""
        at = self.header.index(name)
        return [row[at] for row in self.cells]


class Problems:
    """Faults by line; `stop` raises them together, the first few in words."""

    def __init__(self, where: str) -> None:
        """Collect for the file `where`."""
        self.where = where
        self.found: list[tuple[int, str]] = []

    def add(self, line: int, what: str) -> None:
        """Note a fault."""
        self.found.append((line, what))

    def stop(self, noun: str) -> None:
        """Raise what was found.

        Raises:
            DataError: with the first five faults by row and the number of all.
        """
        if self.found:
            self.found.sort()
            shown = "; ".join(f"row {line}: {what}" for line, what in self.found[:_SHOWN])
            more = f"; and {len(self.found) - _SHOWN} more" if len(self.found) > _SHOWN else ""
            raise DataError(f"{self.where}: {len(self.found)} bad {noun}{'s'[: len(self.found) > 1]}: {shown}{more}")


def read_rows(path: Path, needed: list[str]) -> Rows:
    """Return the table in `path`.

    Raises:
        DataError: if it is missing, not UTF-8, empty, malformed, or lacks a column in `needed`.
    """
    try:
        source = path.read_bytes()
        text = source.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); check the setting 'csv'") from error
    except UnicodeDecodeError as error:
        line = source[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}: row {line} is not UTF-8 (byte 0x{source[error.start]:02x}); save it as UTF-8"
        ) from error
    cells, lines = _parse(path, text)
    if not cells:
        raise DataError(f"{path}: the file is empty; want a header line and one row an image")
    header, rows = cells[0], cells[1:]
    _check_header(path, header, needed)
    problems = Problems(str(path))
    for line, row in zip(lines[1:], rows, strict=True):
        if len(row) != len(header):
            problems.add(line, f"{len(row)} columns, the header has {len(header)}")
    problems.stop("row")
    if not rows:
        raise DataError(f"{path}: no rows below the header")
    return Rows(source, header, rows, lines[1:])


def _parse(path: Path, text: str) -> tuple[list[list[str]], list[int]]:
    """Return the stripped cells of every line that is not blank, and the line each begins at."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    cells, lines, begins = [], [], 1
    try:
        for row in reader:
            if row:
                cells.append([cell.strip() for cell in row])
                lines.append(begins)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path}: row {begins}: {error}; want comma-separated values") from error
    return cells, lines


def _check_header(path: Path, header: list[str], needed: list[str]) -> None:
    twice = {c for c in header if header.count(c) > 1}
    if twice:
        raise DataError(f"{path}: column {listed(repr(c) for c in twice)} is there twice; name each column once")
    for name in needed:
        if name not in header:
            hint = nearest(name, header)
            raise DataError(f"{path}: no column '{name}'{hint} (have: {listed(header)}); commas must separate columns")


def class_columns(rows: Rows, wanted: tuple[str, ...] | None, others: list[str]) -> tuple[str, ...]:
    """Return the columns that hold classes: those in `wanted`, else all that hold labels more often than not.

    A single wrong cell must not turn a class into a column that is passed over, hence not "all of its cells".

    Raises:
        DataError: for a class without a column, or fewer than two classes.
    """
    if wanted is not None:
        for name in wanted:
            if name not in rows.header:
                raise DataError(
                    f"class_names: no column '{name}'{nearest(name, rows.header)} (have: {listed(rows.header)})"
                )
        return wanted
    names = tuple(c for c in rows.header if c not in others and _mostly_labels(rows.column(c)))
    if len(names) < 2:
        raise DataError(f"found {len(names)} columns of 0/1, want two or more (have: {listed(rows.header)})")
    return names


def _mostly_labels(cells: list[str]) -> bool:
    said = [c for c in cells if c]
    return 2 * sum(c in LABELS for c in said) > len(said)


def label_matrix(rows: Rows, names: tuple[str, ...], problems: Problems) -> Float32:
    """Return `float32 [n, C]`: 1, 0, NaN for unknown; faults go to `problems`."""
    labels = np.zeros((len(rows), len(names)), np.float32)
    for column, name in enumerate(names):
        for row, text in enumerate(rows.column(name)):
            if text not in LABELS:
                problems.add(rows.lines[row], f"class '{name}' is '{text}'; allowed: 1, 0, -1 or blank (unknown)")
            labels[row, column] = LABELS.get(text, np.nan)
    return labels
