"""Saliency: where the classifier of codes looks, as one map per train image and target class (paper, section 3.2).

An image with tail classes may become an anchor. It has a map for each of them, or for the best-scored one only. An
image without tail classes may become a partner. It has one map, for its best-scored head class.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.contract import (
    Float32,
    Int64,
    Resources,
    Settings,
    Stage,
    TrainSet,
    Work,
    new_array,
    seeds,
    train_set,
    write_strict_json,
)
from methods.fusion.codec import Codec
from methods.fusion.settings import Checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from methods.fusion.networks import CodecNetworks

CamMethod = Literal["gradcam", "hirescam", "layercam", "eigencam", "scorecam", "gradcam++", "xgradcam"]
_BATCH = 64  # Fixed, so that maps do not depend on the machine.


class SaliencySettings(Settings):
    """Which class activation map is used, for which classes and on which layers.

    LayerCAM over all layers is the default, because its maxima fall on the phantom's true masks more often than those
    of the other methods. A site of the last layer sees the whole latent, and the maxima of its maps fall on the true
    masks no more often than by chance.
    """

    cam_method: CamMethod = Field("layercam", description="class activation map; eigencam ignores the class")
    cam_target: Literal["each", "best"] = Field(
        "each", description="an anchor's maps: for each tail class that it has, or for its best-scored one only"
    )
    cam_layers: Literal["last", "all"] = Field(
        "all", description="last: the classifier's last feature layer; all: the mean over its feature layers"
    )


@dataclass(frozen=True)
class SaliencyTable:
    """The maps of the train images, memory-mapped. They are sorted by train row.

    An entry is a position in this table. It is not a train row, because an image may have several maps.

    Attributes:
        cams: `float32 [m, h, w]` in [0, 1], at the latent's resolution.
        rows: `int64 [m]`, the train row of each map, ascending.
        classes: `int64 [m]`, the class (column) of each map.
    """

    cams: Float32
    rows: Int64
    classes: Int64

    def entries(self, row: int) -> Int64:
        """Return the entries of all maps of a train row."""
        return np.arange(*np.searchsorted(self.rows, [row, row + 1]))

    def entry(self, row: int, target_class: int) -> int:
        """Return the entry of a train row's map for `target_class`, or of its first map if there is no such map."""
        found = self.entries(row)  # `argmax` below returns 0, the first entry, if no map is for the class.
        return int(found[np.argmax(self.classes[found] == target_class)])


class Saliency(Stage):
    """The class activation maps of the train images, from the classifier of codes.

    `checkpoint` chooses the networks of the first or the last generation, here and in all later stages. It is not a
    setting of the codec, so that both choices share one training.
    """

    resources: ClassVar[Resources] = Resources(gpu=True)

    codec: Codec
    settings: SaliencySettings = SaliencySettings()
    checkpoint: Checkpoint = "last"

    def compute(self, work: Work) -> None:
        """Write `cams.npy`, `rows.npy`, `classes.npy` and `saliency.json`."""
        train = train_set(work, self.codec.train)
        networks, device = work.get(self.codec).load(work.device, self.checkpoint), work.device
        scores = self._scores(work, networks, device)
        rows, classes = targets(train, scores, self.settings.cam_target)
        shape = (len(rows), *work.get(self.codec.latents).shape[1:])
        cams = new_array(work.out / "cams.npy", shape, np.float32)
        for part, maps in self._maps(work, networks, rows, classes, device):
            cams[part] = maps
        cams.flush()
        np.save(work.out / "rows.npy", rows)
        np.save(work.out / "classes.npy", classes)
        # An empty map means that nothing in the image raises the score. Fusion then finds no class-specific site.
        empty = ~cams.any(axis=(1, 2))
        record = {"maps": len(rows), "empty_share": float(empty.mean()), "mean": float(cams.mean())}
        write_strict_json(work.out / "saliency.json", record)

    def open(self, folder: Path) -> SaliencyTable:
        """Return the maps, memory-mapped."""
        cams = np.load(folder / "cams.npy", mmap_mode="r")
        return SaliencyTable(cams, np.load(folder / "rows.npy"), np.load(folder / "classes.npy"))

    def _scores(self, work: Work, networks: CodecNetworks, device: str) -> Float32:
        import torch

        n = len(work.get(self.codec.latents))
        # One array from the start. A list of small arrays, one per batch, would fragment the heap.
        scores = np.empty((n, len(train_set(work, self.codec.train).class_names)), np.float32)
        for start in range(0, n, _BATCH):
            stop = min(start + _BATCH, n)
            latents = codec_latents(work, self.codec, np.arange(start, stop))
            with torch.inference_mode():
                code = networks.encode(torch.from_numpy(latents).to(device))
                scores[start:stop] = networks.classifier(code).cpu().numpy()
            work.progress(stop, 2 * n, "scores")
        return scores

    def _maps(
        self, work: Work, networks: CodecNetworks, rows: Int64, classes: Int64, device: str
    ) -> Iterator[tuple[slice, Float32]]:
        import torch

        from methods.fusion.cams import class_activation_maps

        layers = networks.feature_layers if self.settings.cam_layers == "all" else networks.feature_layers[-1:]
        for start in range(0, len(rows), _BATCH):
            part = slice(start, start + _BATCH)
            with torch.no_grad():
                codes = networks.encode(torch.from_numpy(codec_latents(work, self.codec, rows[part])).to(device))
            wanted = torch.from_numpy(classes[part]).to(device)
            maps = class_activation_maps(self.settings.cam_method, networks.classifier, layers, codes, wanted)
            yield part, maps.cpu().numpy()
            work.progress(len(rows) + min(part.stop, len(rows)), 2 * len(rows), "maps")


def codec_latents(work: Work, codec: Codec, rows: Int64) -> Float32:
    """Return the latents of train rows, `float32 [len(rows), c, h, w]`.

    A row has the same draw in every stage. Otherwise a map or a neighbour would belong to another code than the one
    that is fused.
    """
    return work.get(codec.latents).sample(rows, seeds.derive(codec.seed, "fusion-latents"))


def targets(train: TrainSet, scores: Float32, cam_target: str) -> tuple[Int64, Int64]:
    """Return the maps to make as (rows, classes), `int64 [m]` each, sorted by row.

    Args:
        train: the train split; an image has a class if its observed label is 1.
        scores: `float32 [n, C]`, logits of the classifier of codes.
        cam_target: `each` or `best`, see `SaliencySettings`.
    """
    rows: list[int] = []
    classes: list[int] = []
    for row, (labels, score) in enumerate(zip(train.labels, scores, strict=True)):
        own = [c for c in train.tail_index if labels[c] == 1]
        if cam_target == "best" or not own:
            pool = own or [c for c in train.head_index if labels[c] == 1] or train.head_index
            own = [max(pool, key=lambda c: score[c])]
        rows += [row] * len(own)
        classes += own
    return np.array(rows, dtype=np.int64), np.array(classes, dtype=np.int64)
