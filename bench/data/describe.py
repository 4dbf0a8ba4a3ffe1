"""What a data set holds, in aggregates: parts, counts by class, co-occurrence, patients, pictures. No row of it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from bench import seeds
from bench.data.dataset import Dataset, KnownLabels
from bench.data.split import PARTS, SplitSettings, check, parts
from bench.errors import ConfigError, DataError, listed, nearest
from bench.plugins import registry
from bench.tables import ImageTable, Int64

if TYPE_CHECKING:
    from bench.store.store import Store

_SAMPLED = 400  # pictures whose size is read


@runtime_checkable
class HasPictures(Protocol):
    """A data set that can say where its pictures lie before it reads them; `workers` threads may ask for them."""

    workers: int

    def pictures(self) -> list[Path]:
        """Return the path of every picture."""


def find_dataset(name: str, overrides: Iterable[str], label: str | None) -> tuple[Dataset, SplitSettings]:
    """Return a data set of a matrix file, and how the matrix splits it; nothing else of the file need be usable.

    Where `name` is a kind of data set, the overrides are its settings, and it is split by the defaults.

    Raises:
        ConfigError: for a file that cannot be understood, a label that is no data set's, or none where there are many.
    """
    from bench.config.yaml_file import apply_override, read_yaml
    from bench.matrix.load import MatrixSettings, find

    kind = name in registry.datasets() and not Path(name).is_file()
    try:
        path = Path(name) if kind else find(name)
    except ConfigError as error:
        raise ConfigError(f"{error}; or a kind of data set: {listed(registry.datasets())}") from error
    raw = {"kind": name} if kind else read_yaml(path)
    for override in overrides:
        apply_override(raw, override)
    if kind:
        dataset = registry.parse_dataset(raw | {"kind": name}, name)
        if label not in (None, dataset.label):
            raise ConfigError(f"{name}: --dataset {label}: is an option for a matrix; leave it out")
        return dataset, SplitSettings()
    settings = registry.build(MatrixSettings, raw, path.name)
    datasets = [registry.parse_dataset(d, f"{path.name}.datasets.{i}") for i, d in enumerate(settings.datasets)]
    labels = [d.label for d in datasets]
    if label is None and len(datasets) > 1:
        raise ConfigError(f"matrix {settings.name}: {len(datasets)} data sets; give --dataset {' or '.join(labels)}")
    if label is not None and label not in labels:
        have = f"(have: {listed(labels)})"
        raise ConfigError(f"matrix {settings.name}: --dataset: no data set '{label}'{nearest(label, labels)} {have}")
    return datasets[labels.index(label) if label else 0], settings.split


def describe(dataset: Dataset, settings: SplitSettings, store: Store, tell: Any = lambda *_: None) -> dict[str, Any]:
    """Return what a data set holds as JSON values: names of classes and counts, of no picture its own.

    Labels come from the table where the store has it, else from the source; of a data set that cannot say them without
    its table, that is computed. Pictures are looked up at the source.

    Raises:
        DataError: if the source cannot be used.
    """
    from bench.store.store import Execution

    computed = store.has(dataset)
    known: ImageTable | KnownLabels | None = None if computed else dataset.known_labels()
    if known is None:
        known = store.get(dataset, Execution(on_progress=lambda stage, *told: tell(*told)))
        computed = True
    official = known.splits is not None
    part = parts(known, settings)
    found = {
        "dataset": dataset.label,
        "kind": dataset.kind,
        "sharing": dataset.sharing,
        "table": "computed" if computed else "not computed yet",
        "images": len(known.labels),
        "patients": len(np.unique(known.patients)),
        "split": "official" if official else "by patient, stratified",
        "split_fault": _fault(part, known, settings.min_positives),
        "parts": _parts(part, known),
        **_class_facts(part, known),
        "cooccurrence": _together(known).tolist(),
        "pictures": _pictures(dataset, tell),
        "left_out": _left_out(dataset, store),
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


def _left_out(dataset: Dataset, store: Store) -> dict[str, int] | None:
    path = store.folder(dataset) / "source.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
