"""Your own images: a folder of pictures, and a CSV file with a column of paths and the labels of each picture."""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from bench.checks import Check
from bench.content_digests import digests
from bench.data.box_masks import BoxedPictures
from bench.data.boxes import BoxSettings, read_boxes
from bench.data.csv_file import Problems, alike
from bench.data.csv_listing import Blank, Bools, Columns, Listing, Uncertain, read_listing
from bench.data.csv_rows import CsvFiles, Name, Value, together
from bench.data.dataset import Dataset, KnownLabels, TableWriter
from bench.data.head_and_tail import head_and_tail
from bench.data.images import Depth, Fit, read_bytes, read_image, refuse_bombs
from bench.data.label_lists import LabelList, a_sign
from bench.data.patient_ids import one_group
from bench.data.picture_paths import find_pictures
from bench.data.source_checks import decoded, look, sampled
from bench.errors import DataError, SourceError, listed
from bench.paths import counted_from
from bench.pipeline.settings import not_semantic, quoting
from bench.pipeline.stage import Work
from bench.tables import Int64, UInt8

_CHUNK = 256  # images that are decoded between two chances for Ctrl-C


class FolderDataset(Dataset):
    """Images that are listed in a CSV file, or in one for each part of an official split.

    Every class has a column, whose label is 1, 0, -1 (uncertain) or blank, or one column lists the labels. Everything
    in the CSV file is checked before anything is computed. Bad rows and unreadable pictures are refused by row. They
    are never left out or replaced by black images. The key holds the digests of the CSV and of all pictures, no paths.
    """

    kind: ClassVar[str] = "folder"

    csv: Annotated[str, Field(min_length=1)] | CsvFiles = not_semantic(
        ..., description="file with a header line, UTF-8, commas; or {train: FILE, val: FILE, test: FILE}"
    )
    root: str = not_semantic("", description="folder that the paths are relative to; empty: the CSV's own folder")
    # In other kinds this is a fixed attribute of the class. Here only the owner of the images knows it.
    sharing: Literal["open", "credentialed"] = not_semantic(  # type: ignore[misc]
        "credentialed", word=True, description="open: anybody may see the pictures, and a tracker gets some of them"
    )
    path_column: Name = "path"
    path_prefix: str = Field("", description="what paths of the file begin with and root does not hold, e.g. set-v1/")
    where: dict[Name, Value | tuple[Value, ...]] = quoting(
        {}, description="column → the value, or the values, of the rows that are taken; all others are left out"
    )
    patient_column: Name | None = Field(
        None,
        description="column of patients, who are never split; null, without patient_pattern: each image counts as a "
        "patient, so images of one person may be in train and test",
    )
    patient_pattern: Annotated[str, AfterValidator(one_group)] | None = Field(
        None, description="instead of patient_column: a regular expression with one group, searched in the path"
    )
    split_column: Name | None = Field(None, description="official split: train, val or test in every row")
    uncertain: Uncertain = Field("unknown", description="meaning of -1: a label, or unknown (not in loss and scores)")
    blank: Blank = Field("unknown", description="meaning of an empty label; negative if the file marks only positives")
    labels_column: Name | None = Field(None, description="column that lists the labels; null: every class has a column")
    label_separator: Annotated[str, AfterValidator(a_sign)] = Field(
        "|", min_length=1, description="what stands between two labels of labels_column"
    )
    no_finding: Name | None = Field(
        None, description="the listed label that says that there is none; no class, unless class_names has it"
    )
    class_names: tuple[Name, ...] | None = Field(
        None, min_length=2, description="null: every other 0/1 column, or all that labels_column lists"
    )
    not_classes: tuple[Name, ...] = Field(
        (), description="columns (or listed labels) that are no classes, although they may look like it"
    )
    head: tuple[Name, ...] | None = Field(None, min_length=1, description="null: every class that is not in the tail")
    tail: tuple[Name, ...] | None = Field(None, min_length=1, description="null: the rarest classes, see n_tail")
    n_tail: int | None = Field(
        None, ge=1, description="how many classes are tail: the rarest (in train, if that is known); null: half of them"
    )
    image_px: int = Field(224, ge=8, le=4096, description="side of the square images")
    colour: bool = Field(False, description="keep red, green and blue; false: all pictures become grey")
    fit: Fit = Field("pad", description="how a picture becomes square: pad with black, crop the centre, or stretch")
    depth: Depth = Field(
        "window",
        description="how 16 bits become 8: window stretches the picture's range without outliers (values farther from "
        "the 2nd or 98th percentile than these lie apart), full scales the whole range",
    )
    invert: bool | str = Field(
        False,
        description="true: black and white are exchanged in all pictures (MONOCHROME1); or the column that says in "
        "which: 1, 0, MONOCHROME1 or MONOCHROME2 in every row",
    )
    boxes: BoxSettings | None = Field(
        None, description="a CSV file of boxes around findings, which the diagnostics of maps are compared with"
    )
    follow_links: bool = not_semantic(False, description="follow links in the root that lead to pictures outside of it")
    workers: int = not_semantic(4, ge=1, le=64, description="threads that decode")

    @model_validator(mode="after")
    def _one_way_to_name_the_tail(self) -> FolderDataset:
        if self.tail is not None and self.n_tail is not None:
            raise ValueError("give tail or n_tail, not both")
        return self

    @model_validator(mode="after")
    def _one_way_to_name_the_patients(self) -> FolderDataset:
        if self.patient_column is not None and self.patient_pattern is not None:
            raise ValueError("give patient_column or patient_pattern, not both")
        return self

    @model_validator(mode="after")
    def _no_class_and_none_at_once(self) -> FolderDataset:
        if both := set(self.class_names or ()) & set(self.not_classes):
            raise ValueError(f"'{min(both)}' is in class_names and in not_classes; name it in one of them")
        return self

    @model_validator(mode="after")
    def _settings_have_an_effect(self) -> FolderDataset:
        if isinstance(self.csv, CsvFiles):
            if len(set(self.files)) < len(self.files):
                raise ValueError("csv names one file for two parts; give each of train, val and test its own")
            if self.split_column is not None:
                raise ValueError("csv has a file for each part already; take split_column out, or give one csv")
            if not self.root and len({Path(f).parent for f in self.files}) > 1:
                raise ValueError(
                    "the files of csv lie in different folders; say in root what the paths are relative to"
                )
        if self.labels_column is None:
            for name in ("no_finding", "label_separator"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} says how labels_column is read; name the labels_column, too")
        elif self.uncertain != "unknown":
            raise ValueError("uncertain is the meaning of -1; labels_column lists names, take uncertain out")
        return self

    @field_validator("csv", mode="before")
    @classmethod
    def _has_all_parts(cls, given: object) -> object:
        if isinstance(given, dict) and given.keys() != CsvFiles.model_fields.keys():
            got = listed(map(str, given)) or "none"
            raise ValueError(
                f"want a file for each of train, val and test, got {got}; for another split, give one file"
            )
        return given

    @field_validator("where")
    @classmethod
    def _selects_something(cls, where: dict[str, Value | tuple[Value, ...]]) -> dict[str, Value | tuple[Value, ...]]:
        if empty := next((column for column, values in where.items() if values == ()), None):
            raise ValueError(f"'{empty}' has no value, so no row could be taken; give one value or more")
        return where

    @field_validator("class_names", "not_classes", "head", "tail")
    @classmethod
    def _each_once(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if pair := alike(names or ()):
            said = "is there twice" if pair[0] == pair[1] else f"and '{pair[1]}' differ only in capitals or white space"
            raise ValueError(f"'{pair[0]}' {said}; name each once")
        return names

    @property
    def folder(self) -> Path:
        """The folder that the paths are relative to."""
        return Path(self.root).expanduser() if self.root else self.files[0].parent

    @property
    def files(self) -> list[Path]:
        """The CSV file, or those of train, val and test."""
        given = [self.csv] if isinstance(self.csv, str) else [self.csv.train, self.csv.val, self.csv.test]
        return [Path(file).expanduser() for file in given]

    @property
    def _told(self) -> str:
        """What messages call the CSV file or files."""
        return self.csv if isinstance(self.csv, str) else together(self.files)

    def known_classes(self) -> tuple[str, ...] | None:
        """Return the class names from the settings or else from the CSV file; None if neither is there.

        Raises:
            DataError: if the CSV file cannot be used.
        """
        return self.class_names or (self._listing().class_names if self._is_there() else None)

    def known_labels(self) -> KnownLabels | None:
        """Return what the CSV file says of every picture, or None if there is no such file yet.

        Raises:
            DataError: if the CSV file cannot be used.
        """
        return self._known(self._listing()) if self._is_there() else None

    def _known(self, listing: Listing) -> KnownLabels:
        head, tail = (tuple(names) for names in self._head_and_tail(listing))
        known = listing.class_names, listing.labels, listing.patients, listing.splits
        return KnownLabels(*known, head, tail, patients_known=listing.patients_known)

    def selection_note(self) -> str:
        """Return what is not taken of the CSV file, and what looks like a patient's id but is not named."""
        if not self._is_there():
            return ""
        listing = self._listing()
        boxes = "" if self._boxes is None else self._boxes.boxes.note(with_rows=False)
        return "; ".join(text for text in (*listing.notes(with_names=False), listing.patient_hint, boxes) if text)

    def content(self) -> dict[str, str]:
        """Return the digests of the CSV file with all pictures and of the boxes, which stand in the key for the paths.

        Raises:
            DataError: if the CSV file cannot be used, or if pictures are missing (the message names the first).
        """
        # A key is computed at every start. The digests of pictures that have not changed are remembered, so that only
        # the first start reads all of them.
        listing = self._listing()
        self._keep_size(self._known(listing))
        _, found = self._pictures(listing)
        boxes = {} if self._boxes is None else {"boxes": self._boxes.boxes.digest}
        return {"digest": _digest(listing, found)} | boxes

    def compute(self, work: Work) -> None:
        """Decode every picture into the table.

        Raises:
            DataError: if pictures cannot be used (the message names the first, and their number), or if the data
                changed after the key was computed.
        """
        listing = self._listing()
        head, tail = self._head_and_tail(listing)
        paths, known = self._pictures(listing)
        # A job may start a day after it was planned. Data that changed in that time must not be stored under a key that
        # stands for the old data.
        if _digest(listing, known) != self.identity["content"]["digest"]:
            raise DataError(f"{self._told}: the CSV or its pictures changed since this run was planned; run it again")
        if self._boxes is not None:
            self._boxes.sizes()  # refuses boxes that are not in their pictures
        problems = Problems(self._told)
        writer = TableWriter(work.out, len(paths), self.image_px, self.colour)
        with warnings.catch_warnings():
            refuse_bombs()
            for done, problem in enumerate(self._decode(paths, known, listing.inverted, writer), start=1):
                if problem:
                    problems.add(listing.lines[done - 1], f"{listing.paths[done - 1]}: {problem}")
                work.progress(done, len(paths), "decode")
        problems.raise_if_any("picture")
        writer.finish(
            listing.labels,
            listing.patients,
            listing.class_names,
            head,
            tail,
            splits=listing.splits,
            patients_known=listing.patients_known,
        )

    def true_masks(self, rows: Int64, side: int) -> Bools | None:
        """Return the sites that the boxes of each class cover by half or more, or None if there are no boxes.

        A mask is also empty if the finding is there and nobody drew a box. See `bench.data.box_masks.box_mask`.

        Raises:
            ValueError: if there are more sites than pixels.
            DataError: if a box is not inside its picture.
        """
        if self._boxes is None:
            return None
        if not 1 <= side <= self.image_px:
            raise ValueError(f"side: want 1 to image_px = {self.image_px}, got {side}")
        return self._boxes.masks(rows, side)

    def name_of(self, row: int, folder: Path) -> str:
        """Return the row of the CSV file and the path of a picture."""
        listing = self._listing()
        return f"row {listing.lines[row]} ({listing.paths[row]})"

    def sources(self) -> Iterator[Check]:
        """Yield checks of the CSV file and of a few pictures."""
        try:
            listing = self._listing()
            head, tail = self._head_and_tail(listing)
        except DataError as error:
            yield Check("CSV", False, str(error))
            if not self.folder.is_dir():
                none = f"{self._told}: {self.folder}: no such folder"
                yield Check("pictures", False, f"{none}; check the setting 'root'{counted_from(self.folder)}")
            return
        size = f"{len(listing.paths):,} rows, {len(head)} head and {len(tail)} tail classes"
        more = "; ".join(listing.notes(with_names=True))
        yield Check("CSV", True, f"{self._told}, {size}{f'; {more}' if more else ''}")
        yield listing.see_patients()
        yield look("pictures", lambda: self._see_pictures(listing))
        if self.boxes is not None:
            yield look("boxes", lambda: self._boxes.see() if self._boxes else "none")

    def _see_pictures(self, listing: Listing) -> str:
        rows = sampled(len(listing.paths))
        paths, lines = [listing.paths[i] for i in rows], [listing.lines[i] for i in rows]
        found = find_pictures(self._told, self.folder, paths, lines, self.follow_links)
        try:
            size = decoded(found[0], self._read)
        except DataError as error:
            raise DataError(f"{self._told}: row {lines[0]}: {paths[0]}: {error}") from error
        few = f"{len(found)} of {len(listing.paths):,} pictures looked for and there"
        return f"{self.folder}, {few}, one decoded ({size})"

    @functools.cached_property
    def _boxes(self) -> BoxedPictures | None:
        # It is read once, so that the masks are of the very boxes whose digest is in the key.
        if self.boxes is None:
            return None
        listing = self._listing()
        boxes = read_boxes(self.boxes, listing, self.path_prefix)
        return BoxedPictures(boxes, self.folder, self.fit, self.follow_links, self.workers)

    def _read(self, picture: Path | bytes, invert: bool = False) -> UInt8:
        return read_image(picture, self.image_px, self.fit, self.depth, invert=invert, colour=self.colour)

    def _is_there(self) -> bool:
        return any(file.exists() for file in self.files)

    def _listing(self) -> Listing:
        columns = Columns(
            path=self.path_column,
            patient=self.patient_column,
            pattern=self.patient_pattern,
            split=self.split_column,
            classes=self.class_names,
            not_classes=self.not_classes,
            uncertain=self.uncertain,
            blank=self.blank,
            inverted=self.invert if isinstance(self.invert, str) else None,
            lists=self._lists(),
            where=tuple((c, v if isinstance(v, tuple) else (v,)) for c, v in self.where.items()),
            prefix=self.path_prefix,
        )
        return read_listing(self.files, columns)

    def _lists(self) -> LabelList | None:
        if self.labels_column is None:
            return None
        return LabelList(self.labels_column, self.label_separator, self.no_finding, self.blank == "negative")

    def _pictures(self, listing: Listing) -> tuple[list[Path], list[bytes]]:
        """Return the path and the SHA-256 of every picture.

        Raises:
            DataError: if pictures are missing (the message names the first), or if one cannot be read.
        """
        paths = find_pictures(self._told, self.folder, listing.paths, listing.lines, self.follow_links)
        try:
            return paths, digests(paths, self.folder, self.workers)
        except OSError as error:
            raise SourceError(f"{self._told}: {error.filename}: cannot be read ({error.strerror})") from error

    def _head_and_tail(self, listing: Listing) -> tuple[list[str], list[str]]:
        """Return the names of the head and of the tail classes, in column order.

        Raises:
            DataError: for a name that is not a class, a class in both, or a tail that leaves no head.
        """
        known = listing.class_names, listing.labels, listing.splits
        return head_and_tail(self._told, *known, self.head, self.tail, self.n_tail)

    def _decode(
        self, paths: list[Path], known: list[bytes], inverted: Bools | None, writer: TableWriter
    ) -> Iterator[str | None]:
        """Decode the pictures into the writer's rows with threads; yield each picture's fault or None, in order."""

        def one(i: int) -> str | None:
            try:
                content = read_bytes(paths[i])
                if hashlib.sha256(content).digest() != known[i]:
                    return "changed since this run was planned; run it again"
                invert = bool(self.invert) if inverted is None else bool(inverted[i])
                writer.images[i] = self._read(content, invert)
            except DataError as error:
                return str(error)
            return None

        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, len(paths), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(paths)))
                yield from pool.map(one, chunk)


def _digest(listing: Listing, found: list[bytes]) -> str:
    return hashlib.sha256(bytes.fromhex(listing.digest) + b"".join(found)).hexdigest()[:32]
