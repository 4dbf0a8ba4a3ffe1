"""What every data set is: a stage that reads its source once into a memory-mapped table of grey images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from bench.files import new_array, read_json_or_raise, write_strict_json
from bench.pipeline.settings import not_semantic
from bench.pipeline.stage import Stage
from bench.tables import Float32, ImageTable, Int64, UInt8

if TYPE_CHECKING:
    from bench.checks import Check


@dataclass(frozen=True)
class KnownLabels:
    """What a data set says before its images are read; as in `ImageTable`."""

    class_names: tuple[str, ...]
    labels: Float32
    patients: Int64
    splits: Int64 | None
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatasetSize:
    """The numbers of a data set that estimates need: `n_images` in all, `n_train` of them in an official train part."""

    n_images: int
    n_train: int | None
    tail: tuple[str, ...]


class Dataset(Stage):
    """A data set. Subclasses set `kind`, add their settings, and write the table with `write_table`.

    `sharing` says who may see its images: of one that does not say `open`, a tracker gets aggregates and settings only.
    A class may say it, or have a setting of that name; one that says nothing is `credentialed`.
    """

    kind: ClassVar[str]
    sharing: ClassVar[Literal["open", "credentialed"]]

    name: str | None = not_semantic(
        None, word=True, pattern=r"^[a-z0-9][a-z0-9_-]*$", description="in tables; none: the kind"
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Take a data set that does not say who may see it for one that not everybody may."""
        super().__pydantic_init_subclass__(**kwargs)
        if "sharing" not in cls.model_fields and not hasattr(cls, "sharing"):
            cls.sharing = "credentialed"

    @property
    def label(self) -> str:
        """Name for tables and folders; two data sets of one kind in a matrix need names."""
        return self.name or self.kind

    def known_classes(self) -> tuple[str, ...] | None:
        """Return the class names if they are known before the source is read: typing errors are then refused early."""
        return None

    def known_labels(self) -> KnownLabels | None:
        """Return labels, patients and parts if they are known before images are read: a split is then tried early."""
        return None

    def known_size(self) -> DatasetSize | None:
        """Return how large the data set is, or None where that is not known before it is read.

        Raises:
            DataError: if label files are there and cannot be used.
        """
        known = self.known_labels()
        if known is None:
            return None
        n_train = None if known.splits is None else int((known.splits == 0).sum())
        return DatasetSize(len(known.labels), n_train, known.tail)

    def size(self) -> int | None:
        """Return the number of images."""
        found = self.known_size()
        return None if found is None else found.n_images

    def selection_note(self) -> str:
        """Return in a few words what of its source is taken, for a table's footnote; empty where that is all of it."""
        return ""

    def pilot_settings(self) -> dict[str, Any]:
        """Return settings that take a small sample of it, to try a run and time it; none where there are no such."""
        return {}

    def sources(self) -> Iterator[Check]:
        """Yield what is found of the files that it is read from, and what is wrong with them; nothing where it is made.

        A few pictures are looked at, never all: they may be a quarter of a million on a network disk.
        """
        return iter(())

    def true_masks(self, rows: Int64, side: int) -> npt.NDArray[np.bool_] | None:
        """Return where each finding truly is, `bool [len(rows), C, side, side]`, or None where nobody knows.

        Args:
            rows: `int64 [n]`, rows of the table.
            side: sites along an edge, at most the image's pixels; a site of several pixels is in if any of
                them is: thin findings would vanish otherwise.
        """
        return None

    @classmethod
    def stage_name(cls) -> str:
        """Name of the folder in the store: `dataset-<kind>`."""
        return f"dataset-{cls.kind}"

    def open(self, folder: Path) -> ImageTable:
        """Return the table, its images memory-mapped."""
        facts = read_json_or_raise(folder / "facts.json")
        optional = {
            name: np.load(folder / f"{name}.npy") if (folder / f"{name}.npy").is_file() else None
            for name in ("true_labels", "splits")
        }
        return ImageTable(
            images=np.load(folder / "images.npy", mmap_mode="r"),
            labels=np.load(folder / "labels.npy"),
            patients=np.load(folder / "patients.npy"),
            class_names=tuple(facts["class_names"]),
            head=tuple(facts["head"]),
            tail=tuple(facts["tail"]),
            **optional,
        )


class TableWriter:
    """Writes a table into a stage's folder: images row by row (never all in memory), the rest at the end."""

    def __init__(self, out: Path, n_images: int, image_px: int) -> None:
        """Make the memory-mapped image array `uint8 [n_images, image_px, image_px]`."""
        self.out = out
        shape = (n_images, image_px, image_px)
        self.images: UInt8 = new_array(out / "images.npy", shape, np.uint8)

    def finish(
        self,
        labels: Float32,
        patients: Int64,
        class_names: Iterable[str],
        head: Iterable[str],
        tail: Iterable[str],
        true_labels: Float32 | None = None,
        splits: Int64 | None = None,
    ) -> None:
        """Flush the images and write labels, patients and names beside them."""
        self.images.flush()  # type: ignore[attr-defined]
        np.save(self.out / "labels.npy", labels.astype(np.float32))
        np.save(self.out / "patients.npy", patients.astype(np.int64))
        if true_labels is not None:
            np.save(self.out / "true_labels.npy", true_labels.astype(np.float32))
        if splits is not None:
            np.save(self.out / "splits.npy", splits.astype(np.int64))
        facts = {"class_names": list(class_names), "head": list(head), "tail": list(tail)}
        write_strict_json(self.out / "facts.json", facts)
