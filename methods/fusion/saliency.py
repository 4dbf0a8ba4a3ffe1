"""Where the classifier looks: one map per train image and target class (paper, section 3.2).

An image with tail classes is a possible anchor and has a map for each of them (or for the best-scored one); an image
with none is a possible partner and has one map, of its best-scored head class.
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
_BATCH = 64  # fixed, so that maps do not depend on the machine


class SaliencySettings(Settings):
    """Which class activation map, of which class, on which layers.

    LayerCAM over all layers is the default because its maxima fall on the phantom's true masks oftener than those of
    the other maps do; the last layer's sites see the whole latent, and its maxima fall there no oftener than chance.
    """

    cam_method: CamMethod = Field("layercam", description="eigencam ignores the class")
    cam_target: Literal["each", "best"] = Field(
        "each", description="an anchor's maps: of each tail class that it has, or of its best-scored one alone"
    )
    cam_layers: Literal["last", "all"] = Field("all", description="the classifier's last feature layer, or their mean")


@dataclass(frozen=True)
class SaliencyTable:
    """Maps of train images, in the order of their rows, memory-mapped.

    Attributes:
        cams: `float32 [m, h, w]` in [0, 1], at the latent's resolution.
        rows: `int64 [m]`, the train row of each.
        classes: `int64 [m]`, the column of the class that each is of.
    """

    cams: Float32
    rows: Int64
    classes: Int64

    def entries(self, row: int) -> Int64:
        """Return the positions of a row's maps."""
        return np.arange(*np.searchsorted(self.rows, [row, row + 1]))

    def entry(self, row: int, target_class: int) -> int:
        """Return the position of a row's map of `target_class`; of its only map where it has none of that class."""
        found = self.entries(row)
        return int(found[np.argmax(self.classes[found] == target_class)])


class Saliency(Stage):
    """Class activation maps of the train images on the code's classifier.

    `checkpoint` says which generation's networks are used, here and in every stage above; the codec is the same.
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
        empty = ~cams.any(axis=(1, 2))  # a score that nothing in the image raises: fusion takes no site for sure
        record = {"maps": len(rows), "empty_share": float(empty.mean()), "mean": float(cams.mean())}
        write_strict_json(work.out / "saliency.json", record)

    def open(self, folder: Path) -> SaliencyTable:
        """Return the maps, memory-mapped."""
        cams = np.load(folder / "cams.npy", mmap_mode="r")
        return SaliencyTable(cams, np.load(folder / "rows.npy"), np.load(folder / "classes.npy"))

    def _scores(self, work: Work, networks: CodecNetworks, device: str) -> Float32:
        import torch

        n = len(work.get(self.codec.latents))
        # one array from the start: a small one kept of every batch would hold the heap apart
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
    """Return the latents of train rows, `float32 [len(rows), c, h, w]`: one draw per row, the same in every stage."""
    return work.get(codec.latents).sample(rows, seeds.derive(codec.seed, "fusion-latents"))


def targets(train: TrainSet, scores: Float32, cam_target: str) -> tuple[Int64, Int64]:
    """Return (rows, classes), `int64 [m]` each, in row order: which maps there are to make.

    Args:
        train: the train split; "has a class" means that its observed label is 1.
        scores: `float32 [n, C]` logits of the code's classifier.
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
