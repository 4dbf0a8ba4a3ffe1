"""Read a list of boxes that radiologists drew around findings, and match it with the list of pictures."""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bench.data.cell_values import number
from bench.data.csv_file import Problems, missing_column, named, quoted
from bench.data.csv_listing import Listing
from bench.data.csv_rows import Name
from bench.errors import DataError, listed, nearest
from bench.paths import counted_from
from bench.pipeline.settings import Settings, not_semantic
from bench.tables import Int64

_ROWS_SHOWN = 6


class BoxSettings(Settings):
    """Which file lists the boxes, and which of its columns hold what. A box counts pixels of the picture's file."""

    csv: str = not_semantic(..., min_length=1, description="file with a header line and a row for each box")
    image_column: Name = Field("image", description="column of the picture's path, or of its file name if only one")
    finding_column: Name = Field("finding", description="column of the class")
    x_column: Name = Field("x", description="column of the pixels from the left edge of the picture to the box")
    y_column: Name = Field("y", description="column of the pixels from the top edge of the picture to the box")
    w_column: Name = Field("w", description="column of the width in pixels")
    h_column: Name = Field("h", description="column of the height in pixels")
    names: dict[Name, Name | None] = Field(
        {}, description="finding in the file → the class that is meant, or null to leave out the boxes of the finding"
    )


@dataclass(frozen=True)
class Boxes:
    """The boxes of the pictures that are listed.

    Attributes:
        where: the file that lists the boxes.
        digest: the digest of its bytes.
        lines: the line of each box in the file.
        rows: `int64 [n]`, the row of each box's picture in the list of pictures.
        classes: `int64 [n]`, the column of each box's class.
        corners: `float64 [n, 4]`, left, top, right and bottom edge in pixels of the picture's file.
        paths: row → path of each picture that has boxes, as the list of pictures has it.
        n_classes: how many classes there are.
        n_by_name: how many boxes name the file of their picture and not its whole path.
        n_unlisted: how many other boxes are of pictures that are not listed or not taken.
        n_left_out: how many other boxes `names` leaves out.
        unlabelled: the lines of the boxes whose class is not 1 in the list of pictures.
    """

    where: str
    digest: str
    lines: tuple[int, ...]
    rows: Int64
    classes: Int64
    corners: npt.NDArray[np.float64]
    paths: Mapping[int, str]
    n_classes: int
    n_by_name: int
    n_unlisted: int
    n_left_out: int
    unlabelled: tuple[int, ...]

    def note(self, with_rows: bool) -> str:
        """Return a phrase on how many boxes are used, and which are not.

        Args:
            with_rows: name rows, for the user's own terminal.
        """
        how = "file name" if self.n_by_name else "path"
        if 0 < self.n_by_name < len(self.lines):
            how = f"path, {self.n_by_name:,} of them by file name"
        said = [f"boxes: {len(self.lines):,} used, in {len(self.paths):,} images, found by {how}"]
        if self.n_unlisted:
            said.append(f"{self.n_unlisted:,} of images that are not taken")
        if self.n_left_out:
            said.append(f"{self.n_left_out:,} left out by boxes.names")
        if self.unlabelled:
            shown = ", ".join(map(str, self.unlabelled[:_ROWS_SHOWN]))
            more = f", … ({len(self.unlabelled) - _ROWS_SHOWN} more)" if len(self.unlabelled) > _ROWS_SHOWN else ""
            rows = f" (rows {shown}{more})" if with_rows else ""
            said.append(f"{len(self.unlabelled):,} of those used are of a finding whose label is not 1{rows}")
        return "; ".join(said)


class _Box(NamedTuple):
    """A row of the file: its line, the picture, the finding, and the edges (left, top, right, bottom)."""

    line: int
    image: str
    finding: str
    corners: tuple[float, float, float, float]


def read_boxes(settings: BoxSettings, listing: Listing, prefix: str = "") -> Boxes:
    """Return the boxes of the pictures that are listed and taken.

    A picture is found by its whole path, or else by its file name if only one listed picture has that name. Pictures
    that are not taken count there, since the box may be theirs.

    Args:
        settings: which file it is, and what its columns are called.
        listing: the list of pictures.
        prefix: what paths in the file may begin with.

    Raises:
        DataError: if the file cannot be read or understood, if a finding is no class, or if no box is of a picture.
    """
    path, paths = Path(settings.csv).expanduser(), listing.paths
    source = _content(path)
    problems = Problems(str(path))
    drawn = _drawn(settings, path, source, problems)
    rows = _rows_of(drawn, listing, prefix, problems)
    problems.raise_if_any("row")
    classes = _classes_of(drawn, settings.names, listing.class_names, path)
    if not rows:
        told = f"the first is of {quoted(drawn[0].image)}, and the first listed picture is {quoted(paths[0])}"
        raise DataError(f"{path}: none of the {len(drawn):,} boxes is of a listed picture ({told}); check image_column")
    taken = [box for box in drawn if box.line in rows]
    used = [(box, rows[box.line][0], c) for box in taken if (c := classes[box.finding]) is not None]
    return Boxes(
        where=str(path),
        digest=hashlib.sha256(source).hexdigest(),
        lines=tuple(box.line for box, _, _ in used),
        rows=np.array([row for _, row, _ in used], np.int64),
        classes=np.array([c for _, _, c in used], np.int64),
        corners=np.array([box.corners for box, _, _ in used], np.float64).reshape(-1, 4),
        paths={row: paths[row] for _, row, _ in used},
        n_classes=len(listing.class_names),
        n_by_name=sum(rows[box.line][1] for box, _, _ in used),
        n_unlisted=len(drawn) - len(taken),
        n_left_out=len(taken) - len(used),
        unlabelled=tuple(box.line for box, row, c in used if listing.labels[row, c] != 1),
    )


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        check = f"check the setting 'boxes.csv'{counted_from(path)}"
        raise DataError(f"{path}: cannot be read ({error.strerror}); {check}") from error


def _drawn(settings: BoxSettings, path: Path, source: bytes, problems: Problems) -> list[_Box]:
    """Return the boxes of the file. Rows that are none are added to `problems`.

    Raises:
        DataError: if the file is no CSV, lacks a column, or has no rows.
    """
    columns = [getattr(settings, f"{what}_column") for what in ("image", "finding", "x", "y", "w", "h")]
    rows = list(_cells(settings, path, source))
    if not rows:
        raise DataError(f"{path}: no rows below the header; want a row for each box")
    found = []
    for line, row in rows:
        box = _box(line, row, columns)
        if isinstance(box, str):
            problems.add(line, box)
        else:
            found.append(box)
    return found


def _box(line: int, row: Mapping[Any, Any], columns: Sequence[str]) -> _Box | str:
    """Return the box of a row, or what is wrong with the row."""
    if any(cell.strip() for cell in row.get(None, ())):  # empty cells at the end do no harm
        return "more cells than the header has; put cells with commas in quotes"
    cells = [(row[column] or "").strip() for column in columns]
    edges = [number(cell) for cell in cells[2:]]
    for column, cell, edge in zip(columns, cells, [0.0, 0.0, *edges], strict=True):
        if not cell:
            return f"column {quoted(column)} is blank"
        if edge is None or not math.isfinite(edge):
            return f"column {quoted(column)} is {quoted(cell)}; want a number of pixels"
    x, y, w, h = (edge or 0.0 for edge in edges)
    if min(w, h) <= 0:
        return f"the box is {w:g} wide and {h:g} high; both must be above 0"
    return _Box(line, cells[0], named(cells[1]), (x, y, x + w, y + h))


def _cells(settings: BoxSettings, path: Path, source: bytes) -> Iterator[tuple[int, dict[Any, Any]]]:
    """Yield the line and the cells of each row.

    Columns that are not named by the settings may have any names, or none: ChestX-ray14's file has three without one.
    """
    try:
        reader = csv.DictReader(io.StringIO(source.decode("utf-8-sig"), newline=""), strict=True)
        header = [named(cell.strip()) for cell in reader.fieldnames or ()]
        counts = Counter(header)
        for setting in (name for name in BoxSettings.model_fields if name.endswith("_column")):
            if not counts[column := getattr(settings, setting)]:
                raise DataError(f"{path}: {missing_column(column, header)}; name it in boxes.{setting}")
            if counts[column] > 1:
                raise DataError(f"{path}: column {quoted(column)} is there {counts[column]} times; name each once")
        reader.fieldnames = header
        for row in reader:
            yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text; save it as a CSV file in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: row {reader.reader.line_num}: {error}; want comma-separated values") from error


def _rows_of(drawn: Sequence[_Box], listing: Listing, prefix: str, problems: Problems) -> dict[int, tuple[int, bool]]:
    """Return line → the row of the box's picture and whether it was found by its file name, if it is taken.

    File names that several listed pictures have are added to `problems`.
    """
    paths, n_taken = [*listing.paths, *listing.left_out], len(listing.paths)
    by_path = {path: row for row, path in enumerate(paths)}
    by_name = defaultdict[str, list[int]](list)
    for row, path in enumerate(paths):
        by_name[path.rpartition("/")[2]].append(row)
    found = {}
    for box in drawn:
        whole = box.image.removeprefix(prefix)
        if (row_of_path := by_path.get(whole)) is not None:
            found[box.line] = row_of_path, False
        elif len(same := by_name.get(whole, ())) > 1:
            two = " and ".join(quoted(paths[i]) for i in same[:2])
            problems.add(box.line, f"{quoted(whole)} may be any of {len(same)} pictures ({two}, …); write its path")
        elif same:
            found[box.line] = same[0], True
    return {line: at for line, at in found.items() if at[0] < n_taken}


def _classes_of(
    drawn: Sequence[_Box], names: Mapping[str, str | None], class_names: Sequence[str], path: Path
) -> dict[str, int | None]:
    """Return finding → the column of its class, or None if it is left out.

    Raises:
        DataError: if a finding is no class, or if `names` has a finding that the file lacks, or no class.
    """
    lines = {box.finding: box.line for box in reversed(drawn)}
    for finding, meant in names.items():
        if finding not in lines:
            have = f"{nearest(finding, lines)} (have: {listed(map(quoted, lines))})"
            raise DataError(f"{path}: boxes.names: no box is of {quoted(finding)}{have}")
        if meant is not None and meant not in class_names:
            have = f"{nearest(meant, class_names)} (have: {listed(class_names)})"
            raise DataError(f"{path}: boxes.names: {quoted(meant)} is no class{have}")
    column = {name: i for i, name in enumerate(class_names)}
    if unknown := [f for f in lines if f not in names and f not in column]:
        first, more = unknown[0], f" (and {len(unknown) - 1} other findings)" if len(unknown) > 1 else ""
        said = f"row {lines[first]}: {quoted(first)} is no class{more}{nearest(first, class_names)}"
        how = f"to rename it, say names: {{{first}: CLASS}} in boxes; to leave its boxes out, {{{first}: null}}"
        raise DataError(f"{path}: {said} (have: {listed(class_names)}); {how}")
    return {f: None if (name := names.get(f, f)) is None else column[name] for f in lines}
