"""Read the rows of a CSV file strictly, and collect faults by line."""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import DataError, listed, nearest
from bench.paths import counted_from

_SHOWN = 3
_EXCEL = re.compile(r"sep=.")
_SEPARATORS = {";": "';'", "\t": "tabs", "|": "'|'"}
_SIGNATURES = {
    b"\x1f\x8b": "is packed (gzip); unpack it",
    b"PK\x03\x04": "is a spreadsheet or zip file; save it as CSV",
    b"\xd0\xcf\x11\xe0": "is a spreadsheet; save it as CSV",
    b"\xff\xfe": "is UTF-16; save it as UTF-8",
    b"\xfe\xff": "is UTF-16; save it as UTF-8",
}


@dataclass(frozen=True)
class Rows:
    """A CSV file as text.

    Attributes:
        path: the file; of several files, their paths.
        source: the bytes of the file; of several files, their digests.
        header: the names of the columns.
        columns: the cells of each column, exactly as they are written.
        lines: the line of each row in the file (the header is line 1).
    """

    path: Path | str
    source: bytes
    header: list[str]
    columns: list[tuple[str, ...]]
    lines: list[int]

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.lines)

    def column(self, name: str) -> tuple[str, ...]:
        """Return the cells of a column without spaces around them."""
        # A column can have ten million cells but has few different ones, so the set is checked before any is stripped.
        cells = self.columns[self.header.index(name)]
        odd = {c for c in set(cells) if c != c.strip()}
        return tuple(c.strip() for c in cells) if odd else cells


class Problems:
    """Collects faults by line. `raise_if_any` raises them together: the first three in full, and then `hint`.

    Faults are collected so that a user can repair a file in one go, and not one row per run.
    """

    def __init__(self, where: str) -> None:
        """Collect the faults of the file `where`."""
        self.where = where
        self.found: list[tuple[int, str]] = []
        self.hint = ""

    def add(self, line: int, what: str) -> None:
        """Add a fault of a line."""
        self.found.append((line, what))

    def raise_if_any(self, noun: str) -> None:
        """Raise an error if there are faults. `noun` says what is counted, e.g. `row`.

        Raises:
            DataError: with the first three faults by row and the number of all faults.
        """
        if self.found:
            self.found.sort()
            shown = "; ".join(f"row {line}: {what}" for line, what in self.found[:_SHOWN])
            more = f"; and {len(self.found) - _SHOWN} more" if len(self.found) > _SHOWN else ""
            bad = f"{len(self.found)} bad {noun}{'s'[: len(self.found) > 1]}"
            raise DataError(f"{self.where}: {bad}: {shown}{more}{self.hint}")


def quoted(text: str, limit: int = 60) -> str:
    """Return a cell in quotes, shortened, and without characters that could control a terminal."""
    return repr(text if len(text) <= limit else text[: limit - 1] + "…")


def named(text: str) -> str:
    """Return a name of a column or class in Unicode's composed form (NFC), in which names are compared."""
    return unicodedata.normalize("NFC", text)


def alike(names: Sequence[str]) -> tuple[str, str] | None:
    """Return two names that are equal or differ only in capitals and white space, or None."""
    first: dict[str, str] = {}
    for name in names:
        key = " ".join(named(name).casefold().split())
        if key in first:
            return first[key], name
        first[key] = name
    return None


def missing_column(name: str, header: list[str]) -> str:
    """Return the message for a missing column: it names the nearest column and lists those that exist."""
    plain = [c for c in header if c.isprintable()]
    same = next((c for c in plain if c.casefold() == name.casefold()), None)
    hint = f"; did you mean '{same}'?" if same else nearest(name, plain)
    return f"no column '{name}'{hint} (have: {listed(quoted(c)[1:-1] for c in header)})"


def unreadable(path: Path, error: OSError) -> DataError:
    """Return the error for a file that cannot be read."""
    return DataError(f"{path}: cannot be read ({error.strerror}); check the setting 'csv'{counted_from(path)}")


def read_rows(path: Path, needed: list[str]) -> Rows:
    """Return the rows of the CSV file `path`.

    Raises:
        DataError: if the file is missing, not UTF-8, empty or malformed, or if it lacks a column in `needed`.
    """
    source, text = _text(path)
    cells, lines = _parse(path, text)
    if not cells:
        raise DataError(f"{path}: the file is empty; want a header line and one row an image")
    header, rows = cells[0], cells[1:]
    _check_header(path, header, needed)
    problems = Problems(str(path))
    for line, row in zip(lines[1:], rows, strict=True):
        if not any(cell.strip() for cell in row):
            problems.add(line, "no cell holds anything; take the row out")
        elif len(row) != len(header):
            problems.add(line, f"{len(row)} columns, the header has {len(header)}; put cells with commas in quotes")
    problems.raise_if_any("row")
    if not rows:
        raise DataError(f"{path}: no rows below the header")
    return Rows(path, source, header, list(zip(*rows, strict=True)), lines[1:])


def _text(path: Path) -> tuple[bytes, str]:
    """Return the bytes of a file, and the text in them.

    Raises:
        DataError: if the file cannot be read, is another kind of file, or is not UTF-8.
    """
    try:
        source = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    # The usual mistakes are recognised by their first bytes, because "not UTF-8" would not tell anybody what to do.
    for signature, what in _SIGNATURES.items():
        if source.startswith(signature):
            raise DataError(f"{path}: {what}")
    if (at := source.find(b"\0")) >= 0:
        raise DataError(f"{path}: row {_line(source, at)} holds a NUL byte (UTF-16, or damaged?); save it as UTF-8")
    try:
        return source, source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        wrong = error.object[error.start]
        said = f"row {_line(error.object, error.start)} is not UTF-8 (byte 0x{wrong:02x})"
        raise DataError(f"{path}: {said}; save it as UTF-8") from error


def _line(source: bytes, at: int) -> int:
    return source.count(b"\n", 0, at) + 1


def _parse(path: Path, text: str) -> tuple[list[list[str]], list[int]]:
    """Return the cells of every row that is not blank, and the line where each row begins. Header cells are stripped.

    A first line `sep=,` is passed over: Excel reads it as the separator of the file and never as data.
    A row can span several lines, because a quoted cell may hold line breaks.
    """
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    cells: list[list[str]] = []
    lines: list[int] = []
    begins = 1
    try:
        for row in reader:
            is_blank = not row or (len(row) == 1 and not row[0].strip())
            if not is_blank and (cells or not _EXCEL.fullmatch(",".join(row))):
                cells.append(row if cells else [named(cell.strip()) for cell in row])
                lines.append(begins)
            begins = reader.line_num + 1
    except csv.Error as error:
        said = str(error)
        if "field limit" in said:
            said = f"a cell of more than {csv.field_size_limit():,} letters (a quote that is never closed?)"
        elif "unexpected end of data" in said:
            said = "a quote is opened and never closed"
        raise DataError(f"{path}: row {begins}: {said}; want comma-separated values") from error
    return cells, lines


def _check_header(path: Path, header: list[str], needed: list[str]) -> None:
    count = Counter(header)
    if count[""] > 1:
        raise DataError(f"{path}: {count['']} columns have no name; name them or take them out")
    if twice := [c for c, n in count.items() if n > 1]:
        raise DataError(f"{path}: column {listed(quoted(c) for c in twice)} is there twice; name each column once")
    if pair := alike(header):
        told = f"columns {quoted(pair[0])} and {quoted(pair[1])} differ only in capitals or white space"
        raise DataError(f"{path}: {told}; rename one, or take it out")
    for name in needed:
        if name not in header:
            other = next((_SEPARATORS[c] for c in _SEPARATORS if len(header) == 1 and c in header[0]), None)
            hint = f"; its columns are separated by {other}; want commas" if other else ""
            raise DataError(f"{path}: {missing_column(name, header)}{hint}")
    if odd := [c for c in header if not c.isprintable()]:
        raise DataError(f"{path}: column {quoted(odd[0])} has a character that cannot be shown; rename it")
