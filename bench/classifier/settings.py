"""The settings of the classifiers of a matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from bench.classifier.recipe import SOFT_LOSSES, Augmentation, Bce, Loss, Mix, Sampler
from bench.content_digests import digest_of
from bench.errors import ConfigError
from bench.paths import counted_from
from bench.pipeline.settings import Settings, not_semantic

SMALLEST_PX = 32  # The networks halve the side five times, so a smaller image has no last feature map.
Selection = Literal["best_val_map_all", "best_val_map_tail", "last"]


class ClassifierSettings(Settings):
    """How the classifiers of a matrix are trained. It is the same for every method, unless a row has its own recipe.

    The length of the training is given in `epochs` (more images mean more steps) or in `steps` (every method gets the
    same number of optimiser steps).
    """

    architecture: Literal["densenet121", "resnet18", "resnet50", "convnext_tiny", "efficientnet_b0"] = "densenet121"
    epochs: int | None = Field(None, ge=1, description="passes over real and synthetic images; 10 if neither is given")
    steps: int | None = Field(None, ge=1, description="optimiser steps, instead of epochs")
    batch_size: int = Field(32, ge=2)
    learning_rate: float = Field(1e-3, gt=0, description="highest of the schedule (AdamW)")
    weight_decay: float = Field(1e-2, ge=0)
    schedule: Literal["onecycle", "constant"] = "onecycle"
    loss: Loss = Field(
        Bce(), description="bce, focal, asymmetric, class_balanced or ldam, or a mapping with `kind` and its settings"
    )
    positive_weights: bool = Field(
        False, description="weighted bce: positives count negatives / positives of the real train rows"
    )
    sampler: Sampler = Field(
        "plain", description="plain: each image once an epoch; else images are drawn by the rarest class that they have"
    )
    retrain_head: float = Field(
        0.0, ge=0, lt=1, description="share of the steps, the last, on a new last layer alone, class-balanced (cRT)"
    )
    synthetic_weight: float = Field(1.0, ge=0, description="factor on the loss of synthetic images")
    synthetic_first: float = Field(
        0.0, ge=0, lt=1, description="share of the steps on synthetic images alone, then real ones alone; 0 = mixed"
    )
    shift_px: int = Field(0, ge=0, description="random shifts in training; never flips, for the side matters")
    augmentation: Augmentation = Field("none", description="of each training image; never flips")
    mix: Mix = Field("none", description="mixes of two training images and of their labels")
    mix_alpha: float | None = Field(
        None, gt=0, description="of the Beta distribution of the mix; null: mixup 0.4, cutmix 1, balanced_mixup 0.1"
    )
    image_px: int | None = Field(
        None, ge=SMALLEST_PX, description="side that images are resized to; null = as they are"
    )
    weights: str | None = not_semantic(
        None, description="file to initialise the trunk from (state dict or checkpoint, torchvision's names)"
    )
    precision: Literal["float32", "tf32_on_gpu", "bfloat16_on_gpu"] = Field(
        "float32", description="of a training step; evaluation is always in float32"
    )
    n_validations: int = Field(6, ge=1, description="evaluations on val, evenly over the training")
    selection: Selection = "best_val_map_all"

    @model_validator(mode="before")
    @classmethod
    def _one_length(cls, given: Any) -> Any:
        """Check that only one of `epochs` and `steps` is given; if neither is, set 10 epochs."""
        if not isinstance(given, dict):
            return given
        epochs, steps = given.get("epochs"), given.get("steps")
        if epochs is not None and steps is not None:
            raise ValueError(f"give epochs or steps, not both (epochs {epochs}, steps {steps}); set one to null")
        return given | {"epochs": 10} if epochs is None and steps is None else given

    @model_validator(mode="after")
    def _recipe_fits_together(self) -> ClassifierSettings:
        if self.positive_weights and not isinstance(self.loss, Bce):
            raise ValueError(f"positive_weights belongs to the loss bce, not to {self.loss.kind}; give one of them")
        if self.mix != "none" and not isinstance(self.loss, SOFT_LOSSES):
            raise ValueError(
                f"{self.mix} makes labels between 0 and 1, for which the loss {self.loss.kind} is not defined; use bce "
                "or class_balanced, or mix: none"
            )
        if self.synthetic_first + self.retrain_head >= 1:
            raise ValueError("synthetic_first and retrain_head leave no step on real images; lower one of them")
        if self.synthetic_first and self.synthetic_weight != 1:
            # AdamW takes the same steps whatever all of a batch is multiplied by.
            raise ValueError(
                "with synthetic_first no batch has real and synthetic images, so synthetic_weight has nothing to weigh "
                "against; set it to 1, or synthetic_first to 0"
            )
        if self.mix_alpha is not None and self.mix == "none":
            raise ValueError("mix_alpha says how images are mixed; give a mix, too")
        return self

    def check_side(self, native_px: int, whose: str = "images") -> None:
        """Check that images are large enough for the network, or enlarged. `whose` says in words which images.

        Raises:
            ConfigError: if they are not.
        """
        if (self.image_px or native_px) < SMALLEST_PX:
            raise ConfigError(
                f"classifier.image_px: {whose} are {native_px} px, {self.architecture} needs {SMALLEST_PX} or more; "
                f"set classifier.image_px={SMALLEST_PX} to enlarge them"
            )

    def content(self) -> dict[str, str]:
        """Return the digest of the weights file. It is part of the key, instead of the path.

        Raises:
            ConfigError: if the file is missing.
        """
        return {} if self.weights is None else {"weights": _weights_digest(Path(self.weights).expanduser())}


def _weights_digest(path: Path) -> str:
    try:
        return digest_of(path)
    except OSError as error:
        raise ConfigError(
            f"classifier.weights: {path} cannot be read ({error.strerror}){counted_from(path)}; give a torchvision "
            "state dict (.pth or .safetensors), or null to start from random weights"
        ) from error
