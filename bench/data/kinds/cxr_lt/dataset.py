"""MIMIC-CXR-LT and NIH-CXR-LT, the data sets of the paper and of the CXR-LT challenges, as they are downloaded."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, field_validator, model_validator

from bench.checks import Check
from bench.data.bulk_decode import MISSING, ResumableTable, decode, look_up
from bench.data.dataset import Dataset, KnownLabels
from bench.data.images import Fit, read_image
from bench.data.kinds.cxr_lt.choice import Item, Selection, SelectionSettings, choose
from bench.data.kinds.cxr_lt.files import digest, find_files
from bench.data.kinds.cxr_lt.labels import read_labels
from bench.data.kinds.cxr_lt.releases import FRONTAL, MIMIC, MIMIC_LAYOUT, NIH, NIH_LAYOUT, PAPER, Layout, Release
from bench.data.read_pictures import changes, write_record
from bench.data.source_checks import decoded, is_there, look, sampled
from bench.errors import DataError, SourceError
from bench.files import write_strict_json
from bench.paths import counted_from
from bench.pipeline.settings import not_semantic
from bench.pipeline.stage import Resources, Work
from bench.tables import Int64

Jpeg = Literal["draft", "full"]
Missing = Literal["refuse", "leave_out"]


class CxrLt(Dataset):
    """What both data sets share: official splits, a choice of classes and patients, and decoding that can be resumed.

    The key holds the settings and the digest of the label files, and nothing of the pictures, because a digest of a
    quarter of a million of them would take hours. The table has a record of what they were instead, and a run whose
    pictures have changed since is refused; see `bench.data.read_pictures`.
    """

    resources: ClassVar[Resources] = Resources(cpus=4, memory_gb=8.0, minutes=240)
    beside_published: ClassVar[bool] = True
    layout: ClassVar[Layout]
    releases: ClassVar[Mapping[str, Release]]

    labels: str | None = not_semantic(None, min_length=1, description="folder of the label files (CSV); null: root")
    root: str = not_semantic(..., min_length=1, description="folder of the pictures, as it was downloaded")
    classes: Literal["paper", "all"] | tuple[Item, ...] = Field(
        "all", description="paper, all, or names and ranks (1 is the most frequent in train)"
    )
    head: tuple[Item, ...] | None = Field(None, min_length=1, description="names and ranks; null: all that is not tail")
    tail: tuple[Item, ...] | None = Field(None, min_length=1, description="names and ranks; null: the n_tail rarest")
    n_tail: int | None = Field(None, ge=1, description="how many classes are tail, the rarest in train; null: half")
    limit: int | None = Field(None, ge=3, description="how many patients are drawn; null: all are used")
    keep_tail: float | None = Field(
        1.0,
        ge=0,
        le=1,
        description="share of the patients with a positive of the tail that a limit keeps; null: labels do not matter",
    )
    sample_seed: int = Field(0, ge=0, description="seed of the draw that a limit makes")
    image_px: int = Field(224, ge=8, le=4096, description="side of the square images")
    fit: Fit = Field("pad", description="how a picture becomes square: pad with black, crop the centre, or stretch")
    jpeg: Jpeg = Field(
        "draft", description="draft: the JPEG decoder shrinks by 2, 4 or 8 itself, never below twice image_px"
    )
    missing: Missing = Field("refuse", description="what happens if a picture is missing: an error, or it is left out")
    edition: int = Field(
        1,
        ge=1,
        description="a new number reads all pictures again, after some were replaced or added; old results stay",
    )
    workers: int = not_semantic(4, ge=1, le=128, description="threads that look up and decode")

    @model_validator(mode="before")
    @classmethod
    def _nothing_is_drawn(cls, given: Any) -> Any:
        """Set `keep_tail` to its default where it has no effect, so that equal results get equal keys.

        Without a limit, all patients are used.
        """
        if isinstance(given, dict) and given.get("limit") is None and given.get("keep_tail", 1) is None:
            return given | {"keep_tail": 1.0}
        return given

    @model_validator(mode="after")
    def _settings_agree(self) -> CxrLt:
        if not isinstance(self.classes, str) and len(self.classes) < 2:
            raise ValueError("classes: want two or more")
        if self.classes == PAPER and (self.head or self.tail or self.n_tail):
            raise ValueError("classes: paper names head and tail; give none of head, tail and n_tail")
        if self.tail is not None and self.n_tail is not None:
            raise ValueError("give tail or n_tail, not both")
        if self.limit is None and (self.keep_tail != 1 or self.sample_seed):
            raise ValueError("keep_tail and sample_seed say how a limit draws; give a limit")
        return self

    release: str

    @property
    def source(self) -> Release:
        """The release that the setting `release` names."""
        return self.releases[self.release]

    @abstractmethod
    def _views(self) -> str | tuple[str, ...]:
        """Return the views that are used, or `all`."""

    def known_classes(self) -> tuple[str, ...] | None:
        """Return the names of the chosen classes, or None if the label files are not there.

        Raises:
            DataError: if the label files cannot be used.
        """
        return self._chosen().classes.names if self._is_there() else None

    def known_labels(self) -> KnownLabels | None:
        """Return what the label files say of the chosen rows, or None if the files are not there.

        Raises:
            DataError: if the label files cannot be used.
        """
        # Reading a quarter of a million rows takes two seconds. That is little against hours of decoding for a split
        # that is refused afterwards.
        return self._known() if self._is_there() else None

    def _known(self) -> KnownLabels:
        chosen = self._chosen()
        c = chosen.classes
        return KnownLabels(c.names, chosen.labels, chosen.patients, chosen.splits, c.head, c.tail)

    def pilot_settings(self) -> dict[str, Any]:
        """Return settings for at most 2,000 patients, drawn without regard to their labels."""
        return {"limit": min(2000, self.limit or 2000), "keep_tail": None}

    def content(self) -> dict[str, str]:
        """Return the digest of the label files, which stands in the key for the folders.

        Raises:
            DataError: if the label files are missing or cannot be used.
        """
        self._keep_size(self._known())
        return {"digest": digest(self._files())}

    def selection_note(self) -> str:
        """Return the release, the views, and how patients are drawn."""
        views = self._views()
        seen = "" if isinstance(views, str) else f", views {' and '.join(views)}"
        if self.limit is None:
            return f"release {self.release}{seen}, all patients"
        words: dict[float | None, str] = {None: "whatever their labels", 1: "those with a tail class first"}
        share = words.get(self.keep_tail, f"first {self.keep_tail} of those with a tail class, then others without")
        return f"release {self.release}{seen}, {self.limit:,} patients drawn ({share}; draw {self.sample_seed})"

    def pictures(self) -> list[Path]:
        """Return the path where the picture of every chosen row should be.

        Raises:
            DataError: if the label files cannot be used.
            SourceError: if the root is not a folder.
        """
        folders = self._folders()
        chosen = self._chosen()
        names = chosen.rows.paths.take(chosen.index).to_pylist()
        where = {e.name: f for f in reversed(folders) for e in f.iterdir()} if len(folders) > 1 else {}
        return [where.get(name, folders[0]) / name for name in names]

    def name_of(self, row: int, folder: Path) -> str:
        """Return the label file and the row of a picture."""
        return self._chosen().rows.name_of(int(np.load(folder / "source_rows.npy")[row]))

    def changed_source(self, folder: Path) -> str | None:
        """Return how the pictures have changed since the table in `folder` was made, and what to do, or None.

        Raises:
            DataError: if the label files cannot be used, or if pictures cannot be reached.
        """
        found = changes(folder, self.pictures(), self.workers) if Path(self.root).expanduser().is_dir() else None
        if not found:
            return None
        again = f"set edition: {self.edition + 1} to read them again (results of edition {self.edition} stay)"
        return f"{found}; {again}, or put the old pictures back"

    def _folders(self) -> list[Path]:
        """Return the folders where pictures may be: a single one, or those that the release's archives unpack to.

        Raises:
            SourceError: if the root is not a folder.
        """
        root = Path(self.root).expanduser()
        if not root.is_dir():
            raise SourceError(f"{self.kind}: {root}: no such folder; check the setting 'root'{counted_from(root)}")
        found = [p for f in self.layout.folders for p in (sorted(root.glob(f)) if f else [root]) if p.is_dir()]
        return found if any("*" in f for f in self.layout.folders) else found[:1]

    def sources(self) -> Iterator[Check]:
        """Yield checks of the label files and of a few pictures. No text quotes a path from the label files."""
        try:
            chosen = self._chosen()
        except DataError as error:
            yield Check("label files", False, str(error))
            yield look("pictures", self._see_root)
            return
        rows = f"{len(chosen.rows.labels):,} rows, {len(chosen.index):,} of them taken"
        yield Check("label files", True, f"{self._files()[0].parent}, {rows}, {len(chosen.classes.names)} classes")
        yield look("pictures", lambda: self._see_pictures(chosen))

    def _see_root(self) -> str:
        return f"{self._folders()[0]} is a folder; its pictures are checked once the label files can be read"

    def _see_pictures(self, chosen: Selection) -> str:

        folders, looked = self._folders(), np.array(sampled(len(chosen.index)))
        names = chosen.rows.paths.take(chosen.index[looked]).to_pylist()
        found = {i: p for i, n in zip(looked.tolist(), names, strict=True) for f in folders if is_there(p := f / n)}
        self._refuse_missing(chosen, np.array(list(found)), looked)
        row, path = next(iter(found.items()))
        try:
            size = decoded(path, lambda p: read_image(p, self.image_px, self.fit, "window", self.jpeg == "draft"))
        except DataError as error:
            chosen.rows.refuse(self.kind, {int(chosen.index[row]): str(error)}, "bad picture", SourceError)
        few = f"{len(found)} of {len(chosen.index):,} pictures looked for and there"
        return f"{self.root}, {few}, one decoded ({size})"

    def compute(self, work: Work) -> None:
        """Look up the pictures and decode them into the table. A kill costs only a few seconds of work.

        Four more files lie beside the table: `studies.npy` (`int64 [n]`, study numbers, if the release has studies),
        `source_rows.npy` (`int64 [n]`, row numbers among all label files, train first), `source.json` (how many
        rows were left out, by reason), and `pictures.npy` (what was read, see `bench.data.read_pictures`).

        Raises:
            DataError: if the label files cannot be used, or if they changed after the key was computed.
            SourceError: if pictures are missing or cannot be read. The message names the label file and the row.
        """
        chosen = self._chosen()
        if digest(self._files()) != self.identity["content"]["digest"]:
            raise DataError(f"{self._label_folder}: the label files changed since this run was planned; run it again")
        places = self.pictures()
        there = np.flatnonzero(look_up(places, work.ckpt, self.workers, work.progress) != MISSING)
        self._refuse_missing(chosen, there)
        kept, index = [places[i] for i in there], chosen.index[there]
        table = ResumableTable(work.ckpt, work.out, len(kept), self.image_px)
        try:
            faults = decode(kept, table, self.image_px, self.fit, self.jpeg == "draft", self.workers, work.progress)
        finally:
            table.close()
        if faults:
            told = {int(index[i]): what for i, what in faults.items()}
            chosen.rows.refuse(self.kind, told, "bad picture", SourceError)
        write_record(work.out, places, there, table.read)
        table.hand_over()
        c = chosen.classes
        table.finish(chosen.labels[there], chosen.patients[there], c.names, c.head, c.tail, splits=chosen.splits[there])
        np.save(work.out / "source_rows.npy", index)
        if chosen.rows.studies is not None:
            np.save(work.out / "studies.npy", chosen.rows.studies[index])
        facts = chosen.left_out | {"missing_pictures": len(places) - len(kept), "images": len(kept)}
        write_strict_json(work.out / "source.json", facts)

    def _refuse_missing(self, chosen: Selection, there: Int64, looked: Int64 | None = None) -> None:
        """Refuse missing pictures, unless the settings leave them out.

        Args:
            chosen: the chosen rows.
            there: `int64 [k]`, positions in the choice whose pictures are there.
            looked: `int64 [m]`, positions in the choice that were looked up; None means all.

        Raises:
            SourceError: if pictures are missing and may not be left out, or if none is there.
        """
        looked = np.arange(len(chosen.index)) if looked is None else looked
        if not len(there):
            holds = " or ".join(f for f in self.layout.folders if f)
            none = f"none of {len(looked)} pictures is below {self.root}; check 'root', which should hold {holds}"
            raise SourceError(f"{self.kind}: {none}")
        if self.missing == "refuse" and len(there) < len(looked):
            absent = np.setdiff1d(looked, there)
            faults = {int(chosen.index[i]): "no such file" for i in absent}
            what = f"{self.kind}: {self.root}"
            chosen.rows.refuse(
                f"{what} (to go on without them, set missing: leave_out)", faults, "missing picture", SourceError
            )

    @property
    def _label_folder(self) -> Path:
        return Path(self.root if self.labels is None else self.labels).expanduser()

    def _is_there(self) -> bool:
        return self._label_folder.exists()

    def _files(self) -> tuple[Path, ...]:
        return find_files(self._label_folder, self.source, self.kind, self.releases)

    def _chosen(self) -> Selection:
        rows = read_labels(self._files(), self.source, self.layout)
        return choose(
            rows,
            SelectionSettings(
                kind=self.kind,
                frontal=self.source.frontal,
                views=self._views(),
                classes=self.classes,
                head=self.head,
                tail=self.tail,
                n_tail=self.n_tail,
                limit=self.limit,
                keep_tail=self.keep_tail,
                seed=self.sample_seed,
            ),
        )


class MimicCxrLt(CxrLt):
    """The paper's data set: labels of MIMIC-CXR-LT (PhysioNet, credentialed), pictures of MIMIC-CXR-JPG."""

    kind: ClassVar[str] = "mimic-cxr-lt"
    sharing: ClassVar[Literal["open", "credentialed"]] = "credentialed"
    layout: ClassVar[Layout] = MIMIC_LAYOUT
    releases: ClassVar[Mapping[str, Release]] = MIMIC

    release: Literal["1.1.0-19", "1.1.0-26", "2.0.0-40"] = Field(
        "1.1.0-19", description="version and number of classes; the paper used the 19 classes"
    )
    classes: Literal["paper", "all"] | tuple[Item, ...] = Field(
        "paper", description="paper, all, or names and ranks (1 is the most frequent in train)"
    )
    views: Literal["all"] | tuple[str, ...] = Field(FRONTAL, description="ViewPosition of the pictures, or all")

    @field_validator("views")
    @classmethod
    def _in_one_spelling(cls, views: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if isinstance(views, str):
            return views
        if not views:
            raise ValueError("want one view or more, or all")
        return tuple(sorted({v.strip().upper() for v in views}))

    def _views(self) -> str | tuple[str, ...]:
        return self.views


class NihCxrLt(CxrLt):
    """Labels of NIH-CXR-LT (public), pictures of ChestX-ray14."""

    kind: ClassVar[str] = "nih-cxr-lt"
    sharing: ClassVar[Literal["open", "credentialed"]] = "open"
    layout: ClassVar[Layout] = NIH_LAYOUT
    releases: ClassVar[Mapping[str, Release]] = NIH

    release: Literal["multi-label", "single-label", "single-label-balanced"] = Field(
        "multi-label", description="which label files; single-label-balanced differs from single-label only in its test"
    )

    def _views(self) -> str | tuple[str, ...]:
        return "all"
