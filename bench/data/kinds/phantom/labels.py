"""Decide who has which finding: patients, true labels, and the labels that a reader who makes mistakes wrote down.

The labels are drawn from a Gaussian copula. `z_c = patient severity + image severity + own noise` has unit variance,
and class `c` is present if `z_c` is above the threshold of its prevalence. So findings occur together, because they
share a severity, and yet every class has exactly its prevalence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.data.kinds.phantom.settings import CLASS_NAMES, PhantomSetSettings, PhantomSettings
from bench.seeds import derive

# Patients are drawn for blocks of eight consecutive images. The patient of any image is thus known without drawing all
# images before it, and no patient spans two blocks.
BLOCK = 8
MAX_IMAGES = 4  # of one patient


class Facts(NamedTuple):
    """Everything about an image that is known without drawing it.

    Attributes:
        patient: the patient number.
        true_labels: `bool [C]`.
        observed_labels: `bool [C]`.
        severities: `float64 [C]`, z_c - threshold_c, which is positive if the finding is present.
    """

    patient: int
    true_labels: NDArray[np.bool_]
    observed_labels: NDArray[np.bool_]
    severities: NDArray[np.float64]


def generator(settings: PhantomSettings, *axes: str | int) -> np.random.Generator:
    """Return the random generator of one axis of a phantom data set, e.g. the noise of image 5."""
    return np.random.default_rng(derive(settings.seed, "phantom", *axes))


def patient_of(settings: PhantomSettings, index: int) -> int:
    """Return the patient number of an image, which is the index of the patient's first image."""
    block, position = divmod(index + settings.offset, BLOCK)
    rng = generator(settings, "patients", block)
    start = 0
    while True:
        start_next = start + int(rng.integers(1, MAX_IMAGES + 1))
        if position < start_next:
            return block * BLOCK + start
        start = start_next


def official_split(settings: PhantomSetSettings, n_images: int) -> NDArray[np.int64] | None:
    """Return the part of every image, `int64 [n]`: 0 train, 1 val, 2 test; or None if `held_out` is not set.

    No patient is in two parts.

    Raises:
        ValueError: if nothing is left to train on.
    """
    if settings.held_out is None:
        return None
    if n_images <= settings.held_out:
        raise ValueError(
            f"held_out = {settings.held_out} of n_images = {n_images} leaves nothing to train on; "
            "raise n_images or lower held_out"
        )
    index = np.arange(n_images)
    held_out = np.where(index // BLOCK % 5 < 2, 1, 2)  # whole blocks, and therefore whole patients
    return np.where(index < settings.held_out, held_out, 0)


def facts(settings: PhantomSettings, index: int) -> Facts:
    """Return the patient, the true and observed labels, and the severities of an image, without drawing it.

    Raises:
        IndexError: for a negative index.
    """
    from scipy.special import ndtri  # imported here because a matrix is read far more often than a phantom is drawn

    if index < 0:
        raise IndexError(f"phantom index must be >= 0, got {index}")
    n_classes = len(CLASS_NAMES)
    p = np.asarray(settings.effective_prevalences(index))
    patient = patient_of(settings, index)
    by_patient = generator(settings, "severity", patient).standard_normal()
    rng = generator(settings, "image", index + settings.offset)
    by_image, own = rng.standard_normal(), rng.standard_normal(n_classes)
    shares = settings.patient_share, settings.image_share
    z = np.sqrt(shares[0]) * by_patient + np.sqrt(shares[1]) * by_image
    z = z + np.sqrt(1 - sum(shares)) * own
    severities = z + ndtri(p)  # the threshold is -ndtri(p)
    true = severities > 0
    flip = rng.random(n_classes)
    seen = flip >= settings.miss_rate
    invented = flip < settings.false_rate * p / (1 - p)
    return Facts(patient, true, np.where(true, seen, invented), severities)


def strengths(settings: PhantomSettings, index: int, severities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how marked every finding is, `float64 [C]` in [0, 1]: its quantile among the positives.

    The strength grows continuously with the severity, from 0 at the threshold. A class below its threshold gets a
    uniform random number, which is used only if the caller overrides the labels.
    """
    from scipy.special import ndtr, ndtri

    p = np.asarray(settings.effective_prevalences(index))
    quantile = 1 - ndtr(-(severities - ndtri(p))) / p
    spare = generator(settings, "strength", index + settings.offset).random(len(p))
    return np.where(severities > 0, quantile, spare)
