"""Diagnostics: how well the inner steps of the fusion worked. They judge the code, the maps and the masks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from bench.contract import (
    NO_CLASS,
    Dataset,
    Float32,
    Int64,
    SaliencyTable,
    Stage,
    Work,
    read_json_or_raise,
    train_set,
    write_strict_json,
)
from bench.metrics import localisation
from methods.fusion.fuse import Fused, FusedSet
from methods.fusion.pairing import PairTable, head_labels_apart
from methods.fusion.settings import Checkpoint

Sites = npt.NDArray[np.bool_]

DESCRIPTIONS: dict[str, str] = {
    "reconstruction_l1": "mean absolute error of the latents that the code rebuilds",
    "mean_max_probability": "mean probability of a site's likeliest word; 1 is one-hot, 1/V uniform",
    "normalised_entropy": "mean entropy of a site's words over log V; 0 is one-hot, 1 uniform",
    "latents_beyond_1": "share of latent values outside [-1, 1], which a decoder ending in Tanh cannot rebuild",
    "cam_empty_share": "share of all maps that are constant: nothing in the image raises the score",
    "n_maps_judged": "number of anchor maps for a tail class that is truly in the image; the next six are over these",
    "cam_pointing": "share of judged maps whose maximum falls on the true finding",
    "cam_pointing_chance": "cam_pointing of sites drawn at random",
    "cam_pointing_prior": "cam_pointing of the site that is most often true in the class's other images",
    "cam_iou": "overlap of a map's k highest sites with the k sites of the true finding",
    "cam_iou_above_half": "overlap of a map's sites above 0.5 with those of the true finding",
    "cam_inside_ratio": "share of a map's energy on the true finding over the finding's share of sites; 1 is chance",
    "mean_share_tail": "mean share of a fused latent's sites that are the anchor's",
    "mean_share_head": "mean share of a fused latent's sites that are the partner's",
    "n_samples_judged": "number of fused samples whose target class is truly in their anchor",
    "share_of_true_site_taken": "share of the target's true sites taken from the anchor; mean_share_tail is chance",
    "distinct_anchors": "number of different anchors among the fused samples",
    "distinct_partners": "number of different partners among the fused samples",
    "head_labels_apart": "mean number of head labels in which an anchor and its possible partners differ",
    "median_partner_distance": "median distance between an anchor and its possible partners, as the search measures it",
}
_CODEC = ("reconstruction_l1", "mean_max_probability", "normalised_entropy", "latents_beyond_1")
_RECORD_OF: dict[Checkpoint, str] = {"last": "final", "first": "first"}  # Checkpoint → its part of the codec's record.
_ROWS_AT_ONCE = 256


class Diagnostics(Stage):
    """A flat dict with the names in `DESCRIPTIONS`. A value that cannot be computed is None.

    Measures that need true masks are None if the data set has none, and all are None if nothing was fused. A map is
    only judged if it is known where its class truly is: for a wrong label there is no right map. All maps and samples
    count the same, so the commoner tail classes dominate the means.
    """

    fused: Fused

    def compute(self, work: Work) -> None:
        """Write `diagnostics.json`."""
        fused: FusedSet = work.get(self.fused)
        found: dict[str, float | int | None] = dict.fromkeys(DESCRIPTIONS)
        if len(fused.parents):  # If nothing was fused, no codec was trained, and the diagnostics must not train one.
            found |= self._of_codec(work) | self._of_fusion(work, fused) | self._against_truth(work, fused)
        write_strict_json(work.out / "diagnostics.json", found)

    def open(self, folder: Path) -> dict[str, float | int | None]:
        """Return name → number, or None if it could not be computed."""
        return read_json_or_raise(folder / "diagnostics.json")

    def _of_codec(self, work: Work) -> dict[str, float | int | None]:
        """Return the measures of the networks that fused the codes; none if latents were fused."""
        if (codec := self.fused.codec) is None:
            return {}
        record = work.get(codec).record[_RECORD_OF[self.fused.checkpoint]]
        return {name: record[name] for name in _CODEC}

    def _of_fusion(self, work: Work, fused: FusedSet) -> dict[str, float | int | None]:
        """Return the measures that need no true masks."""
        table: SaliencyTable = work.get(self.fused.pairs.saliency)
        pairs: PairTable = work.get(self.fused.pairs)
        share = float(fused.mask.mean(dtype=np.float64))
        entries = np.flatnonzero(table.classes != NO_CLASS)
        blocks = (entries[start : start + _ROWS_AT_ONCE] for start in range(0, len(entries), _ROWS_AT_ONCE))
        constant = np.concatenate([np.ptp(table.cams[block], axis=(1, 2)) == 0 for block in blocks])
        distance = float(np.median(pairs.distances))
        train = train_set(work, self.fused.pairs.saliency.train)
        return {
            "cam_empty_share": float(constant.mean()),
            "mean_share_tail": share,
            "mean_share_head": 1 - share,
            "distinct_anchors": len(np.unique(fused.parents[:, 0])),
            "distinct_partners": len(np.unique(fused.parents[:, 1])),
            "head_labels_apart": float(head_labels_apart(train, pairs.anchors, pairs.partners).mean()),
            "median_partner_distance": None if np.isnan(distance) else distance,
        }

    def _against_truth(self, work: Work, fused: FusedSet) -> dict[str, float | int | None]:
        """Return the measures that need true masks, or an empty dict if the data set has none."""
        saliency = self.fused.pairs.saliency
        train, dataset = train_set(work, saliency.train), saliency.train.split.dataset
        # Parents and maps count rows of the train split, true masks count rows of the data set. `at` translates.
        at = work.get(saliency.train.split)["train"]
        table: SaliencyTable = work.get(saliency)
        of_tail = np.isin(table.classes, train.tail_index)
        side = fused.mask.shape[-1]
        of_maps = true_sites(dataset, at[table.rows[of_tail]], table.classes[of_tail], side)
        of_samples = true_sites(dataset, at[fused.parents[:, 0]], self.fused.plan.samples(train), side)
        if of_maps is None or of_samples is None:
            return {}
        return judged_maps(table.cams[of_tail], of_maps, table.classes[of_tail]) | judged_masks(fused.mask, of_samples)


def true_sites(dataset: Dataset, rows: Int64, classes: Int64, side: int) -> Sites | None:
    """Return the true sites of class `classes[i]` in row `rows[i]` of a data set, `bool [n, side, side]`.

    A mask without True means that the class is not in the image, or that nobody drew where it is. Returns None if the
    data set has no true masks.
    """
    found = np.zeros((len(rows), side, side), dtype=bool)
    for start in range(0, len(rows), _ROWS_AT_ONCE):
        part = slice(start, start + _ROWS_AT_ONCE)
        masks = dataset.true_masks(rows[part], side)
        if masks is None:
            return None
        found[part] = masks[np.arange(len(masks)), classes[part]]
    return found


def judged_maps(cams: Float32, truth: Sites, classes: Int64) -> dict[str, float | int | None]:
    """Return the `cam_` measures of maps `[n, h, w]` for `classes`, over the maps with any true sites `[n, h, w]`."""
    there = truth.any(axis=(1, 2))
    maps, masks = cams[there], truth[there]
    return {
        "n_maps_judged": int(there.sum()),
        "cam_pointing": _mean(localisation.pointing_hits(maps, masks)),
        "cam_pointing_chance": _mean(localisation.pointing_chance(masks)),
        "cam_pointing_prior": _mean(localisation.pointing_prior(masks, classes[there])),
        "cam_iou": _mean(localisation.iou_top(maps, masks)),
        "cam_iou_above_half": _mean(localisation.iou_above(maps, masks, 0.5)),
        "cam_inside_ratio": _mean(localisation.inside_ratio(maps, masks)),
    }


def judged_masks(taken: npt.NDArray[np.uint8] | Float32, truth: Sites) -> dict[str, float | int | None]:
    """Return the mean share of a sample's true sites `[n, h, w]` that its mask takes, over samples with true sites."""
    there = truth.any(axis=(1, 2))
    sites = truth[there].sum(axis=(1, 2))
    from_anchor = (truth[there] * taken[there]).sum(axis=(1, 2))
    return {"n_samples_judged": int(there.sum()), "share_of_true_site_taken": _mean(from_anchor / sites)}


def _mean(values: npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None
