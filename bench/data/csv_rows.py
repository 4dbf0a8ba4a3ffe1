"""Join the CSV files of a data set, one for each part of an official split, and take the rows that are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator

from bench.data.cell_values import number
from bench.data.csv_file import Rows, alike, missing_column, named, quoted, read_rows
from bench.errors import DataError, listed, nearest
from bench.pipeline.settings import Settings, not_semantic
from bench.tables import Int64

Name = Annotated[str, AfterValidator(named)]  # of a column or class, as it is compared with those of a CSV file
Value = str | int | float
Where = tuple[tuple[str, tuple[Value, ...]], ...]  # column → the values that its cell may have


class CsvFiles(Settings):
    """The CSV files of an official split."""

    train: str = not_semantic(..., min_length=1)
    val: str = not_semantic(..., min_length=1)
    test: str = not_semantic(..., min_length=1)


class Line(int):
    """The number of a row among several files. As text it is the line in its own file, such as `3 of val.csv`."""

    text: str

    def __new__(cls, number: int, text: str) -> Self:
        """Return the number `number` with its text."""
        line = super().__new__(cls, number)
        line.text = text
        return line

    def __str__(self) -> str:
        """Return the line and its file."""
        return self.text


@dataclass(frozen=True)
class Joined:
    """The rows of one CSV file or of several.

    Attributes:
        rows: all rows; of several files those columns that all of them have.
        parts: `int64 [n]`, 0 train, 1 val, 2 test, if there is a file for each part; else None.
        partial: the columns that only some of the files have, each with the reason why it is not taken.
    """

    rows: Rows
    parts: Int64 | None = None
    partial: Mapping[str, str] = field(default_factory=dict)


def read_joined(files: Sequence[Path], needed: list[str]) -> Joined:
    """Return the rows of the files in their order. One file has no parts; three are train, val and test.

    Raises:
        DataError: if a file cannot be read or lacks a column in `needed`, or if a column is spelt in two ways.
    """
    tables = [read_rows(file, needed) for file in files]
    if len(tables) == 1:
        return Joined(tables[0])
    where = together(files)
    union = list(dict.fromkeys(chain.from_iterable(t.header for t in tables)))
    if pair := alike(union):
        told = f"columns {quoted(pair[0])} and {quoted(pair[1])} differ only in capitals or white space"
        raise DataError(f"{where}: {told}; write one name in all files")
    names = _short_names(files)
    common = [c for c in union if all(c in t.header for t in tables)]
    lacking = {
        c: [n for n, t in zip(names, tables, strict=True) if c not in t.header] for c in union if c not in common
    }
    lines, begin = list[int](), 0
    for name, table in zip(names, tables, strict=True):
        lines += [Line(begin + line, f"{line} of {name}") for line in table.lines]
        begin += table.lines[-1]
    rows = Rows(
        path=where,
        source=b"".join(hashlib.sha256(t.source).digest() for t in tables),
        header=common,
        columns=[tuple(chain.from_iterable(t.columns[t.header.index(c)] for t in tables)) for c in common],
        lines=lines,
    )
    parts = np.repeat(np.arange(len(tables)), [len(t) for t in tables])
    return Joined(rows, parts, {name: f"not in {listed(files)}" for name, files in lacking.items()})


def together(files: Sequence[Path]) -> str:
    """Return what messages call the files: the path of the first, and short names of others in its folder."""
    same = all(file.parent == files[0].parent for file in files)
    return ", ".join([str(files[0]), *(file.name if same else str(file) for file in files[1:])])


def _short_names(files: Sequence[Path]) -> list[str]:
    """Return the names of the files, or the whole paths if two files have one name."""
    names = [file.name for file in files]
    return names if len(set(names)) == len(names) else [str(file) for file in files]


def taken(joined: Joined, where: Where) -> Joined:
    """Return the rows whose cells have one of the given values in every column of `where`.

    Texts are compared as they are written, and numbers by their value (`1`, `1.0`).

    Raises:
        DataError: if there is no such column, if a value is in no cell, or if no row is left.
    """
    rows = joined.rows
    keep = np.ones(len(rows), np.bool_)
    for column, values in where:
        if column not in rows.header:
            raise DataError(f"{rows.path}: where: {missing_column(column, rows.header)}")
        cells = rows.column(column)
        different = set(cells)
        for value in values:
            if not any(_is(cell, value) for cell in different):
                have = sorted(different)
                hint = nearest(str(value), have)
                shown = listed((quoted(c) for c in have), 6)
                raise DataError(f"{rows.path}: where: no cell of column '{column}' is {value!r}{hint} (have: {shown})")
        right = {cell for cell in different if any(_is(cell, value) for value in values)}
        keep &= np.fromiter((cell in right for cell in cells), np.bool_, len(rows))
    if not keep.any():
        raise DataError(f"{rows.path}: where: no row has all of these values; the columns together select nothing")
    return joined if keep.all() else _kept(joined, keep)


def _kept(joined: Joined, keep: npt.NDArray[np.bool_]) -> Joined:
    index, rows = np.flatnonzero(keep).tolist(), joined.rows
    columns = [tuple(cells[i] for i in index) for cells in rows.columns]
    kept = Rows(rows.path, rows.source, rows.header, columns, [rows.lines[i] for i in index])
    return Joined(kept, None if joined.parts is None else joined.parts[keep], joined.partial)


def _is(cell: str, value: Value) -> bool:
    found = number(cell)
    as_number = number(str(value))
    return named(cell) == named(str(value)) or (found is not None and found == as_number)
