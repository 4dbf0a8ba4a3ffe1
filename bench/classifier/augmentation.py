"""Changes of the training images: each image on its own, or two of them mixed.

Everything is drawn from seeds, so a resumed training sees the same images. No image is flipped, for the side matters.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torchvision.transforms import v2

from bench import seeds
from bench.classifier.recipe import Augmentation, Mix
from bench.pixels import from_planes, to_planes
from bench.tables import UInt8


@contextmanager
def torch_seed(seed: int) -> Iterator[None]:
    """Seed torch's generator on the CPU, from which transforms and dropout draw, and put its state back at the end."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def augmented(images: UInt8, augmentation: Augmentation, image_seeds: Sequence[int]) -> UInt8:
    """Return the images, each changed as its own seed says, whatever else is in the batch.

    `standard` is a rotation of up to 10 degrees, a scale of 0.9 to 1.1, a shift of up to 5 % of the side, and changes
    of brightness and contrast of up to 10 %. `trivial_augment` is one operation of random strength (Müller & Hutter
    2021).
    """
    if augmentation == "none":
        return images
    transform = _transform(augmentation)
    changed = []
    with torch.random.fork_rng(devices=[]):
        for image, seed in zip(to_planes(images), image_seeds, strict=True):
            torch.manual_seed(seed)
            changed.append(transform(image))
    return from_planes(torch.stack(changed))


@functools.cache
def _transform(augmentation: Augmentation) -> v2.Transform:
    bilinear = v2.InterpolationMode.BILINEAR
    if augmentation == "trivial_augment":
        return v2.TrivialAugmentWide(interpolation=bilinear)
    place = v2.RandomAffine(degrees=10, translate=(0.05, 0.05), scale=(0.9, 1.1), interpolation=bilinear)
    return v2.Compose([place, v2.ColorJitter(brightness=0.1, contrast=0.1)])


def mixed(mix: Mix, alpha: float, pixels: Tensor, labels: Tensor, weights: Tensor, seed: int) -> tuple[Tensor, ...]:
    """Return pixels, labels and weights in which each image is mixed with the one before it (`mixup`, `cutmix`).

    A label that is unknown in one of two mixed images is unknown. The share of the mix is drawn once for the batch.

    Args:
        mix: `mixup` (Zhang et al. 2018) or `cutmix` (Yun et al. 2019), both torchvision's.
        alpha: of the Beta distribution of the share.
        pixels: `[b, 3, h, w]`.
        labels: `[b, C]` in [0, 1] or NaN.
        weights: `[b]`, of the images in the loss.
        seed: decides the share and the place that is cut.
    """
    mixer = (v2.MixUp if mix == "mixup" else v2.CutMix)(alpha=alpha)
    with torch_seed(seed):
        # The weights go along as one more label, so that they are mixed with the same share.
        pixels, both = mixer(pixels, torch.cat([labels, weights[:, None]], dim=1))
    return pixels, both[:, :-1], both[:, -1]


def mixed_with(share: float, first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return `(1 - share) * first + share * second` for pixels, labels and weights of two batches."""
    return tuple(torch.lerp(a, b, share) for a, b in zip(first, second, strict=True))


def balanced_share(alpha: float, seed: int, step: int) -> float:
    """Return the share of the class-balanced image in Balanced-MixUp, from Beta(alpha, 1) (Galdran et al. 2021)."""
    return float(seeds.rng(seed, "balanced-mixup", step).beta(alpha, 1))
