"""Who is ill with what: patients, true labels and the noisy labels that a reader wrote down.

A Gaussian copula: ``z_c = patient severity + image severity + own noise`` has unit variance and
class ``c`` is present where ``z_c`` passes the threshold of its prevalence, so that findings
co-occur through a shared severity while every prevalence stays exact.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.data.kinds.phantom.settings import CLASS_NAMES, PhantomSetSettings, PhantomSettings
from bench.seeds import derive

BLOCK = 8  # indices that share a draw of patients
MAX_IMAGES = 4


class Facts(NamedTuple):
    """Everything about an image that needs no drawing."""

    patient: int
    true_labels: NDArray[np.bool_]
    observed_labels: NDArray[np.bool_]
    severities: NDArray[np.float64]  # z_c - threshold_c: positive where the finding is present


def generator(settings: PhantomSettings, *axes: str | int) -> np.random.Generator:
    """Return the generator of one axis of a phantom data set."""
    return np.random.default_rng(derive(settings.seed, "phantom", *axes))


def patient_of(settings: PhantomSettings, index: int) -> int:
    """Return the patient of an image; patients lie inside blocks of eight indices."""
    block, position = divmod(index + settings.offset, BLOCK)
    rng = generator(settings, "patients", block)
    start = 0
    while True:
        start_next = start + int(rng.integers(1, MAX_IMAGES + 1))
        if position < start_next:
            return block * BLOCK + start
        start = start_next


def official_split(settings: PhantomSetSettings, n_images: int) -> NDArray[np.int64] | None:
    """Return the part of every image, 0 train, 1 val, 2 test; None without `held_out`. No patient is cut.

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
    held_out = np.where(index // BLOCK % 5 < 2, 1, 2)  # whole blocks, hence whole patients
    return np.where(index < settings.held_out, held_out, 0)


def facts(settings: PhantomSettings, index: int) -> Facts:
    """Return patient, true and observed labels and severities of an image, without drawing it."""
    from scipy.special import ndtri  # here, for a matrix is read far oftener than a phantom is drawn

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
    """Return in [0, 1] how marked every finding is: its quantile among the positives.

    It grows continuously with the severity from 0 at the threshold. A class below its threshold
    gets a uniform draw, used only where the labels are overridden.
    """
    from scipy.special import ndtr, ndtri

    p = np.asarray(settings.effective_prevalences(index))
    quantile = 1 - ndtr(-(severities - ndtri(p))) / p
    spare = generator(settings, "strength", index + settings.offset).random(len(p))
    return np.where(severities > 0, quantile, spare)
