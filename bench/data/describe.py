"""Describe a data set in aggregates: parts, counts by class, co-occurrence, patients and pictures.

Nothing about a single row is returned, so that the description of credentialed data may be shown.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from bench import seeds
from bench.data.bulk_decode import MISSING, look_up
from bench.data.census import table_notes
from bench.data.dataset import Dataset, KnownLabels
from bench.data.exclusions import contradictions
from bench.data.held_out_pairs import found_pairs, has_any_pair, of_same_patients, pair_columns
from bench.data.split import PARTS, SplitSettings, assign_parts, check, positive_patients
from bench.errors import DataError
from bench.files import read_json_or_raise
from bench.tables import ImageTable, Int64

_SAMPLED = 400  # the number of pictures whose size in pixels is read


@runtime_checkable
class HasPictures(Protocol):
    """A data set that knows where its pictures lie before it reads them.

    Attributes:
        workers: how many threads may look pictures up.
    """

    workers: int

    def pictures(self) -> list[Path]:
        """Return the path of every picture."""


def describe(
    dataset: Dataset,
    settings: SplitSettings,
    known: ImageTable | KnownLabels,
    table_folder: Path | None = None,
    tell: Callable[[float, float, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """Return a description of a data set as JSON values: names of classes and counts, and nothing of a single image.

    Numbers of patients are None if the data set does not know them.

    Args:
        dataset: the data set. Its pictures are looked up at the source.
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
        "patients": _n_patients(known),
        "note": dataset.selection_note(),
        "split": "official" if official else f"by {'patient' if known.patients_known else 'image'}, stratified",
        "split_fault": _fault(part, known, settings),
        "held_out_pairs": held_out_pairs(known, settings),
        "parts": _parts(part, known),
        **_class_facts(part, known),
        "contradictions": _contradictions(dataset, known),
        "cooccurrence": _together(known).tolist(),
        "pictures": _pictures(dataset, tell),
        "odd": table_notes(table_folder, known.labels, part) if table_folder else [],
        "changed_source": dataset.changed_source(table_folder) if table_folder else None,
        "left_out": _left_out(table_folder),
    }
    return found


def _fault(part: Int64, known: ImageTable | KnownLabels, settings: SplitSettings) -> str | None:
    try:
        check(part, known, settings)
    except DataError as error:
        return str(error)
    return None


def held_out_pairs(known: ImageTable | KnownLabels, settings: SplitSettings) -> dict[str, Any] | None:
    """Return how many images and patients each held-out pair has, and how many are test because of them; None without.

    Raises:
        DataError: for a name that is not a class.
    """
    pairs = settings.held_out_pairs
    if not pairs:
        return None
    chosen = has_any_pair(known.labels, pair_columns(pairs, known.class_names))
    moved = of_same_patients(chosen, known.patients)
    found = [
        {"classes": list(p.classes), "images": p.n_images, "maybe": p.maybe}
        | {"patients": p.n_patients if known.patients_known else None}
        for p in found_pairs(known, pairs)
    ]
    return {
        "pairs": found,
        "images": int(chosen.sum()),
        "patients": _n_patients(known, chosen),
        "images_of_patients": int(moved.sum()),
        "images_in_all": len(known.labels),
    }


def _n_patients(known: ImageTable | KnownLabels, rows: npt.NDArray[np.bool_] | slice = slice(None)) -> int | None:
    return len(np.unique(known.patients[rows])) if known.patients_known else None


def _parts(part: Int64, known: ImageTable | KnownLabels) -> dict[str, dict[str, int | None]]:
    return {
        name: {"images": int((part == i).sum()), "patients": _n_patients(known, part == i)}
        for i, name in enumerate(PARTS)
    }


def _class_facts(part: Int64, known: ImageTable | KnownLabels) -> dict[str, Any]:
    rows = [part == i for i in range(len(PARTS))]
    counts = np.stack([np.nansum(known.labels[mine], axis=0) for mine in rows], axis=1).astype(int)
    patients = np.stack([positive_patients(known.labels[mine], known.patients[mine]) for mine in rows], axis=1)
    unknown = np.isnan(known.labels).sum(axis=0)
    n_train = max(1, int((part == 0).sum()))
    classes = [
        {"name": name, "group": "head" if name in known.head else "tail" if name in known.tail else ""}
        | dict(zip(PARTS, counts[i].tolist(), strict=True))
        | {"patients": dict(zip(PARTS, patients[i].tolist(), strict=True))}
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


def _contradictions(dataset: Dataset, known: ImageTable | KnownLabels) -> dict[str, int]:
    """Return class → in how many images it is positive beside one that it excludes, if there are any."""
    counts = contradictions(known.labels, dataset.exclusions(known.class_names))
    return {name: int(n) for name, n in zip(known.class_names, counts, strict=True) if n}


def _together(known: ImageTable | KnownLabels) -> Int64:
    """Return in how many images each pair of classes is positive, `int64 [C, C]`; the diagonal counts one class."""
    # float64 counts exactly up to 2^53 and uses the fast matrix product; numpy multiplies integers slowly.
    positive = (known.labels == 1).astype(np.float64)
    return np.rint(positive.T @ positive).astype(np.int64)


def _pictures(dataset: Dataset, tell: Callable[[float, float, str], None]) -> dict[str, Any] | None:
    """Return how many pictures are missing, their size on disk, and the sizes in pixels of a seeded sample.

    The result is None if the data set does not know where its pictures lie.
    """
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
    """Return how many pictures the computed table leaves out, by reason, or None if that is not recorded."""
    path = table_folder / "source.json" if table_folder else None
    return read_json_or_raise(path) if path and path.is_file() else None
