"""Read the label files of a CXR-LT release into arrays, and check their classes, paths, patients and parts.

A quarter of a million rows are read column by column, which is fast but cannot say where a fault is. If there is one,
the file is read again by the strict reader, which names the row. No message quotes a path or a patient, because not
even a log may hold those of credentialed data.
"""

from __future__ import annotations

import contextlib
import csv
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np
import numpy.typing as npt

from bench.data.cell_values import label_of
from bench.data.csv_file import Problems, missing_column, quoted, read_rows
from bench.data.kinds.cxr_lt.files import version
from bench.data.kinds.cxr_lt.releases import Layout, Release, plain
from bench.errors import DataError, listed
from bench.tables import Float32, Int64

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class LabelRows:
    """All rows of a release, train first. The arrays are read-only.

    Attributes:
        files: the label files of train, val and test.
        starts: the number of rows before each file.
        class_names: the classes, in the order of the release.
        labels: `float32 [n, C]`, 0, 1 or NaN = unknown.
        patients: `int64 [n]`, patient numbers of our own, which do not identify anybody.
        splits: `int64 [n]`, 0 train, 1 val, 2 test.
        studies: `int64 [n]`, study numbers of our own, or None if the release has no studies.
        views: the view of each row in upper case, or None if the files have no views.
        paths: the path of every picture below the root.
    """

    files: tuple[Path, ...]
    starts: tuple[int, ...]
    class_names: tuple[str, ...]
    labels: Float32
    patients: Int64
    splits: Int64
    studies: Int64 | None
    views: npt.NDArray[np.str_] | None
    paths: pa.ChunkedArray

    def place(self, row: int) -> tuple[Path, int]:
        """Return the file of a row, and its number among the rows of that file, starting with 0."""
        part = int(self.splits[row])
        return self.files[part], row - self.starts[part]

    def name_of(self, row: int) -> str:
        """Return the file and the line of a row."""
        path, at = self.place(row)
        return f"{path.name} row {read_rows(path, []).lines[at]}"

    def refuse(self, where: str, faults: Mapping[int, str], noun: str, kind: type[DataError] = DataError) -> NoReturn:
        """Raise an error about faulty rows, with the first three by file and line and the number of all.

        Args:
            where: what the message begins with.
            faults: what is wrong with each row, by row number.
            noun: what is counted, e.g. `bad picture`.
            kind: the class of the error.

        Raises:
            DataError: always, of the class `kind`.
        """
        lines = {path: read_rows(path, []).lines for path in {self.place(row)[0] for row in sorted(faults)[:_SHOWN]}}
        shown = []
        for row in sorted(faults)[:_SHOWN]:
            path, at = self.place(row)
            shown.append(f"{path.name} row {lines[path][at]}: {faults[row]}")
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise kind(f"{where}: {len(faults)} {noun}{'s'[: len(faults) > 1]}: {'; '.join(shown)}{more}")


def read_labels(files: tuple[Path, ...], release: Release, layout: Layout) -> LabelRows:
    """Return the rows of the three label files. They are read only once while they do not change.

    Raises:
        DataError: if a file cannot be read or understood (the message names rows), or if a patient is in two parts.
    """
    return _read(files, release, layout, tuple(version(f) for f in files))


@functools.lru_cache(maxsize=2)
def _read(
    files: tuple[Path, ...], release: Release, layout: Layout, versions: tuple[tuple[int, ...], ...]
) -> LabelRows:
    import pyarrow as pa

    parts = [_Part(path, release, layout) for path in files]
    sizes = [len(p.labels) for p in parts]
    patients = np.unique(np.concatenate([p.patients for p in parts]), return_inverse=True)[1].astype(np.int64)
    studies = [p.studies for p in parts if p.studies is not None]
    views = [p.views for p in parts if p.views is not None]
    rows = LabelRows(
        files=files,
        starts=(0, sizes[0], sizes[0] + sizes[1]),
        class_names=release.classes,
        labels=np.concatenate([p.labels for p in parts]),
        patients=patients,
        splits=np.repeat(np.arange(len(parts)), sizes),
        studies=np.unique(np.concatenate(studies), return_inverse=True)[1] if len(studies) == len(parts) else None,
        views=np.concatenate(views) if len(views) == len(parts) else None,
        paths=pa.chunked_array([p.paths for p in parts]),
    )
    _refuse_cut_patients(rows)
    _refuse_twins(rows)
    for array in (rows.labels, rows.patients, rows.splits, rows.studies, rows.views):
        if array is not None:
            array.setflags(write=False)  # all callers share these arrays through the cache
    return rows


class _Part:
    """The rows of one label file as arrays."""

    def __init__(self, path: Path, release: Release, layout: Layout) -> None:
        self.path = path
        self.header = _header(path)
        at = self._first_of(layout.paths)
        classes = {name: self._class_column(name) for name in release.classes}
        own = {n: n for n in (layout.patient, layout.study, layout.view) if n is not None and n in self.header}
        table = self._columns([at, *own, *classes.values()])
        if not len(table):
            read_rows(path, [])  # this raises, because there are no rows below the header
        self.labels = np.stack([self._labels(table, c, n) for n, c in classes.items()], axis=1)
        self._read_paths(table[at], at, layout)
        if layout.patient in own:
            self._compare(table[layout.patient], layout.patient, self.patients)
        if layout.study in own and self.studies is not None:
            self._compare(table[layout.study], layout.study, self.studies)
        self.views = None
        if layout.view in own:
            codes, cells = _coded(table[layout.view])
            self.views = np.array([c.strip().upper() for c in cells], dtype=np.str_)[codes]

    def _first_of(self, names: tuple[str, ...]) -> str:
        found = next((n for n in names if n in self.header), None)
        if found is None:
            other = "" if len(names) == 1 else f" (nor {' or '.join(quoted(n) for n in names[1:])})"
            raise DataError(f"{self.path}: {missing_column(names[0], self.header)}{other}")
        return found

    def _class_column(self, name: str) -> str:
        found = [h for h in self.header if plain(h) == plain(name)]
        if not found:
            raise DataError(f"{self.path}: class '{name}': {missing_column(name, self.header)}; check 'release'")
        if len(found) > 1:
            raise DataError(f"{self.path}: class '{name}' is there twice ({listed(found)}); keep one column")
        return found[0]

    def _columns(self, names: list[str]) -> pa.Table:
        """Return the columns as text. All but the first are dictionary-encoded, because they have few different cells.

        Raises:
            DataError: if the file is not comma-separated values with these columns.
        """
        import pyarrow as pa
        from pyarrow import csv as arrow

        text: dict[str, pa.DataType] = {n: pa.dictionary(pa.int32(), pa.string()) for n in names[1:]}
        convert = arrow.ConvertOptions(
            include_columns=names,
            column_types={**text, names[0]: pa.string()},
            null_values=[],
            strings_can_be_null=False,
        )
        options = arrow.ReadOptions(column_names=self.header, skip_rows=1)
        # The error is dropped and not chained, because its message may quote a row and with it a patient.
        with contextlib.suppress(pa.ArrowException, ValueError):
            return arrow.read_csv(self.path, read_options=options, convert_options=convert)
        read_rows(self.path, names)  # this raises, and says what is wrong in which row
        raise DataError(f"{self.path}: cannot be read as comma-separated values with one header line; save it as such")

    def _labels(self, table: pa.Table, column: str, name: str) -> Float32:
        codes, cells = _coded(table[column])
        # No release that we know of has -1 or blanks. In a file that somebody derived from one, they mean unknown.
        found = [label_of(c.strip()) for c in cells]
        if odd := {k: c for k, c in enumerate(cells) if found[k] is None}:
            rows = np.flatnonzero(np.isin(codes, list(odd)))
            allowed = "allowed: 1, 0, -1 (uncertain) or blank"
            _refuse(self.path, [(int(r), f"class '{name}' is {quoted(odd[int(codes[r])])}; {allowed}") for r in rows])
        return np.array(found, dtype=np.float32)[codes]

    def _read_paths(self, paths: pa.ChunkedArray, column: str, layout: Layout) -> None:
        import pyarrow.compute as pc

        parsed = pc.extract_regex(paths, layout.pattern).combine_chunks()
        self._refuse_rows(parsed.is_null().to_numpy(zero_copy_only=False), f"column '{column}' {_NOT_A_PATH}")
        self.paths = parsed.field("rest")
        self.patients: Int64 = parsed.field("patient").cast("int64").to_numpy(zero_copy_only=False)
        told = layout.study is not None
        self.studies = parsed.field("study").cast("int64").to_numpy(zero_copy_only=False) if told else None

    def _compare(self, cells: pa.ChunkedArray, column: str, in_path: Int64) -> None:
        """Refuse rows whose cell in a column is not a whole number, or not the number in the path.

        Raises:
            DataError: naming the first rows.
        """
        codes, texts = _coded(cells)
        numbers = _numbers(texts)[codes]
        self._refuse_rows(numbers < 0, f"column '{column}' holds no whole number")
        self._refuse_rows(numbers != in_path, f"column '{column}' and the path name different ones")

    def _refuse_rows(self, wrong: npt.NDArray[np.bool_], what: str) -> None:
        if wrong.any():
            _refuse(self.path, [(int(r), what) for r in np.flatnonzero(wrong)])


_NOT_A_PATH = "does not name a picture as the release does"


def _header(path: Path) -> list[str]:
    """Return the names of the columns.

    Raises:
        DataError: if the file has no usable header line.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as handle:
            header = [cell.strip() for cell in next(csv.reader(handle, strict=True))]
    except (OSError, UnicodeDecodeError, csv.Error, StopIteration):
        header = []
    if len(header) < 2 or len(set(header)) < len(header) or not all(c.isprintable() for c in header):
        header = read_rows(path, []).header
    return header


def _coded(column: pa.ChunkedArray) -> tuple[Int64, list[str]]:
    """Return the code of every cell, and the text that each code stands for."""
    merged = column.unify_dictionaries().combine_chunks()
    chunk = merged.chunk(0) if hasattr(merged, "chunk") else merged
    return chunk.indices.to_numpy(zero_copy_only=False), chunk.dictionary.to_pylist()


def _numbers(texts: list[str]) -> Int64:
    """Return the texts as whole numbers; -1 for a text that is not one."""
    try:
        return np.array(texts, dtype=np.bytes_).astype(np.int64)
    except (ValueError, OverflowError):  # a blank, or `12.0`, as pandas writes whole numbers in a column with gaps
        digits = [t.strip().removesuffix(".0") for t in texts]
        good = (d.isdecimal() and d.isascii() and len(d) < 18 for d in digits)
        return np.array([int(d) if ok else -1 for d, ok in zip(digits, good, strict=True)], dtype=np.int64)


def _refuse(path: Path, faults: list[tuple[int, str]], noun: str = "row") -> NoReturn:
    """Raise an error about faulty rows, which names each by its line in the file. Row 0 is the first below the header.

    Raises:
        DataError: always.
    """
    lines = read_rows(path, []).lines
    problems = Problems(str(path))
    for row, what in faults:
        problems.add(lines[row], what)
    problems.raise_if_any(noun)
    raise AssertionError("no fault was given")


def _refuse_cut_patients(rows: LabelRows) -> None:
    """Refuse a patient who is in two parts. The message names two rows and never the patient.

    Raises:
        DataError: if there is such a patient.
    """
    # A patient in two parts has two different (patient, part) pairs, and in sorted order they are neighbours.
    pairs = np.unique(rows.patients * len(rows.files) + rows.splits) // len(rows.files)
    cut = np.unique(pairs[1:][pairs[1:] == pairs[:-1]])
    if not len(cut):
        return
    mine = np.flatnonzero(rows.patients == cut[0])
    first = int(mine[0])
    other = int(mine[rows.splits[mine] != rows.splits[first]][0])
    one, two = (_in_words(*rows.place(row)) for row in (first, other))
    many = f"; {len(cut)} patients in all" if len(cut) > 1 else ""
    raise DataError(f"{one} and {two} are of one patient; a patient must be in one part{many}")


def _refuse_twins(rows: LabelRows) -> None:
    import pyarrow.compute as pc

    codes = pc.dictionary_encode(rows.paths.combine_chunks()).indices.to_numpy(zero_copy_only=False)
    order = np.argsort(codes, kind="stable")
    again = order[1:][codes[order][1:] == codes[order][:-1]]
    if len(again):
        firsts = {int(r): int(np.flatnonzero(codes == codes[r])[0]) for r in np.sort(again)[:3]}
        told = {row: f"the same picture as {_in_words(*rows.place(first))}" for row, first in firsts.items()}
        faults = {int(r): told.get(int(r), "a picture that is there twice") for r in again}
        rows.refuse(str(rows.files[0].parent), faults, "bad row")


def _in_words(path: Path, row: int) -> str:
    return f"{path} row {read_rows(path, []).lines[row]}"
