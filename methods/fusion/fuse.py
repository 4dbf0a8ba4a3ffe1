"""Fusion: put the class-specific sites of an anchor's code into the code of a partner, and decode it to a latent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, model_validator

from bench.contract import (
    CLAIMED_CLASS,
    PARENT_SHARE,
    Float32,
    Int64,
    Plan,
    Resources,
    SaliencyTable,
    Settings,
    Stage,
    TrainSet,
    UInt8,
    Work,
    new_array,
    seeds,
    soft_mask,
    train_set,
    write_strict_json,
)
from methods.fusion.codec import Codec
from methods.fusion.pairing import Pairs, PairTable
from methods.fusion.saliency import batch_size, drawn_latents
from methods.fusion.settings import Checkpoint

if TYPE_CHECKING:
    from torch import Tensor


Mask = npt.NDArray[np.bool_] | Float32  # [h, w], the anchor's share of each site; True is all of it.
_ARRAYS = ("latents", "parents", "claimed_class", "anchor_cam", "partner_cam", "mask")


class FusionSettings(Settings):
    """Which sites are class-specific and which are class-generic, and what is fused.

    A hard mask gives each site to one parent, by the maps of both (the paper). The thresholds leave some sites
    undecided, and a coin decides about these. The released code draws the coin's bias once per batch. Here it is drawn
    once per sample, so that a sample does not depend on its batch.
    """

    space: Literal["code", "latent"] = Field(
        "code", description="fuse the parents' sparse codes and decode the result (the paper), or their latents"
    )
    mask: Literal["hard", "soft"] = Field(
        "hard", description="hard: each site is of one parent; soft: a weighted mean, by the anchor's map alone"
    )
    soft_from: float = Field(
        0.15, ge=0, lt=1, description="soft mask: up to this value of the map, all is the partner's"
    )
    soft_to: float = Field(0.5, gt=0, le=1, description="soft mask: from this value on, all is the anchor's")
    cam_high: float = Field(0.5, ge=0, le=1, description="q1: an anchor's site is class-specific if its map is above")
    cam_low: float = Field(0.5, ge=0, le=1, description="q2: a partner's site is class-generic if its map is below")
    thresholds: Literal["fixed", "quantile", "per_sample", "per_class"] = Field(
        "fixed",
        description="q1 and q2 as they are, as quantile levels of each map, or drawn from N(q, thresholds_std)",
    )
    thresholds_std: float = Field(0.1, ge=0, le=1, description="standard deviation of drawn thresholds")

    @model_validator(mode="after")
    def _rises(self) -> FusionSettings:
        if self.soft_from >= self.soft_to:
            raise ValueError(f"soft_from: {self.soft_from} is not below soft_to = {self.soft_to}")
        return self


@dataclass(frozen=True)
class FusedSet:
    """The fused latents, one per sample of the plan, memory-mapped.

    Attributes:
        latents: `float32 [n, c, h, w]`, scaled like the diffusion model's latents.
        parents: `int64 [n, 2]`, the train rows of anchor and partner, the images that were fused.
        claimed_class: `int64 [n]`, the class that the sample is said to show.
        anchor_cam, partner_cam: `float32 [n, h, w]` in [0, 1], the maps that the mask was made from.
        mask: the anchor's share of each site, `uint8 [n, h, w]` of 0 and 1 if hard, `float32` in [0, 1] if soft.
    """

    latents: Float32
    parents: Int64
    claimed_class: Int64
    anchor_cam: Float32
    partner_cam: Float32
    mask: UInt8 | Float32

    def extras(self, index: Int64, of_anchor: Float32) -> dict[str, npt.NDArray[np.generic]]:
        """Return the extras of the samples `index` `[b]`; `of_anchor` `[b]` is the anchor's share of each image."""
        return {
            "anchor_cam": self.anchor_cam[index],
            "partner_cam": self.partner_cam[index],
            "mask": self.mask[index],
            PARENT_SHARE: np.stack([of_anchor, 1 - of_anchor], axis=1),
            CLAIMED_CLASS: self.claimed_class[index],
        }


class Fused(Stage):
    """Anchor, partner, mask and fused latent of every sample of the plan.

    With the index space `global` the map is the anchor's, and the claimed class is the target class.

    With `released` the anchor's position among the images of its target class is used as a train row when its map is
    read. So the map is that of another image, and the sample is said to show the class of that map: the image's
    best-scored tail class, or its best-scored head class if it has no tail class. The images that are fused are still
    the anchor and the row that the pairs name. The position is counted among the images of the target class, because
    the released code sets thresholds and numbers of images per tail class. Any other subset would give other wrong
    rows.
    """

    resources: ClassVar[Resources] = Resources(gpu=True)

    pairs: Pairs
    plan: Plan
    settings: FusionSettings = FusionSettings()
    seed: int
    codec: Codec | None = None  # Only to fuse codes.
    checkpoint: Checkpoint = "last"

    def size(self) -> int | None:
        """Return the number of samples that the plan asks for."""
        return self.plan.size(self.pairs.saliency.train)

    def compute(self, work: Work) -> None:
        """Write latents, parents, maps and masks as npy files, in the order of the samples, and `fusion.json`."""
        train = train_set(work, self.pairs.saliency.train)
        samples = self.plan.samples(train, tail_only=True)
        if skip_reason(train):
            samples = samples[:0]
        n, (c, h, w) = len(samples), work.get(self.pairs.saliency.latents).shape
        shapes = {"latents": (n, c, h, w), "parents": (n, 2), "claimed_class": (n,)}
        of_mask = np.float32 if self.settings.mask == "soft" else np.uint8
        types = {"parents": np.int64, "claimed_class": np.int64, "mask": of_mask}
        out = {
            name: new_array(work.out / f"{name}.npy", shapes.get(name, (n, h, w)), types.get(name, np.float32))
            for name in _ARRAYS
        }
        if n:  # Without samples the inputs are not asked for, so no codec is trained.
            self._choose(samples, train, work.get(self.pairs.saliency), work.get(self.pairs), out)
            self._fuse(work, out)
        for array in out.values():
            array.flush()
        write_strict_json(work.out / "fusion.json", _record(out, samples, train))

    def open(self, folder: Path) -> FusedSet:
        """Return the set, memory-mapped."""
        arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in _ARRAYS}
        return FusedSet(**arrays)

    def _choose(
        self, samples: Int64, train: TrainSet, saliency: SaliencyTable, pairs: PairTable, out: dict[str, np.memmap]
    ) -> None:
        """Draw anchor, partner and mask of every sample from the sample's own generator, and write them into `out`.

        Two index spaces are in use: `anchor` and `partner` are train rows, `position` counts the images of the target
        class only. Reading a map at `position` is the mistake of the released code, reproduced with `released`.
        """
        released = self.pairs.index_space == "released"
        for i, target_class in enumerate(samples.tolist()):
            rng = seeds.rng(self.seed, "fuse", i)
            anchors = train.rows_with(target_class)
            position = int(rng.integers(len(anchors)))
            anchor = int(anchors[position])
            partner = int(rng.choice(pairs.of(anchor, target_class)))
            read = saliency.entry(position if released else anchor, target_class)
            anchor_cam, partner_cam = saliency.cams[read], saliency.cams[saliency.entries(partner)[0]]
            out["parents"][i] = anchor, partner
            out["claimed_class"][i] = saliency.classes[read] if released else target_class
            out["anchor_cam"][i], out["partner_cam"][i] = anchor_cam, partner_cam
            if self.settings.mask == "soft":
                out["mask"][i] = soft_mask(anchor_cam, self.settings.soft_from, self.settings.soft_to)
            else:
                high, low = thresholds(self.settings, anchor_cam, partner_cam, rng, (self.seed, target_class))
                out["mask"][i] = fusion_mask(anchor_cam, partner_cam, high, low, rng)

    def _fuse(self, work: Work, out: dict[str, np.memmap]) -> None:
        """Compute the fused latents batch by batch, and write them into `out`."""
        import torch

        n = len(out["parents"])
        networks = work.get(self.codec).load(work.device, self.checkpoint) if self.codec else None
        size = batch_size(out["latents"].shape[1:])
        for start in range(0, n, size):
            part = slice(start, min(start + size, n))
            mask = torch.from_numpy(out["mask"][part]).to(work.device)
            anchor, partner = (
                torch.from_numpy(self._latents(work, rows)).to(work.device) for rows in out["parents"][part].T
            )
            if networks is None:
                fused = fuse(anchor, partner, mask)
            else:
                with torch.inference_mode():
                    fused = networks.decoder(fuse(networks.encode(anchor), networks.encode(partner), mask))
            out["latents"][part] = fused.cpu().numpy()
            work.progress(part.stop, n, "fused")

    def _latents(self, work: Work, rows: Int64) -> Float32:
        """Return the latents of train rows: drawn ones for the codec, which was trained on such; else their means."""
        saliency = self.pairs.saliency
        if self.codec is None:
            return np.asarray(work.get(saliency.latents).mean[rows])
        return drawn_latents(work, saliency.latents, rows, saliency.seed)


def skip_reason(train: TrainSet) -> str | None:
    """Return why no images can be fused from this train split, or None."""
    if not train.head:
        return "no class is a head class, so no partner has a map"
    if not train.without_tail.any():
        return "every train image has a tail class, so there is no partner"
    lacking = [name for name, c in zip(train.tail, train.tail_index, strict=True) if not len(train.rows_with(c))]
    return f"no train image has the tail class {', '.join(lacking)}" if lacking else None


def thresholds(
    settings: FusionSettings,
    anchor_cam: Float32,
    partner_cam: Float32,
    rng: np.random.Generator,
    seed_and_class: tuple[int, int],
) -> tuple[float, float]:
    """Return the thresholds (q1, q2) of a sample.

    Drawn thresholds come from `rng`, the sample's own generator. With `per_class` they come from `seed_and_class`
    instead, so that all samples of a target class have the same thresholds, in any batch.
    """
    centre = settings.cam_high, settings.cam_low
    if settings.thresholds == "fixed":
        return centre
    if settings.thresholds == "quantile":
        return float(np.quantile(anchor_cam, centre[0])), float(np.quantile(partner_cam, centre[1]))
    if settings.thresholds == "per_class":
        seed, target_class = seed_and_class
        rng = seeds.rng(seed, "thresholds", target_class)
    high, low = rng.normal(centre, settings.thresholds_std)
    return float(high), float(low)


def fusion_mask(anchor_cam: Float32, partner_cam: Float32, high: float, low: float, rng: np.random.Generator) -> Mask:
    """Return `bool [h, w]`, True where the anchor's code is taken.

    The anchor claims a site if its map is above `high`, and the partner claims it if its map is below `low`. A site
    that only one of them claims goes to that one. If both or neither claim it, a coin decides. The coin's bias is drawn
    from U(0, 1), once for the sample.
    """
    class_specific, class_generic = anchor_cam > high, partner_cam < low
    coin = rng.random(anchor_cam.shape) < rng.random()
    return np.where(class_specific == class_generic, coin, class_specific)


def fuse(anchors: Tensor, partners: Tensor, masks: Tensor) -> Tensor:
    """Return codes or latents `[b, k, h, w]`: the mean of both parents' at each site, weighted by the anchor's share.

    Args:
        anchors: `[b, k, h, w]`.
        partners: `[b, k, h, w]`.
        masks: the anchor's share, `[b, h, w]` in [0, 1]; where it is 0 or 1, the parent's values are taken as they are.
    """
    share = masks[:, None]
    if not share.is_floating_point():
        return anchors.where(share.bool(), partners)
    return share * anchors + (1 - share) * partners


def _record(out: dict[str, np.memmap], samples: Int64, train: TrainSet) -> dict[str, Any]:
    share = out["mask"].mean(axis=(1, 2)) if len(samples) else np.zeros(0)
    return {
        "samples": len(samples),
        "share_tail": float(share.mean()) if len(samples) else None,
        "share_head": float(1 - share.mean()) if len(samples) else None,
        "share_tail_by_class": {train.class_names[c]: float(share[samples == c].mean()) for c in np.unique(samples)},
        "claimed_target": float((out["claimed_class"] == samples).mean()) if len(samples) else None,
        "distinct_anchors": len(np.unique(out["parents"][:, 0])),
        "distinct_partners": len(np.unique(out["parents"][:, 1])),
    }
