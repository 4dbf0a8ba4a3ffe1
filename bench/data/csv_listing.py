"""Read what a CSV file says about pictures: classes, labels, patients and the official split.

Everything that can be checked without opening a picture is checked here.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from bench.checks import Check
from bench.data.cell_values import label_of
from bench.data.class_columns import PARTS, class_columns, looks_like_a_class, not_taken
from bench.data.csv_file import Problems, Rows, quoted, unreadable
from bench.data.csv_rows import Joined, Where, read_joined, taken
from bench.data.label_lists import LabelList, Listed, read_lists
from bench.data.patient_ids import hint, ids_of, numbered
from bench.errors import DataError, listed
from bench.tables import Float32, Int64

Uncertain = Literal["unknown", "negative", "positive"]
Blank = Literal["unknown", "negative"]
Bools = npt.NDArray[np.bool_]
_INVERTED = {"1": True, "1.0": True, "MONOCHROME1": True, "0": False, "0.0": False, "MONOCHROME2": False}
_PART_NAMES = ("train", "val", "test")
_MOST_DIFFERING = 6  # columns that a message names


@dataclass(frozen=True)
class Columns:
    """Which columns hold what, and what their cells mean. `FolderDataset` has the settings of the same names."""

    path: str
    patient: str | None
    pattern: str | None
    split: str | None
    classes: tuple[str, ...] | None
    not_classes: tuple[str, ...]
    uncertain: Uncertain
    blank: Blank
    inverted: str | None = None
    lists: LabelList | None = None
    where: Where = ()
    prefix: str = ""

    @property
    def others(self) -> list[str]:
        """The columns that do not hold a class and must be there."""
        listing = None if self.lists is None else self.lists.column
        named = (self.path, self.patient, self.split, self.inverted, listing)
        return list(dict.fromkeys(c for c in named if c is not None))

    def label(self, text: str) -> float | None:
        """Return the label that the text of a cell stands for, NaN = unknown, or None if it is no label."""
        values = {"unknown": np.nan, "negative": 0.0, "positive": 1.0}
        return label_of(text, values[self.uncertain], values[self.blank])


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
        patients_known: whether the file says who the patients are; else every picture counts as one.
        not_taken: columns that neither hold a class nor are named by the settings, each with the reason.
        patient_hint: which setting would give the patients, if they are not known and something looks like them.
        left_out: the paths of the rows that `where` leaves out.
        listed: what the lists of labels say, or None if every class has a column.
    """

    digest: str
    paths: tuple[str, ...]
    lines: tuple[int, ...]
    class_names: tuple[str, ...]
    labels: Float32
    patients: Int64
    splits: Int64 | None
    inverted: Bools | None
    patients_known: bool
    not_taken: Mapping[str, str]
    patient_hint: str
    left_out: tuple[str, ...] = ()
    listed: Listed | None = None

    def notes(self, with_names: bool) -> list[str]:
        """Return phrases on what is not taken of the file.

        Args:
            with_names: name labels that are not taken, for the user's own terminal.
        """
        n = len(self.left_out)
        left_out = f"where leaves out {n:,} of {len(self.paths) + n:,} rows" if n else ""
        labels = "" if self.listed is None else self.listed.note(with_names)
        return [text for text in (not_taken(self.not_taken), labels, left_out) if text]

    def see_patients(self) -> Check:
        """Return a check of what is known of the patients."""
        if self.patients_known:
            n = len(np.unique(self.patients))
            return Check("patients", True, f"{n:,} patients, of whom none is in two parts of a split")
        told = "not known: each image counts as a patient of its own"
        hint = f"; {self.patient_hint}" if self.patient_hint else ""
        return Check("patients", True, f"{told}{hint}", warns=bool(hint))


def read_listing(files: Sequence[Path], columns: Columns) -> Listing:
    """Return what a CSV file says, or one for each of train, val and test. It is read once while it does not change.

    Raises:
        DataError: if it cannot be read or understood, or if its rows contradict each other.
    """
    # A plan asks for the listing of one file dozens of times. Inode, size and time tell whether the file has changed.
    versions = []
    for csv in files:
        try:
            found = csv.stat()
        except OSError as error:
            raise unreadable(csv, error) from error
        versions.append((found.st_ino, found.st_size, found.st_mtime_ns))
    return _read(tuple(files), columns, Path.cwd(), tuple(versions))


@functools.lru_cache(maxsize=4)
def _read(files: tuple[Path, ...], columns: Columns, cwd: Path, versions: tuple[tuple[int, ...], ...]) -> Listing:
    whole = read_joined(files, columns.others)
    joined = taken(whole, columns.where)
    rows = joined.rows
    _refuse_repeated_paths(rows, columns)
    problems = Problems(str(rows.path))
    names, labels, others, lists = _classes_and_labels(joined, columns, problems)
    ids = ids_of(rows, columns.patient, columns.pattern, columns.path, problems)
    splits = _splits(joined, columns, ids, problems)
    inverted = _inverted(rows, columns, problems)
    problems.raise_if_any("row")
    patients, paths = numbered(ids, len(rows)), _below_prefix(rows, columns)
    left_out = () if joined is whole else tuple(set(_below_prefix(whole.rows, columns)).difference(paths))
    for array in (labels, patients, splits, inverted):
        if array is not None:
            array.setflags(write=False)  # all callers share these arrays through the cache
    return Listing(
        digest=hashlib.sha256(rows.source).hexdigest(),
        paths=paths,
        lines=tuple(rows.lines),
        class_names=names,
        labels=labels,
        patients=patients,
        splits=splits,
        inverted=inverted,
        patients_known=bool(ids),
        not_taken=others,
        patient_hint="" if ids else hint(rows, [*columns.others, *names], columns.path),
        left_out=left_out,
        listed=lists,
    )


def _below_prefix(rows: Rows, columns: Columns) -> tuple[str, ...]:
    """Return the paths without the prefix that some or all of them have."""
    paths = rows.column(columns.path)
    if columns.prefix and not any(path.startswith(columns.prefix) for path in paths):
        first = f"the first is {quoted(paths[0])}"
        raise DataError(f"{rows.path}: path_prefix: no path begins with {quoted(columns.prefix)}; {first}")
    return tuple(path.removeprefix(columns.prefix) for path in paths)


def _classes_and_labels(
    joined: Joined, columns: Columns, problems: Problems
) -> tuple[tuple[str, ...], Float32, Mapping[str, str], Listed | None]:
    """Return the classes, their labels, what is not taken with the reason, and what the lists say if there are any."""
    rows = joined.rows
    # A column that `where` chooses rows by can be a class as well, e.g. if it leaves out the uncertain ones.
    by = [name for name, _ in columns.where if name not in (columns.classes or ())]
    classes = [name for name in by if looks_like_a_class(rows, name)]
    single = {name: "where leaves it a single value" for name in classes if len(set(rows.column(name))) == 1}
    named = [*columns.others, *single, *(name for name in by if name not in classes)]
    if columns.lists is None:
        names, others = class_columns(rows, named, columns.not_classes, columns.classes)
        return names, _labels(rows, names, columns, problems), {**others, **single, **joined.partial}, None
    found = read_lists(rows, columns.lists, columns.classes, columns.not_classes, problems)
    beside = [c for c in rows.header if c not in named and looks_like_a_class(rows, c)]
    why = f"labels are taken from '{columns.lists.column}'"
    return found.class_names, found.labels, {**dict.fromkeys(beside, why), **single, **joined.partial}, found


def _refuse_repeated_paths(rows: Rows, columns: Columns) -> None:
    """Refuse a list that has several rows for most pictures, e.g. one for each reader, and say how they differ."""
    paths = rows.column(columns.path)
    counts = Counter(path for path in paths if path)
    if 2 * len(counts) > counts.total() or not counts:
        return  # single repetitions are faults of their rows, see `picture_paths`
    differing = [c for c in rows.header if c and len(set(zip(paths, rows.column(c), strict=True))) > len(counts)]
    per = counts.values()
    several = f"{min(per)}" if min(per) == max(per) else f"{min(per)} to {max(per)}"
    told = listed((quoted(c) for c in differing), _MOST_DIFFERING) or "none"
    raise DataError(
        f"{rows.path}: {several} rows for each picture (columns that differ between them: {told}); merge the rows of a "
        "picture into one, e.g. with the label that most of them have"
    )


def _labels(rows: Rows, names: tuple[str, ...], columns: Columns, problems: Problems) -> Float32:
    """Return the labels `float32 [n, C]`, 0, 1 or NaN = unknown. Cells that are no label are added to `problems`."""
    labels = np.zeros((len(rows), len(names)), np.float32)
    for column, name in enumerate(names):
        cells = rows.column(name)
        # A column can have a million cells but has few different ones, so each text is read only once.
        meaning = {text: columns.label(text) for text in set(cells)}
        for row, text in enumerate(cells if None in meaning.values() else ()):
            if meaning[text] is None:
                allowed = "allowed: 1, 0, -1 (uncertain) or blank"
                problems.add(rows.lines[row], f"class '{name}' is {quoted(text)}; {allowed}")
                problems.hint = "" if columns.classes else "; name columns that are not classes in not_classes"
        labels[:, column] = [meaning[text] or 0.0 for text in cells]
    return labels


def _splits(joined: Joined, columns: Columns, ids: Sequence[str], problems: Problems) -> Int64 | None:
    rows = joined.rows
    if joined.parts is not None and ids:
        _refuse_cut_patients(rows, ids, joined.parts, problems)
    if columns.split is None:
        return joined.parts
    cells = rows.column(columns.split)
    for line, text in zip(rows.lines, cells, strict=True):
        if text.lower() not in PARTS:
            said = f"is {quoted(text)}" if text else "is blank"
            problems.add(line, f"column '{columns.split}' {said}; allowed: train, val, test")
    splits = np.array([PARTS.get(text.lower(), 0) for text in cells], dtype=np.int64)
    if ids and not problems.found:
        _refuse_cut_patients(rows, ids, splits, problems)
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
