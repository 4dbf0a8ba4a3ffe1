"""The settings of a training recipe: loss, sampler and augmentation. A row may have its own, as a comparator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from bench.pipeline.settings import Settings


class Bce(Settings):
    """Binary cross-entropy. With `positive_weights` of the classifier it is weighted."""

    kind: Literal["bce"] = "bce"


class Focal(Settings):
    """Focal loss: entries that are predicted well count less (Lin et al. 2017). It is torchvision's."""

    kind: Literal["focal"] = "focal"
    gamma: float = Field(2.0, ge=0, description="how much less well predicted entries count")
    alpha: float = Field(0.25, ge=0, le=1, description="weight of positives; negatives get 1 - alpha")


class Asymmetric(Settings):
    """Asymmetric loss: easy negatives count less, and the easiest not at all (Ridnik et al. 2021)."""

    kind: Literal["asymmetric"] = "asymmetric"
    gamma_positive: float = Field(1.0, ge=0, description="focus on positives")
    gamma_negative: float = Field(4.0, ge=0, description="focus on negatives")
    margin: float = Field(0.05, ge=0, lt=1, description="probability below which a negative adds no loss")


class ClassBalanced(Settings):
    """Binary cross-entropy whose classes are weighed by their effective numbers of positives (Cui et al. 2019)."""

    kind: Literal["class_balanced"] = "class_balanced"
    beta: float = Field(0.9999, ge=0, lt=1, description="0: all classes alike; towards 1: by inverse counts")


class Ldam(Settings):
    """Label-distribution-aware margins with deferred re-weighting, in multi-label form (Cao et al. 2019).

    The logit of a positive is lowered by a margin that is larger for rarer classes. Towards the end, classes are also
    weighed as in `ClassBalanced`.
    """

    kind: Literal["ldam"] = "ldam"
    max_margin: float = Field(0.5, gt=0, description="margin of the rarest class, in logits")
    reweight_from: float = Field(0.8, ge=0, le=1, description="share of the steps without re-weighting; 1: all of them")
    beta: float = Field(0.9999, ge=0, lt=1, description="of the re-weighting, see class_balanced")


def _shorthand(given: Any) -> Any:
    return {"kind": given} if isinstance(given, str) else given


Loss = Annotated[
    Bce | Focal | Asymmetric | ClassBalanced | Ldam, Field(discriminator="kind"), BeforeValidator(_shorthand)
]
Sampler = Literal["plain", "class_balanced", "square_root"]
Augmentation = Literal["none", "standard", "trivial_augment"]
Mix = Literal["none", "mixup", "cutmix", "balanced_mixup"]

SOFT_LOSSES = (Bce, ClassBalanced)  # those that are defined for labels between 0 and 1
