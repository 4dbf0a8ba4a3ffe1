"""How large the releases are by their own documentation: what a run is estimated by before their files are there.

Labels are drawn at the documented frequencies, each class by itself; no result ever sees them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bench import seeds
from bench.datasets.base import Expected, KnownLabels
from bench.datasets.cxr_lt_choice import ClassChoice

_SEED = 0


@dataclass(frozen=True)
class Documented:
    """A release as it is described.

    Attributes:
        images: in train, val and test.
        patients: in all of them.
        of: number of images that `positives` are counted in.
        positives: class → images that have it.
        otherwise: positives taken for a class that no count is documented for.
    """

    images: tuple[int, int, int]
    patients: int
    of: int
    positives: dict[str, int]
    otherwise: int

    def counts(self, classes: tuple[str, ...]) -> np.ndarray:
        """Return the positives of each class, `int64 [C]`, to rank classes by."""
        return np.array([self.positives.get(name, self.otherwise) for name in classes], dtype=np.int64)

    def expected(self, choice: ClassChoice, limit: int | None) -> Expected:
        """Return labels of the documented size, of `limit` patients of it, that have the classes chosen."""
        share = 1.0 if limit is None else min(1.0, limit / self.patients)
        sizes = [max(1, round(share * n)) for n in self.images]
        n = sum(sizes)
        frequent = self.counts(choice.names) / self.of
        labels = (seeds.rng(_SEED, "documented").random((n, len(choice.names))) < frequent).astype(np.float32)
        patients = np.arange(n) * max(1, round(share * self.patients)) // n
        known = KnownLabels(choice.names, labels, patients, np.repeat(np.arange(3), sizes), choice.head, choice.tail)
        of = "" if share == 1 else f" of {sum(self.images):,}, for {limit:,} of {self.patients:,} patients"
        return Expected(known, f"{n:,} images{of}, as documented, not counted")


_MIMIC_POSITIVES = {  # in the train part of 1.1.0's 26 classes
    "Support Devices": 89_140,
    "Lung Opacity": 79_931,
    "Cardiomegaly": 76_900,
    "Pleural Effusion": 69_240,
    "Atelectasis": 67_597,
    "Pneumonia": 48_093,
    "No Finding": 41_869,
    "Edema": 38_574,
    "Enlarged Cardiomediastinum": 30_119,
    "Consolidation": 16_038,
    "Pneumothorax": 14_983,
    "Fracture": 11_883,
    "Infiltration": 10_218,
    "Nodule": 7_663,
    "Mass": 5_529,
    "Calcification of the Aorta": 4_361,
    "Emphysema": 4_255,
    "Hernia": 4_049,
    "Tortuous Aorta": 3_499,
    "Pleural Thickening": 3_369,
    "Lung Lesion": 2_533,
    "Subcutaneous Emphysema": 2_453,
    "Fibrosis": 1_158,
    "Pneumomediastinum": 788,
    "Pleural Other": 675,
    "Pneumoperitoneum": 543,
}
_NIH_POSITIVES = {  # in ChestX-ray14 (Wang et al. 2017); the classes that NIH-CXR-LT adds are rarer than all of these
    "No Finding": 60_361,
    "Infiltration": 19_894,
    "Effusion": 13_317,
    "Atelectasis": 11_559,
    "Nodule": 6_331,
    "Mass": 5_782,
    "Pneumothorax": 5_302,
    "Consolidation": 4_667,
    "Pleural Thickening": 3_385,
    "Cardiomegaly": 2_776,
    "Emphysema": 2_516,
    "Edema": 2_303,
    "Fibrosis": 1_686,
    "Pneumonia": 1_431,
    "Hernia": 227,
}
_PARTS = (264_849, 36_769, 75_492)  # of 1.1.0's 26 classes; the 19 are taken to be cut in the same proportion
_FRONTAL = 257_018
_PATIENTS = 65_379  # of MIMIC-CXR-JPG
_TRAIN = 264_849


def documented(kind: str, frontal: bool) -> Documented:
    """Return what is documented of a data set, `mimic-cxr-lt` or `nih-cxr-lt`; of MIMIC, of its frontal views."""
    if kind == "nih-cxr-lt":
        return Documented((78_506, 8_018, 25_596), 30_805, 112_120, _NIH_POSITIVES, 100)
    train, val, test = (round(n * _FRONTAL / sum(_PARTS)) for n in _PARTS) if frontal else _PARTS
    return Documented((train, val, test), _PATIENTS, _TRAIN, _MIMIC_POSITIVES, 543)
