"""The base of every data set: a stage that reads its source once into a memory-mapped table of images."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bench.checks import Check
from bench.data.census import write_census
from bench.data.exclusions import exclusion_table
from bench.errors import ConfigError
from bench.files import new_array, read_json_or_raise, write_strict_json
from bench.pipeline.settings import not_semantic
from bench.pipeline.stage import Stage
from bench.pixels import image_shape
from bench.tables import Float32, ImageTable, Int64, UInt8


@dataclass(frozen=True)
class KnownLabels:
    """What is known of a data set before its images are read. The fields are those of `ImageTable`."""

    class_names: tuple[str, ...]
    labels: Float32
    patients: Int64
    splits: Int64 | None
    head: tuple[str, ...] = ()
    tail: tuple[str, ...] = ()
    patients_known: bool = True


_SIZE = "size_of_the_labels"  # of what a data set keeps beside its fields


@dataclass(frozen=True)
class DatasetSize:
    """The size of a data set, as estimates need it.

    Attributes:
        n_images: the number of images.
        n_train: how many of them are in the official train part; None if there is no official split.
        tail: the names of the tail classes.
    """

    n_images: int
    n_train: int | None
    tail: tuple[str, ...]


class Dataset(Stage):
    """A data set. Subclasses set `kind`, add their settings, and write the table with a `TableWriter`.

    `sharing` says who may see the images. Unless it is `open`, a tracker gets only aggregates and settings. A subclass
    may set it, or have a setting of that name; a subclass with neither is `credentialed`.
    """

    kind: ClassVar[str]
    sharing: ClassVar[Literal["open", "credentialed"]]
    known_to_shipped_models: ClassVar[bool] = False  # True if the package's diffusion model and oracle learnt from such
    beside_published: ClassVar[bool] = False  # whether it stands for the paper's data, so that its numbers fit beside

    name: str | None = not_semantic(
        None, word=True, pattern=r"^[a-z0-9][a-z0-9_-]*$", description="name in tables; null: the kind"
    )

    excludes: dict[str, Literal["all"] | tuple[str, ...]] | None = Field(
        None,
        description="class → the classes that cannot be present beside it, or all; null: No Finding (or Normal) "
        "excludes all but Support Devices; {}: none",
    )

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        """Make a subclass `credentialed` if it does not say who may see its images."""
        super().__pydantic_init_subclass__(**kwargs)
        if "sharing" not in cls.model_fields and not hasattr(cls, "sharing"):
            cls.sharing = "credentialed"

    @property
    def label(self) -> str:
        """The name in tables and folders. If a matrix has two data sets of one kind, they need a `name` each."""
        return self.name or self.kind

    def known_classes(self) -> tuple[str, ...] | None:
        """Return the class names if they are known before the source is read, else None.

        A class name that is misspelt in a matrix is then refused before anything is computed.
        """
        return None

    def exclusions(self, class_names: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return which classes exclude which, `bool [C, C]`; see `bench.data.exclusions.exclusion_table`.

        Raises:
            ConfigError: if `excludes` names a class that is not among `class_names`.
        """
        try:
            return exclusion_table(class_names, self.excludes)
        except ConfigError as error:
            raise ConfigError(f"{self.label}.{error}") from error

    def known_labels(self) -> KnownLabels | None:
        """Return the labels, patients and parts if they are known before the images are read, else None.

        A split that cannot be used is then refused before hours of decoding.
        """
        return None

    def known_size(self) -> DatasetSize | None:
        """Return the size of the data set, or None if it is not known before the source is read.

        It is kept, also in copies that other processes get, so that not every stage reads the labels again.

        Raises:
            DataError: if there are label files and they cannot be used.
        """
        if (kept := self.__dict__.get(_SIZE)) is not None:
            return kept
        known = self.known_labels()
        return None if known is None else self._keep_size(known)

    def _keep_size(self, known: KnownLabels) -> DatasetSize:
        """Keep the size. A kind whose key needs the labels calls this with them."""
        n_train = None if known.splits is None else int((known.splits == 0).sum())
        found = DatasetSize(len(known.labels), n_train, known.tail)
        self.__dict__[_SIZE] = found  # beside the key, which pydantic also keeps there
        return found

    def size(self) -> int | None:
        """Return the number of images, or None if it is not known before the source is read."""
        found = self.known_size()
        return None if found is None else found.n_images

    def selection_note(self) -> str:
        """Return a few words on which part of the source is used, for a footnote; empty if all of it is used."""
        return ""

    def pilot_settings(self) -> dict[str, Any]:
        """Return settings for a small pilot of this data set, or an empty mapping if it has none."""
        return {}

    def sources(self) -> Iterator[Check]:
        """Yield checks of the files that the data set is read from; nothing if it is generated.

        Only a few pictures are looked at, because there may be a quarter of a million of them on a network disk.
        """
        return iter(())

    def name_of(self, row: int, folder: Path) -> str:
        """Return what to call a row of the finished table in `folder`, for the user's own terminal."""
        return f"image {row}"

    def changed_source(self, folder: Path) -> str | None:
        """Return how the source has changed since the table in `folder` was made, and what to do, or None.

        A data set whose key holds the content of its source needs no such look: a change gives it another key.
        """
        return None

    def true_masks(self, rows: Int64, side: int) -> npt.NDArray[np.bool_] | None:
        """Return the true mask of each finding, `bool [len(rows), C, side, side]`, or None if they are not known.

        An empty mask says that the finding is not in the image, or that nobody drew where it is. So it never stands for
        a label. A kind decides which share of a site is enough, but a finding that can be seen keeps a site.

        Args:
            rows: `int64 [n]`, rows of the table.
            side: the number of sites along an edge, at most that of pixels.
        """
        return None

    @classmethod
    def stage_name(cls) -> str:
        """Return the name of the folder in the store, `dataset-<kind>`."""
        return f"dataset-{cls.kind}"

    def open(self, folder: Path) -> ImageTable:
        """Return the table, with memory-mapped images."""
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
            patients_known=facts.get("patients_known", True),
            excludes=self.exclusions(tuple(facts["class_names"])),
            **optional,
        )


class TableWriter:
    """Writes a table into the folder of a stage: first the images row by row, and everything else at the end.

    The images are never all in memory at once.
    """

    def __init__(self, out: Path, n_images: int, image_px: int, colour: bool = False) -> None:
        """Create the memory-mapped image array in the folder `out`.

        It is `uint8 [n_images, image_px, image_px]`, with a last axis of 3 (red, green, blue) for `colour`.
        """
        self.out = out
        shape = (n_images, *image_shape(image_px, colour))
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
        patients_known: bool = True,
    ) -> None:
        """Flush the images, and write the other parts of the table (see `ImageTable`) and its census beside them."""
        self.images.flush()  # type: ignore[attr-defined]
        np.save(self.out / "labels.npy", labels.astype(np.float32))
        np.save(self.out / "patients.npy", patients.astype(np.int64))
        if true_labels is not None:
            np.save(self.out / "true_labels.npy", true_labels.astype(np.float32))
        if splits is not None:
            np.save(self.out / "splits.npy", splits.astype(np.int64))
        names = {"class_names": list(class_names), "head": list(head), "tail": list(tail)}
        facts = names | {"patients_known": patients_known}
        write_strict_json(self.out / "facts.json", facts)
        write_census(self.out, self.images)
