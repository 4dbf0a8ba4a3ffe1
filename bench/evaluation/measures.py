"""Computes the fidelity figures from arrays of features: how far synthetic images are from real ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bench import seeds
from bench.classifier.classifier import Classifier
from bench.data.split import Part
from bench.evaluation.extractors import (
    ClassifierExtractor,
    Extracted,
    Extractor,
    OracleExtractor,
)
from bench.metrics.cooccurrence import cooccurrence_gap
from bench.metrics.frechet import frechet_distance
from bench.metrics.kernel import kernel_distance, subset_distances
from bench.metrics.manifold import MEASURES, Distances, Features, manifold_measures, nearest_distances
from bench.pipeline.settings import Settings
from bench.tables import Float32, ImageTable, Int64

REFERENCES: dict[str, tuple[Part, ...]] = {
    "held_out": ("val", "test"),
    "val": ("val",),
    "test": ("test",),
    "train": ("train",),
}


class FidelitySettings(Settings):
    """How synthetic images are compared with real ones."""

    extractor: Extractor = OracleExtractor()
    reference: Literal["held_out", "val", "test", "train"] = Field("held_out", description="held_out = val + test")
    kid_subset_size: int = Field(1000, ge=2, description="sets up to this size are compared whole")
    kid_subsets: int = Field(100, ge=1)
    k_neighbors: int = Field(
        3,
        ge=1,
        description="neighbours for precision, recall, density and coverage; a side needs more images than that",
    )
    floor_draws: int = Field(
        20, ge=1, description="draws of real images that the floor is the mean of; one draw alone misses it by their sd"
    )
    seed: int = Field(0, description="seed of the subsets for the kernel distance and the floor")

    def with_classifier(self, classifier: Classifier) -> FidelitySettings:
        """Return the settings with `classifier` filled in, if the extractor needs one and has none."""
        if isinstance(self.extractor, ClassifierExtractor) and self.extractor.classifier is None:
            return self.model_copy(update={"extractor": self.extractor.model_copy(update={"classifier": classifier})})
        return self


@dataclass(frozen=True)
class Measures:
    """The arrays that the figures are computed from.

    Two index spaces meet here. Rows are rows of the data set, and they index `real` and `table`. Parents are rows of
    the train split, that is positions in `train_rows`; used as rows of the data set, they would name other images.

    Attributes:
        settings: reference, extractor, subsets and neighbours.
        table: the data set.
        real: features of all real images.
        synthetic: features of the synthetic images, or None if there are none.
        synthetic_classes: `int64 [n]`, the column of the class that each was made for.
        synthetic_labels: `float32 [n, C]`, the labels that the method itself gives; label policies come later.
        parents: `int64 [n, p]`, the positions in `train_rows` that each was made from; -1 = none.
        train_rows, reference_rows, held_out_rows: rows of the data set.
    """

    settings: FidelitySettings
    table: ImageTable
    real: Extracted
    synthetic: Extracted | None
    synthetic_classes: Int64
    synthetic_labels: Float32
    parents: Int64
    train_rows: Int64
    reference_rows: Int64
    held_out_rows: Int64

    @property
    def classes(self) -> list[str]:
        """Return the tail classes, followed by other classes that images were made for."""
        made = [self.table.class_names[c] for c in np.unique(self.synthetic_classes)]
        return list(dict.fromkeys([*self.table.tail, *made]))

    def distances(self, name: str) -> dict[str, float | int | None]:
        """Return the distances and counts of one class; a distance is null if a side has fewer than two images.

        The floor is the distance of real images to the same reference: the value that perfect images would get (see
        `_other_rows` for which images these are). The FID from a small sample is biased upwards, and the bias depends
        on the sample size. So the floor must use as many images as there are synthetic ones. If there are fewer real
        ones, all of them are used, and `fid_equal_n` is the figure to compare with the floor: the FID of the first
        `n_floor` synthetic images.

        The floor is the mean over `floors`, and `<distance>_floor_spread` is their standard deviation; null if all real
        images are used, since there is only one such set. `largest_patient` is the share of the reference that comes
        from the patient with most images in it; null without a reference.
        """
        synthetic, reference, others = self._sides(name)
        n_floor = len(others[0])
        fid, kid = self._compare(synthetic, reference)
        fid_equal_n, kid_equal_n = self._compare(synthetic[:n_floor], reference)
        return {
            "fid": fid,
            "kid": kid,
            "n_real": len(reference),
            "n_synthetic": len(synthetic),
            "n_floor": n_floor,
            "fid_equal_n": fid_equal_n,
            "kid_equal_n": kid_equal_n,
            "largest_patient": self._largest_patient(name),
        }

    def floors(self, name: str) -> Distances | None:
        """Return FID and KID of each draw of real images of one class, `float64 [draws, 2]`; None if there are too few.

        There is one draw where all real images are needed.
        """
        _, reference, others = self._sides(name)
        if min(len(others[0]), len(reference)) < 2:
            return None
        return np.array([self._compare(other, reference) for other in others], dtype=np.float64)

    def _largest_patient(self, name: str) -> float | None:
        """Return the share of the reference images of a class that are of the patient with most of them."""
        rows = self.reference_rows[self._has(self.reference_rows, name)]
        counts = np.unique(self.table.patients[rows], return_counts=True)[1]
        return float(counts.max() / counts.sum()) if len(counts) else None

    def manifolds(self, name: str) -> dict[str, float | None]:
        """Return precision, recall, density and coverage of one class; null if a side has too few images.

        `<measure>_real` is the same measure with the first draw of the floor's images in place of the synthetic ones.
        """
        synthetic, reference, (other, *_) = self._sides(name)
        none: dict[str, float | None] = dict.fromkeys(MEASURES)
        found = manifold_measures(synthetic, reference, self.settings.k_neighbors) or none
        real = manifold_measures(other, reference, self.settings.k_neighbors) or none
        return {**found, **{f"{measure}_real": real[measure] for measure in MEASURES}}

    def kid_subsets(self, name: str) -> Distances | None:
        """Return the kernel distance of one class on each pair of subsets, or None if a side has under four images."""
        synthetic, reference, _ = self._sides(name)
        s = self.settings
        # Each class has its own seed. With a common one all classes would draw the same positions, and the spread of
        # their mean would come out wrong.
        seed = seeds.derive(s.seed, "kid-subsets", name)
        return subset_distances(synthetic, reference, s.kid_subset_size, s.kid_subsets, seed)

    def _sides(self, name: str) -> tuple[Float32, Float32, list[Float32]]:
        """Return the features of one class: synthetic images, the reference, and each draw of real images."""
        synthetic = self._synthetic_features(self.table.class_names.index(name))
        other = self._with_class(self._other_rows, name)
        n, rng = len(synthetic), seeds.rng(self.settings.seed, "floor", name)
        n_draws = self.settings.floor_draws if n < len(other) else 1
        draws = [other[np.sort(rng.permutation(len(other))[:n])] for _ in range(n_draws)]
        return synthetic, self._with_class(self.reference_rows, name), draws

    @property
    def _other_rows(self) -> Int64:
        """Return the rows of the real images of the floor: none of the reference, and as new to the extractor as it is.

        They are the train images, or the held-out ones if train is the reference. An extractor that was trained on the
        train images tells these from new ones, so perfect images would be nearer to the reference than they are. Then
        they are those of val if test is the reference, and else there are none. With val as the reference they could be
        those of test, but this is how a sweep looks at images, and a sweep does not look at test.
        """
        if self.settings.reference == "train":
            return self.held_out_rows
        if not self.settings.extractor.saw_train:
            return self.train_rows
        is_test = self.settings.reference == "test"
        return np.setdiff1d(self.held_out_rows, self.reference_rows if is_test else self.held_out_rows)

    def _has(self, rows: Int64, name: str) -> npt.NDArray[np.bool_]:
        return self.table.labels[rows, self.table.class_names.index(name)] == 1

    def _with_class(self, rows: Int64, name: str) -> Float32:
        return self.real.features[rows[self._has(rows, name)]]

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
        """Return, per class, the share of its synthetic images in which the oracle sees it; None without an oracle."""
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

    def cooccurrence(self, name: str) -> dict[str, float | None]:
        """Return how far the labels beside a class are from those of the real train images with the class.

        `cooccurrence_gap` is that of the synthetic images, see `bench.metrics.cooccurrence`. `cooccurrence_gap_real` is
        that of the real images of the reference (held-out ones, if it is train): the gap that chance and the split
        leave.
        """
        c, labels = self.table.class_names.index(name), self.table.labels
        real = labels[self.train_rows[self._has(self.train_rows, name)]]
        rows = self.held_out_rows if self.settings.reference == "train" else self.reference_rows
        others = labels[rows[self._has(rows, name)]]
        return {
            "cooccurrence_gap": cooccurrence_gap(self.synthetic_labels[self.synthetic_classes == c], real, c),
            "cooccurrence_gap_real": cooccurrence_gap(others, real, c),
        }

    def nearest(self) -> NearestTrain:
        """Return the distances to the nearest train image, for synthetic and for held-out images.

        The held-out images show how near a new image of another patient is by chance. Only those with one of the
        classes count, and each class is weighted as it is among the synthetic images. Rare findings lie further apart,
        and a method makes many images of them: unweighted, the held-out images would look too near.
        """
        columns = [self.table.class_names.index(name) for name in self.classes]
        has = self.table.labels[self.held_out_rows][:, columns] == 1
        made = np.array([(self.synthetic_classes == c).sum() for c in columns]) if self.synthetic else 1
        weights = (has * made / np.maximum(has.sum(axis=0), 1)).sum(axis=1)
        real, rows, synthetic = self.real.features, self.train_rows, (np.zeros(0), np.zeros(0))
        held_out, _ = nearest_distances(real[self.held_out_rows[weights > 0]], real, rows=rows)
        if self.synthetic:
            patients = self.table.patients[rows]
            synthetic = nearest_distances(self.synthetic.features, real, self.parents, rows, patients)
        return NearestTrain(*synthetic, held_out, weights[weights > 0])


@dataclass(frozen=True)
class NearestTrain:
    """Distances to the nearest train image, `float64 [n]`; NaN if there is no train image to compare with.

    Attributes:
        synthetic: for each synthetic image.
        without_parents: the same without the train images of the patients of its parents. SMOTE and fusion are near to
            the parents by construction, and other pictures of one patient resemble each other, as held-out images of
            other patients cannot.
        held_out: for each real image that is not in train.
        held_out_weights: the weight of each held-out image.
    """

    synthetic: Distances
    without_parents: Distances
    held_out: Distances
    held_out_weights: Distances

    def save(self, folder: Path) -> None:
        """Write each array as `nearest_<name>.npy`, `float32`."""
        for name, values in vars(self).items():
            np.save(folder / f"nearest_{name}.npy", values.astype(np.float32))

    def figures(self) -> dict[str, Any]:
        """Return medians, their ratios to the held-out median, and the share of copies.

        An image counts as a copy if it is nearer to train than the 5 % quantile of the held-out images. The share of
        copies among new, real images would therefore be 0.05.
        """
        median, near = weighted_quantiles(self.held_out, self.held_out_weights, [0.5, 0.05]) or (None, None)
        found: dict[str, Any] = {"nearest_train": {"held_out": median}}
        for name, suffix in (("synthetic", ""), ("without_parents", "_without_parents")):
            distances = getattr(self, name)
            there = distances[~np.isnan(distances)]
            middle = float(np.median(there)) if len(there) else None
            found["nearest_train"][name] = middle
            found[f"nearest_ratio{suffix}"] = middle / median if middle is not None and median else None
            found[f"copies_share{suffix}"] = float((there < near).mean()) if len(there) and near is not None else None
        return found


def weighted_quantiles(values: Features, weights: Features, at: list[float]) -> list[float] | None:
    """Return the quantiles `at` of `values [n]` with `weights [n]`, or None if there are no values."""
    if len(values) == 0:
        return None
    # `inverted_cdf` is the only method of numpy that takes weights. It returns one of the values, never a mean of two.
    return [float(q) for q in np.quantile(values, at, weights=weights, method="inverted_cdf")]


def spread(values: Distances | None) -> float | None:
    """Return the population standard deviation, or None if `values` is None."""
    return None if values is None else float(values.std())


def floor_figures(floors: Distances | None) -> dict[str, float | None]:
    """Return the mean and the spread of the draws of a floor, `float64 [draws, 2]`, by their names in the results."""
    if floors is None:
        return dict.fromkeys(f"{d}_floor{suffix}" for d in ("fid", "kid") for suffix in ("", "_spread"))
    found: dict[str, float | None] = {}
    for i, distance in enumerate(("fid", "kid")):
        found[f"{distance}_floor"] = float(floors[:, i].mean())
        found[f"{distance}_floor_spread"] = spread(floors[:, i]) if len(floors) > 1 else None
    return found


def spread_of_mean(floors: list[Distances], column: int) -> float | None:
    """Return the standard deviation over draws of the mean of several classes; None if no class has several draws.

    A class of one draw (all of its real images) is the same in every draw of the others.
    """
    if all(len(draws) == 1 for draws in floors):
        return None
    return spread(np.mean(np.broadcast_arrays(*(draws[:, column] for draws in floors)), axis=0))
