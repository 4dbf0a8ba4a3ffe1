"""What a data set holds, in aggregates: parts, counts by class, co-occurrence, patients, pictures. No row of it."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from bench import seeds
from bench.data.dataset import Dataset, KnownLabels
from bench.data.split import PARTS, SplitSettings, assign_parts, check
from bench.errors import DataError
from bench.files import read_json_or_raise
from bench.tables import ImageTable, Int64

_SAMPLED = 400  # pictures whose size is read


@runtime_checkable
class HasPictures(Protocol):
    """A data set that can say where its pictures lie before it reads them; `workers` threads may ask for them."""

    workers: int

    def pictures(self) -> list[Path]:
        """Return the path of every picture."""


def describe(
    dataset: Dataset,
    settings: SplitSettings,
    known: ImageTable | KnownLabels,
    table_folder: Path | None = None,
    tell: Any = lambda *_: None,
) -> dict[str, Any]:
    """Return what a data set holds as JSON values: names of classes and counts, nothing of a single image.

    Args:
        dataset: the data set; its pictures are looked up at the source.
        settings: how it is split.
        known: its labels, patients and official parts.
        table_folder: the folder of its computed table; None if it is not computed yet.
        tell: called with (done, total, note) while pictures are looked up.

    Raises:
        DataError: if the source cannot be used.
    """
    official = known.splits is not None
    part = assign_parts(known, settings)
    found = {
        "dataset": dataset.label,
        "kind": dataset.kind,
        "sharing": dataset.sharing,
        "table": "computed" if table_folder else "not computed yet",
        "images": len(known.labels),
        "patients": len(np.unique(known.patients)),
        "split": "official" if official else "by patient, stratified",
        "split_fault": _fault(part, known, settings.min_positives),
        "parts": _parts(part, known),
        **_class_facts(part, known),
        "cooccurrence": _together(known).tolist(),
        "pictures": _pictures(dataset, tell),
        "left_out": _left_out(table_folder),
    }
    return found


def _fault(part: Int64, known: ImageTable | KnownLabels, min_positives: int) -> str | None:
    try:
        check(part, known, min_positives)
    except DataError as error:
        return str(error)
    return None


def _parts(part: Int64, known: ImageTable | KnownLabels) -> dict[str, dict[str, int]]:
    return {
        name: {"images": int((part == i).sum()), "patients": len(np.unique(known.patients[part == i]))}
        for i, name in enumerate(PARTS)
    }


def _class_facts(part: Int64, known: ImageTable | KnownLabels) -> dict[str, Any]:
    counts = np.stack([np.nansum(known.labels[part == i], axis=0) for i in range(len(PARTS))], axis=1).astype(int)
    unknown = np.isnan(known.labels).sum(axis=0)
    n_train = max(1, int((part == 0).sum()))
    classes = [
        {"name": name, "group": "head" if name in known.head else "tail" if name in known.tail else ""}
        | dict(zip(PARTS, counts[i].tolist(), strict=True))
        | {"unknown": int(unknown[i]), "train_share": float(counts[i, 0] / n_train)}
        for i, name in enumerate(known.class_names)
    ]
    positives = np.nansum(known.labels, axis=1)
    least, most = int(counts[:, 0].min()), int(counts[:, 0].max())
    return {
        "classes": classes,
        "imbalance_factor": most / least if least else None,
        "labels_an_image": float(positives.mean()),
        "images_without_a_label": int((positives == 0).sum()),
    }


def _together(known: ImageTable | KnownLabels) -> Int64:
    """Return in how many images two classes are both positive, `int64 [C, C]`; the diagonal: one class."""
    positive = (known.labels == 1).astype(np.float64)
    return np.rint(positive.T @ positive).astype(np.int64)


def _pictures(dataset: Dataset, tell: Any) -> dict[str, Any] | None:
    """Return how many pictures there are and miss, and the sizes of a seeded sample; None where nobody can say."""
    from bench.data.bulk_decode import MISSING, look_up

    if not isinstance(dataset, HasPictures):
        return None
    try:
        places = dataset.pictures()
    except DataError as error:
        return {"fault": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        found = look_up(places, Path(folder), dataset.workers, tell)
    there = np.flatnonzero(found != MISSING)
    rng = seeds.rng(0, "describe")
    sampled = [places[i] for i in rng.permutation(there)[:_SAMPLED]]
    with ThreadPoolExecutor(dataset.workers) as pool:
        sizes = np.array([s for s in pool.map(_size, sampled) if s is not None]).reshape(-1, 2)
    told: dict[str, Any] = {"missing": len(places) - len(there), "gigabytes": float((found[there] - 1).sum() / 1e9)}
    told |= {"sampled": len(sampled), "unreadable": len(sampled) - len(sizes)}
    for name, values in (("width_px", sizes[:, 0]), ("height_px", sizes[:, 1])):
        told[name] = [int(np.quantile(values, q)) for q in (0, 0.5, 1)] if len(values) else None
    return told


def _size(path: Path) -> tuple[int, int] | None:
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return picture.size
    except OSError:
        return None


def _left_out(table_folder: Path | None) -> dict[str, int] | None:
    """Return how many pictures the computed table leaves out, by reason; None where nothing is recorded."""
    path = table_folder / "source.json" if table_folder else None
    return read_json_or_raise(path) if path and path.is_file() else None
