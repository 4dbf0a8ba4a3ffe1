"""Your own images: a CSV with a column of paths and a column of 0/1 for every class, beside a folder of pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.datasets.base import Dataset, TableWriter
from bench.datasets.images import Depth, Fit, read_image
from bench.datasets.rows import PARTS, Problems, Rows, class_columns, label_matrix, read_rows
from bench.errors import DataError, listed, nearest
from bench.stage import not_semantic
from bench.types import Float32, Int64

_CHUNK = 256  # images decoded between two looks at Ctrl-C


class FolderDataset(Dataset):
    """Images listed in a CSV file. Bad rows and unreadable pictures are refused by row, never left out or blackened.

    A label is 1, 0, or unknown (blank or -1). Only the content enters keys: the CSV's bytes and the pictures' sizes.
    """

    kind: ClassVar[str] = "folder"
    sharing: ClassVar[Literal["open", "credentialed"]] = (
        "credentialed"  # we cannot know who may see a stranger's folder
    )

    csv: str = not_semantic(..., min_length=1, description="file with a header line, UTF-8, commas")
    root: str = not_semantic("", description="folder that the paths are relative to; empty: the CSV's own folder")
    path_column: str = "path"
    patient_column: str | None = Field(
        None,
        description="splits never cut through a patient; none: each image its own, so one may be in train and test",
    )
    split_column: str | None = Field(None, description="official split: train, val or test in every row")
    class_names: tuple[str, ...] | None = Field(None, min_length=2, description="none: every other 0/1 column")
    head: tuple[str, ...] | None = Field(None, min_length=1, description="none: every class that is not tail")
    tail: tuple[str, ...] | None = Field(None, min_length=1, description="none: the rarest, see n_tail")
    n_tail: int | None = Field(
        None, ge=1, description="the rarest (of the train rows, where known); none: half of them"
    )
    image_px: int = Field(224, ge=8, le=4096, description="side of the square images")
    fit: Fit = Field("pad", description="how a picture becomes square: pad with black, crop the centre, or stretch")
    depth: Depth = Field("minmax", description="how 16 bits become 8: the picture's own range, or all of it")
    workers: int = not_semantic(4, ge=1, le=64, description="threads that decode")

    @model_validator(mode="after")
    def _one_way_to_name_the_tail(self) -> FolderDataset:
        if self.tail is not None and self.n_tail is not None:
            raise ValueError("give tail or n_tail, not both")
        return self

    @property
    def folder(self) -> Path:
        """Folder that the paths are relative to."""
        return Path(self.root).expanduser() if self.root else Path(self.csv).expanduser().parent

    def known_classes(self) -> tuple[str, ...] | None:
        """Return the class names where the settings give them."""
        return self.class_names

    def content(self) -> dict[str, str]:
        """Return the digest of the CSV and of the pictures' sizes, which stands in keys for the paths.

        Raises:
            DataError: if the CSV cannot be read.
        """
        rows = read_rows(Path(self.csv).expanduser(), self._columns())
        sizes = [_size(self.folder / path) for path in rows.column(self.path_column)]
        digest = hashlib.sha256(rows.source + json.dumps(sizes).encode())
        return {"digest": digest.hexdigest()[:32]}

    def compute(self, work: Any) -> None:
        """Check every row, then decode every picture into the memory map.

        Raises:
            DataError: naming the first rows at fault and their number.
        """
        rows = read_rows(Path(self.csv).expanduser(), self._columns())
        names = class_columns(rows, self.class_names, self._columns())
        problems = Problems(str(self.csv))
        labels = label_matrix(rows, names, problems)
        splits = self._splits(rows, problems)
        paths = self._paths(rows, problems)
        problems.stop("row")
        head, tail = self._head_and_tail(names, labels if splits is None else labels[splits == 0])
        writer = TableWriter(work.out, len(rows), self.image_px)
        for done, (path, problem) in enumerate(self._decode(paths, writer), start=1):
            if problem:
                problems.add(rows.lines[done - 1], f"{path}: {problem}")
            work.progress(done, len(paths), "decode")
        problems.stop("picture")
        writer.finish(labels, self._patients(rows), names, head, tail, splits=splits)

    def _columns(self) -> list[str]:
        """Return the columns that hold something else than a class."""
        return [c for c in (self.path_column, self.patient_column, self.split_column) if c is not None]

    def _patients(self, rows: Rows) -> Int64:
        if self.patient_column is None:
            return np.arange(len(rows), dtype=np.int64)
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(p, len(numbers)) for p in rows.column(self.patient_column)], dtype=np.int64)

    def _splits(self, rows: Rows, problems: Problems) -> Int64 | None:
        if self.patient_column is not None:
            for line, patient in zip(rows.lines, rows.column(self.patient_column), strict=True):
                if not patient:
                    problems.add(line, f"column '{self.patient_column}' is blank")
        if self.split_column is None:
            return None
        splits = np.zeros(len(rows), dtype=np.int64)
        for i, text in enumerate(rows.column(self.split_column)):
            if text.lower() not in PARTS:
                problems.add(rows.lines[i], f"column '{self.split_column}' is '{text}'; allowed: train, val, test")
            splits[i] = PARTS.get(text.lower(), 0)
        return splits

    def _paths(self, rows: Rows, problems: Problems) -> list[Path]:
        """Return the picture of every row, each there, inside the root, and used once."""
        root = self.folder.resolve()
        first: dict[Path, int] = {}
        paths = []
        for line, text in zip(rows.lines, rows.column(self.path_column), strict=True):
            path = _resolved(root / text)
            fault = _path_fault(text, path, root)
            if fault is None and path in first:
                fault = f"the same picture as row {first[path]}"
            if fault is not None:
                problems.add(line, f"{text or 'no path'}: {fault}")
            first.setdefault(path, line)
            paths.append(path)
        return paths

    def _head_and_tail(self, names: tuple[str, ...], labels: Float32) -> tuple[list[str], list[str]]:
        """Return head and tail names in column order.

        Raises:
            DataError: for a name that is no class, a class in both, or a tail that leaves no head.
        """
        for name in (*(self.head or ()), *(self.tail or ())):
            if name not in names:
                raise DataError(f"{self.csv}: no class '{name}'{nearest(name, names)} (have: {listed(names)})")
        wanted = self.n_tail or max(1, len(names) // 2)
        rarest = np.argsort(np.nansum(labels, axis=0), kind="stable")[:wanted]
        tail = set(self.tail) if self.tail is not None else {names[i] for i in rarest}
        head = set(self.head) if self.head is not None else set(names) - tail
        if head & tail:
            raise DataError(f"{self.csv}: {listed(head & tail)} in head and in tail; name each class once")
        if not head:
            raise DataError(f"{self.csv}: all {len(names)} classes are tail; at least one must be head")
        return [n for n in names if n in head], [n for n in names if n in tail]

    def _decode(self, paths: list[Path], writer: TableWriter) -> Iterator[tuple[Path, str | None]]:
        """Decode into the writer's rows by threads; yield, in order, each path and what is wrong with it or None."""

        def one(i: int) -> str | None:
            try:
                writer.images[i] = read_image(paths[i], self.image_px, self.fit, self.depth)
            except DataError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(paths), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(paths)))
                yield from zip(paths[chunk.start : chunk.stop], pool.map(one, chunk), strict=True)


def _size(path: Path) -> int:
    """Return the file's size in bytes, -1 where there is none."""
    try:
        return path.stat().st_size
    except (OSError, ValueError):
        return -1


def _resolved(path: Path) -> Path:
    """Return where `path` leads; as it stands, where that cannot be told (a loop of links, a forbidden letter)."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):
        return path


def _path_fault(text: str, path: Path, root: Path) -> str | None:
    if not text:
        return "the path is blank"
    if not path.is_relative_to(root):
        return f"leads out of the root {root} (by '..', a link, or an absolute path)"
    size = _size(path)
    if size < 0:
        return "no such file"
    if not path.is_file():
        return "not a file"
    return "the file is empty" if size == 0 else None
