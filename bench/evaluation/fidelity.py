"""The stages that measure synthetic images: distances to real ones, findings that an oracle sees, copies of train."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import SerializeAsAny

from bench.augment.augmented import Augmented
from bench.data.dataset import Dataset
from bench.data.split import Split, Train, part_rows
from bench.evaluation.extractors import (
    Extracted,
    Extractor,
    extract_all,
    extracted_batches,
)
from bench.evaluation.measures import (
    REFERENCES,
    FidelitySettings,
    Measures,
    floor_figures,
    spread,
    spread_of_mean,
)
from bench.files import new_array, read_json_or_raise, write_strict_json
from bench.metrics.average_precision import mean_over
from bench.metrics.manifold import MEASURES, Distances
from bench.pipeline.stage import Resources, Stage, Work
from bench.tables import AugmentedSet, Int64


class RealFeatures(Stage):
    """Features of every real image of a data set, shared by all methods and seeds."""

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=30)

    dataset: SerializeAsAny[Dataset]
    extractor: Extractor

    def compute(self, work: Work) -> None:
        """Write `features.npy`, `float32 [n, d]`, batch by batch through a memory map.

        If the extractor judges findings, also write `positives.npy`, `bool [n, C]`.
        """
        images = work.get(self.dataset).images
        outputs: dict[str, np.ndarray] = {}
        done = 0
        for found in extracted_batches(self.extractor.load(work), images):
            rows = slice(done, done + len(found.features))
            for name, values in vars(found).items():
                if values is None:
                    continue
                if name not in outputs:
                    shape = (len(images), *values.shape[1:])
                    path = work.out / f"{name}.npy"
                    outputs[name] = new_array(path, shape, values.dtype)
                outputs[name][rows] = values
            done = rows.stop
            work.progress(done, len(images), "real features")

    def open(self, folder: Path) -> Extracted:
        """Return the features, memory-mapped."""
        positives = folder / "positives.npy"
        return Extracted(
            np.load(folder / "features.npy", mmap_mode="r"), np.load(positives) if positives.is_file() else None
        )


class Fidelity(Stage):
    """How good the synthetic images of one method are as images. Every figure is a number or null."""

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=30)

    split: Split
    train: Train
    augmented: Augmented
    settings: FidelitySettings

    @functools.cached_property
    def real_features(self) -> RealFeatures:
        """Return the stage with the features of the real images."""
        return RealFeatures(dataset=self.split.dataset, extractor=self.settings.extractor)

    def inputs(self) -> list[Stage]:
        """Return the stages among the fields, and the features of the real images, which follow from them."""
        return [*super().inputs(), self.real_features]

    def compute(self, work: Work) -> None:
        """Write `fidelity.json`, and the distances to the nearest train images as `nearest_*.npy`, `float32 [n]`."""
        measures = self._measures(work)
        classes, tail = measures.classes, measures.table.tail
        per_class: dict[str, dict[str, Any]] = {}
        drawn: dict[str, Distances | None] = {}
        floors: dict[str, Distances | None] = {}
        for i, name in enumerate(classes):
            work.progress(i, len(classes), f"distances of {name}")
            drawn[name], floors[name] = measures.kid_subsets(name), measures.floors(name)
            per_class[name] = measures.distances(name) | floor_figures(floors[name])
            per_class[name] |= {"kid_sd": spread(drawn[name])} | measures.manifolds(name) | measures.cooccurrence(name)
        label_fidelity = measures.label_fidelity()
        nearest = measures.nearest()
        nearest.save(work.out)

        # All means are over the same classes, those that have a distance. If another figure is missing for one of them,
        # its mean is null: a mean over fewer classes could not be compared with the others in the row.
        measured = [name for name in tail if per_class[name]["fid"] is not None]

        def over_tail(column: str) -> float | None:
            values = {name: per_class[name][column] for name in measured}
            return None if None in values.values() else mean_over(values, measured)

        real = [f for name in measured if (f := floors[name]) is not None]
        spreads = [spread_of_mean(real, i) if real and len(real) == len(measured) else None for i in range(2)]
        whole = [d for name in measured if (d := drawn[name]) is not None]
        result = {
            "metric_id": self.settings.extractor.metric_id,
            "reference": self.settings.reference,
            "n_synthetic": len(measures.synthetic_classes),
            "fid_tail": over_tail("fid"),
            "kid_tail": over_tail("kid"),
            "fid_tail_floor": over_tail("fid_floor"),
            "kid_tail_floor": over_tail("kid_floor"),
            "fid_tail_floor_spread": spreads[0],
            "kid_tail_floor_spread": spreads[1],
            "floor_draws": self.settings.floor_draws,
            "fid_tail_equal_n": over_tail("fid_equal_n"),
            "kid_tail_sd_subsets": spread(np.mean(whole, axis=0)) if whole and len(whole) == len(measured) else None,
            "k_neighbors": self.settings.k_neighbors,
            **{f"{name}_tail": over_tail(name) for name in MEASURES},
            **{f"{name}_tail_real": over_tail(f"{name}_real") for name in MEASURES},
            "cooccurrence_gap_tail": over_tail("cooccurrence_gap"),
            "cooccurrence_gap_tail_real": over_tail("cooccurrence_gap_real"),
            "n_tail_classes": len(measured),
            "per_class": per_class,
            "label_fidelity": label_fidelity,
            "label_fidelity_tail": None if label_fidelity is None else mean_over(label_fidelity, tail),
            **nearest.figures(),
        }
        write_strict_json(work.out / "fidelity.json", result)
        work.progress(1, 1, "measured")

    def _measures(self, work: Work) -> Measures:
        """Gather the arrays that the figures are computed from."""
        augmented: AugmentedSet = work.get(self.augmented)
        synthetic = None
        if len(augmented):
            synthetic = extract_all(
                self.settings.extractor.load(work),
                augmented.images,
                on_batch=lambda done: work.progress(done, len(augmented), "synthetic features"),
            )

        def rows(name: str) -> Int64:
            return np.concatenate([part_rows(work, self.split, part)[2] for part in REFERENCES[name]])

        return Measures(
            settings=self.settings,
            table=work.get(self.split.dataset),
            real=work.get(self.real_features),
            synthetic=synthetic,
            synthetic_classes=np.asarray(augmented.target_class),
            synthetic_labels=np.asarray(augmented.labels),
            parents=np.asarray(augmented.parents),
            train_rows=rows("train"),
            reference_rows=rows(self.settings.reference),
            # A sweep selects settings with the reference `val`. No test image may be used then.
            held_out_rows=rows("val" if self.settings.reference == "val" else "held_out"),
        )

    def open(self, folder: Path) -> dict[str, Any]:
        """Return the figures."""
        return read_json_or_raise(folder / "fidelity.json")
