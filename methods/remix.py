"""Remix (Chou et al. 2020): blend a tail image with a head image, and keep the label of the rarer class.

This is the control for the fusion of `ours`: the same kind of pair, without a codec, a map or a diffusion model. What
is from the paper:

- The image is the mean of both, weighted by a share from Beta(alpha, alpha).
- The label of the rarer class is kept in full if its class is at least `kappa` times rarer than the other one, and if
  the other image's share is below `tau`. Otherwise labels are mixed like the pixels. The defaults are the paper's.

What is ours:

- The pair is a tail image and an image without any tail class, and the blends are added to the real images. The paper
  mixes the images of each batch in training; the classifier's setting `mix` has such mixes.
- The tail image has the larger share, so that its class can be seen. The paper draws from the whole distribution.
- Images have many labels, and each class is judged on its own. The paper has one label an image: what the rarer class
  gains is taken from the other class. Here the partner's findings keep their share, because they can be seen as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from pydantic import Field

from bench.contract import (
    PARENT_SHARE,
    AugmentedBatch,
    Context,
    Float32,
    Int64,
    Method,
    TrainSet,
    over_images,
)
from methods.duplicate import copied_rows

BATCH = 64


class Remix(Method):
    """Blend a train image of the target class with a random image that has no tail class.

    Tail images are taken in turn, just as the control `duplicate` copies them. A finding of the tail image alone is
    labelled 1 if the rule of the paper keeps it, and otherwise with the tail image's share. A finding of the partner
    alone is labelled with the partner's share. So labels lie between 0 and 1, which some losses refuse; the label
    policy `union` gives labels of 0 and 1, and `area` is the labelling of plain mixup.
    """

    name: ClassVar[str] = "remix"
    tail_only: ClassVar[bool] = True
    soft_labels: ClassVar[bool] = True

    alpha: float = Field(1.0, ge=0.05, le=20, description="of Beta(alpha, alpha), which the tail image's share is from")
    min_share: float = Field(
        0.5, ge=0.5, lt=1, description="least share of the tail image; the distribution is cut off below it"
    )
    kappa: float = Field(
        3.0, ge=1, description="a class keeps its label if it is at least so many times rarer than the partner's rarest"
    )
    tau: float = Field(0.5, ge=0, le=1, description="a label is kept in full if the partner's share is below this")

    def skip(self, train: TrainSet) -> str | None:
        """Return a reason if there is no partner, else None."""
        return None if train.without_tail.any() else "every train image has a tail class, so there is no partner"

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        """Yield the blends with parents [tail image, partner]."""
        rows, candidates = copied_rows(ctx), np.flatnonzero(ctx.train.without_tail)
        for index in ctx.batches(BATCH):
            drawn = [self._draw(ctx.rng(int(i)), candidates) for i in index]
            parents = np.array([[rows[i], partner] for i, (partner, _) in zip(index, drawn, strict=True)])
            share = np.array([[1 - s, s] for _, s in drawn], dtype=np.float32)
            tail, partner = (ctx.train.images[of].astype(np.float32) for of in parents.T)
            blended = over_images(share[:, 0], tail) * tail + over_images(share[:, 1], tail) * partner
            images = np.rint(blended).astype(np.uint8)
            labels = remixed_labels(ctx.train, parents, share, self.kappa, self.tau)
            yield AugmentedBatch(images, labels, parents, {PARENT_SHARE: share})

    def _draw(self, rng: np.random.Generator, candidates: Int64) -> tuple[int, float]:
        """Return the partner's train row, and its share of the image in [0, 1 - min_share]."""
        from scipy.special import betainc, betaincinv

        # The inverse of the distribution function, at a uniform number below the bound. Beta(a, a) is symmetric, so the
        # tail image's share has the same distribution, cut off at the other end.
        partner = int(rng.choice(candidates))
        below = rng.random() * betainc(self.alpha, self.alpha, 1 - self.min_share)
        return partner, float(betaincinv(self.alpha, self.alpha, below))


def remixed_labels(train: TrainSet, parents: Int64, share: Float32, kappa: float, tau: float) -> Float32:
    """Return the labels of blends, `float32 [b, C]`: mixed like the pixels, but kept in full where the rule says so.

    A class of the tail image is compared with the partner's rarest finding. A partner without any finding counts as one
    of the class of all images without a finding. A label that is unknown in a parent is unknown, unless it is kept.

    Args:
        train: the train split.
        parents: `int64 [b, 2]`, the train rows of tail image and partner.
        share: `float32 [b, 2]`, their shares of the image.
        kappa: how many times rarer a class must be to keep its label.
        tau: the partner's share must be below it.
    """
    tail, partner = train.labels[parents[:, 0]], train.labels[parents[:, 1]]
    n_without = (~(train.labels == 1).any(axis=1)).sum()
    n_partner = np.where(partner == 1, train.counts, np.inf).min(axis=1)
    n_partner = np.where(np.isinf(n_partner), n_without, n_partner)[:, None]
    kept = (tail == 1) & (n_partner >= kappa * train.counts) & (share[:, 1:] < tau)
    return np.where(kept, 1, share[:, :1] * tail + share[:, 1:] * partner).astype(np.float32)
