"""The settings of the phantom: class names, prevalences, and the dials for its difficulty.

The defaults were chosen once, so that a baseline gets about the paper's mAP of 0.62 (head) and 0.155 (tail) and leaves
room for improvement. These are the values of a DenseNet121 that was trained from scratch (64 px, prevalence_floor
0.012, 1,504 training images with observed labels, 3,300 image visits in batches of 20, one-cycle AdamW with 1e-3), on
the next 1,000 images: mAP against their observed labels, head / tail.

- data seed 0, initialisation 0: 0.611 / 0.193 (0.694 / 0.210 against the true labels)
- data seed 3, initialisation 2: 0.627 / 0.133 (0.708 / 0.150)

The shipped oracle, which was trained on the true labels of 20,000 other images, shows how much room there is. Its
values are in `assets/oracle/record.json`.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from bench.pipeline.settings import Settings

HEAD: tuple[str, ...] = (
    "Support Devices",
    "Lung Opacity",
    "Cardiomegaly",
    "Pleural Effusion",
    "Atelectasis",
)
TAIL: tuple[str, ...] = (
    "Pneumothorax",
    "Fracture",
    "Enlarged Cardiomediastinum",
    "Tortuous Aorta",
    "Pneumomediastinum",
)
CLASS_NAMES: tuple[str, ...] = HEAD + TAIL

# The train counts of MIMIC-CXR-LT divided by 264,849 images, for the head classes and the tail of the released code.
PREVALENCES: tuple[float, ...] = (
    0.34, 0.30, 0.29, 0.26, 0.255,
    0.057, 0.045, 0.114, 0.013, 0.003,
)  # fmt: skip


class PhantomSettings(Settings):
    """The identity of a phantom data set. Equal settings and an equal index give an equal image, byte for byte."""

    seed: int = Field(default=0, ge=0, description="root of every random draw")
    image_px: int = Field(default=64, ge=16, le=2048, description="side of the square image")
    contrast: float = Field(default=0.8, gt=0, le=3, description="strength of every finding")
    noise: float = Field(default=0.05, ge=0, le=1, description="std of the quantum noise")
    clutter: float = Field(default=1.0, ge=0, le=3, description="mean number of distractors / 1.5")
    miss_rate: float = Field(default=0.1, ge=0, lt=1, description="P(observed 0 | true 1)")
    false_rate: float = Field(default=0.1, ge=0, le=1, description="P(observed 1 | true 0) = this * p / (1 - p)")
    patient_share: float = Field(default=0.20, ge=0, lt=0.5, description="variance by patient")
    image_share: float = Field(default=0.15, ge=0, lt=0.5, description="variance by image")
    prevalences: tuple[float, ...] = Field(
        default=PREVALENCES, min_length=len(CLASS_NAMES), max_length=len(CLASS_NAMES)
    )
    prevalence_floor: float = Field(default=0.0, ge=0, le=0.5, description="lifts rare classes")
    offset: int = Field(default=0, ge=0, multiple_of=8, description="added to every index")

    def effective_prevalences(self, index: int | None = None) -> tuple[float, ...]:
        """Return the prevalence of every class, at least the floor. A subclass may let it depend on `index`."""
        return tuple(max(p, self.prevalence_floor) for p in self.prevalences)


class PhantomSetSettings(PhantomSettings):
    """Settings that change the training part of a phantom data set while val and test stay the same images.

    They are not in `PhantomSettings` because the records of the shipped networks list all fields of that class.
    """

    held_out: int | None = Field(
        default=None,
        ge=40,
        multiple_of=40,
        description="so many first images are val and test (2 : 3), all others train; null = as `split` says",
    )
    tail_factor: float = Field(
        default=1.0, gt=0, le=20, description="on the tail's floored prevalences, but for the `held_out` images"
    )

    @model_validator(mode="after")
    def _tail_stays_below_a_half(self) -> Self:
        """Refuse a factor that makes a tail class more frequent than one half."""
        highest = max(self.effective_prevalences(self.held_out or 0)[len(HEAD) :])
        if self.tail_factor != 1 and highest > 0.5:
            raise ValueError(
                f"tail_factor {self.tail_factor} gives a tail class a prevalence of {highest:.2g}, over 0.5"
            )
        return self

    def effective_prevalences(self, index: int | None = None) -> tuple[float, ...]:
        """Return the prevalence of every class, at least the floor; for the tail of a train image, times the factor."""
        floored = super().effective_prevalences()
        if index is None or index < (self.held_out or 0):
            return floored
        return floored[: len(HEAD)] + tuple(p * self.tail_factor for p in floored[len(HEAD) :])
