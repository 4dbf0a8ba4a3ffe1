"""Fidelity of synthetic images: distances to real ones, what an oracle sees, nearness to train."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, SerializeAsAny

from bench import seeds
from bench.augment import Augmented
from bench.classifier import Classifier
from bench.datasets.base import Dataset
from bench.metrics.average_precision import mean_over
from bench.metrics.extractors import ClassifierExtractor, Extracted, Extractor, OracleExtractor, extract_all
from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel import kernel_distance
from bench.split import Part, Split, Train, part_rows
from bench.stage import Resources, Settings, Stage
from bench.types import AugmentedSet, Float32, ImageTable, Int64

_PARTS: dict[str, tuple[Part, ...]] = {
    "held_out": ("val", "test"),
    "val": ("val",),
    "test": ("test",),
    "train": ("train",),
}


class FidelitySettings(Settings):
    """How synthetic images are held against real ones."""

    extractor: Extractor = OracleExtractor()
    reference: Literal["held_out", "val", "test", "train"] = Field("held_out", description="held_out = val + test")
    kid_subset_size: int = Field(1000, ge=2, description="sets up to this size are compared whole")
    kid_subsets: int = Field(100, ge=1)
    seed: int = Field(0, description="of subsets, for the kernel distance and the floor")

    def with_classifier(self, classifier: Classifier) -> FidelitySettings:
        """Return the settings with `classifier` put where the extractor asks for one."""
        if isinstance(self.extractor, ClassifierExtractor) and self.extractor.classifier is None:
            return self.model_copy(update={"extractor": ClassifierExtractor(classifier=classifier)})
        return self


class RealFeatures(Stage):
    """Features of every real image of a data set: shared by all methods and seeds."""

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=30)

    dataset: SerializeAsAny[Dataset]
    extractor: Extractor

    def compute(self, work: Any) -> None:
        """Write `features.npy` `float32 [n, d]` and, of a judge, `positives.npy` `bool [n, C]`."""
        images = work.get(self.dataset).images
        found = extract_all(
            self.extractor.load(work), images, on_batch=lambda done: work.progress(done, len(images), "real features")
        )
        np.save(work.out / "features.npy", found.features)
        if found.positives is not None:
            np.save(work.out / "positives.npy", found.positives)

    def open(self, folder: Path) -> Extracted:
        """Return the features, memory-mapped."""
        positives = folder / "positives.npy"
        return Extracted(
            np.load(folder / "features.npy", mmap_mode="r"), np.load(positives) if positives.is_file() else None
        )


class Fidelity(Stage):
    """What the synthetic images of one method are worth as images. Every figure is a number or null."""

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=30)

    split: Split
    train: Train
    augmented: Augmented
    settings: FidelitySettings

    @functools.cached_property
    def real_features(self) -> RealFeatures:
        """The stage of the real images' features."""
        return RealFeatures(dataset=self.split.dataset, extractor=self.settings.extractor)

    def inputs(self) -> list[Stage]:
        """Return the fields' stages and the real images' features, which follow from them."""
        return [*super().inputs(), self.real_features]

    def compute(self, work: Any) -> None:
        """Write `fidelity.json`."""
        measures = _Measures.of(self, work)
        classes, tail = measures.classes, measures.table.tail
        per_class = {}
        for i, name in enumerate(classes):
            work.progress(i, len(classes), f"distances of {name}")
            per_class[name] = measures.distances(name)
        label_fidelity = measures.label_fidelity()

        # every mean is over the classes that have a distance; one over fewer would not stand beside it
        measured = [name for name in tail if per_class[name]["fid"] is not None]

        def over_tail(column: str) -> float | None:
            values = {name: per_class[name][column] for name in measured}
            return None if None in values.values() else mean_over(values, measured)

        result = {
            "metric_id": self.settings.extractor.metric_id,
            "reference": self.settings.reference,
            "n_synthetic": len(measures.synthetic_classes),
            "fid_tail": over_tail("fid"),
            "kid_tail": over_tail("kid"),
            "fid_tail_floor": over_tail("fid_floor"),
            "kid_tail_floor": over_tail("kid_floor"),
            "fid_tail_equal_n": over_tail("fid_equal_n"),
            "n_tail_classes": len(measured),
            "per_class": per_class,
            "label_fidelity": label_fidelity,
            "label_fidelity_tail": None if label_fidelity is None else mean_over(label_fidelity, tail),
            "nearest_train": measures.nearest_train(),
        }
        (work.out / "fidelity.json").write_text(json.dumps(result, indent=1, allow_nan=False), encoding="utf-8")
        work.progress(1, 1, "measured")

    def open(self, folder: Path) -> dict[str, Any]:
        """Return the figures."""
        return json.loads((folder / "fidelity.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class _Measures:
    """What the figures are computed from; rows are those of the data set.

    Attributes:
        real: features of all real images.
        synthetic: features of the synthetic images, None without any.
        synthetic_classes: `int64 [n]`, the column that each was made for.
        train_rows, reference_rows, held_out_rows: data-set rows.
    """

    settings: FidelitySettings
    table: ImageTable
    real: Extracted
    synthetic: Extracted | None
    synthetic_classes: Int64
    train_rows: Int64
    reference_rows: Int64
    held_out_rows: Int64

    @classmethod
    def of(cls, stage: Fidelity, work: Any) -> _Measures:
        """Read and extract what the stage names."""
        augmented: AugmentedSet = work.get(stage.augmented)
        synthetic = None
        if len(augmented):
            synthetic = extract_all(
                stage.settings.extractor.load(work),
                augmented.images,
                on_batch=lambda done: work.progress(done, len(augmented), "synthetic features"),
            )

        def rows(name: str) -> Int64:
            return np.concatenate([part_rows(work, stage.split, part)[2] for part in _PARTS[name]])

        return cls(
            settings=stage.settings,
            table=work.get(stage.split.dataset),
            real=work.get(stage.real_features),
            synthetic=synthetic,
            synthetic_classes=np.asarray(augmented.target_class),
            train_rows=rows("train"),
            reference_rows=rows(stage.settings.reference),
            # a sweep selects with `val`: then nothing at all is read of test
            held_out_rows=rows("val" if stage.settings.reference == "val" else "held_out"),
        )

    @property
    def classes(self) -> list[str]:
        """Tail classes, then others that images were made for."""
        made = [self.table.class_names[c] for c in np.unique(self.synthetic_classes)]
        return list(dict.fromkeys([*self.table.tail, *made]))

    def distances(self, name: str) -> dict[str, float | int | None]:
        """Return one class's distances and counts; null where a side has fewer than two images.

        The floor is real against real at equal n: as many images of the other side of the split as there are
        synthetic ones (or all, if they are fewer), against the same reference. Where they are fewer, `fid_equal_n` is
        the figure to hold against the floor: the first `n_floor` synthetic images.
        """
        c = self.table.class_names.index(name)
        reference = self._with_class(self.reference_rows, c)
        synthetic = self._synthetic_features(c)
        other = self._with_class(self.held_out_rows if self.settings.reference == "train" else self.train_rows, c)
        n_floor = min(len(synthetic), len(other))
        chosen = seeds.rng(self.settings.seed, "floor", name).permutation(len(other))[:n_floor]
        fid, kid = self._compare(synthetic, reference)
        fid_floor, kid_floor = self._compare(other[np.sort(chosen)], reference)
        fid_equal_n, kid_equal_n = self._compare(synthetic[:n_floor], reference)
        return {
            "fid": fid,
            "kid": kid,
            "n_real": len(reference),
            "n_synthetic": len(synthetic),
            "fid_floor": fid_floor,
            "kid_floor": kid_floor,
            "n_floor": n_floor,
            "fid_equal_n": fid_equal_n,
            "kid_equal_n": kid_equal_n,
        }

    def _with_class(self, rows: Int64, c: int) -> Float32:
        return self.real.features[rows[self.table.labels[rows, c] == 1]]

    def _synthetic_features(self, c: int) -> Float32:
        if self.synthetic is None:
            return np.zeros((0, self.real.features.shape[1]), np.float32)
        return self.synthetic.features[self.synthetic_classes == c]

    def _compare(self, a: Float32, b: Float32) -> tuple[float | None, float | None]:
        if min(len(a), len(b)) < 2:
            return None, None
        s = self.settings
        return frechet_distance(a, b), kernel_distance(a, b, s.kid_subset_size, s.kid_subsets, s.seed)

    def label_fidelity(self) -> dict[str, float | None] | None:
        """Return per class the share of its images that the oracle calls positive; None without one."""
        judged = self.settings.extractor.class_names
        if not judged:
            return None
        shares: dict[str, float | None] = {}
        for name in self.classes:
            made = self.synthetic_classes == self.table.class_names.index(name)
            if self.synthetic is None or self.synthetic.positives is None or name not in judged or not made.any():
                shares[name] = None
            else:
                shares[name] = float(self.synthetic.positives[made, judged.index(name)].mean())
        return shares

    def nearest_train(self) -> dict[str, float | None]:
        """Return the median feature distance to the nearest train image, synthetic and held-out.

        Held-out images are those with one of the classes at hand. Synthetic ones much nearer than these are copies.
        """
        columns = [self.table.class_names.index(name) for name in self.classes]
        having = (self.table.labels[self.held_out_rows][:, columns] == 1).any(axis=1)
        train = self.real.features[self.train_rows]
        held_out = self.real.features[self.held_out_rows[having]]
        return {
            "synthetic": None if self.synthetic is None else median_nearest(self.synthetic.features, train),
            "held_out": median_nearest(held_out, train),
        }


def median_nearest(
    queries: npt.NDArray[np.floating], among: npt.NDArray[np.floating], block: int = 256
) -> float | None:
    """Return the median distance of `queries [n, d]` to their nearest of `among [m, d]`."""
    if len(queries) == 0 or len(among) == 0:
        return None
    from scipy.spatial.distance import cdist

    blocks = range(0, len(queries), block)  # bounds memory: block x m distances at a time
    nearest = [cdist(queries[i : i + block], among).min(axis=1) for i in blocks]
    return float(np.median(np.concatenate(nearest)))
