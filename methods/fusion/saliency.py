"""Saliency: where the classifier of codes looks, as one map per train image and target class (paper, section 3.2).

An image with tail classes may become an anchor. It has a map for each of them, or for the best-scored one only. An
image without tail classes may become a partner. It has one map, for its best-scored head class.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
from pydantic import Field

from bench.contract import (
    Float32,
    Int64,
    Latents,
    PromptSaliencySettings,
    Resources,
    SaliencyTable,
    Settings,
    Stage,
    Train,
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


CamMethod = Literal["gradcam", "hirescam", "layercam", "eigencam", "scorecam", "gradcam++", "xgradcam"]
_MOST_LATENTS, _MOST_SITES = 64, 65_536  # of a batch; at 64 x 64 these are 16 latents


class SaliencySettings(Settings):
    """Where a finding is: a class activation map of the codec's classifier, or the difference between two prompts.

    LayerCAM over all layers is the default, because its maxima fall on the phantom's true masks more often than those
    of the other methods. A site of the last layer sees the whole latent, and the maxima of its maps fall on the true
    masks no more often than by chance.
    """

    source: Literal["classifier", "prompt"] = Field(
        "classifier",
        description="classifier: class activation maps of the classifier of codes (the paper); prompt: where the "
        "diffusion model's prediction changes with the finding in the prompt; the settings cam_* then have no effect",
    )
    cam_method: CamMethod = Field("layercam", description="class activation map; eigencam ignores the class")
    cam_target: Literal["each", "best"] = Field(
        "each", description="an anchor's maps: for each tail class that it has, or for its best-scored one only"
    )
    cam_layers: Literal["last", "all"] = Field(
        "all", description="last: the classifier's last feature layer; all: the mean over its feature layers"
    )
    prompt: PromptSaliencySettings = PromptSaliencySettings()


class Saliency(Stage):
    """The class activation maps of the train images, from the classifier of codes.

    `checkpoint` chooses the networks of the first or the last generation, here and in all later stages. It is not a
    setting of the codec, so that both choices share one training.
    """

    resources: ClassVar[Resources] = Resources(gpu=True)

    codec: Codec
    settings: SaliencySettings = SaliencySettings()
    checkpoint: Checkpoint = "last"

    @property
    def latents(self) -> Latents:
        """The latents of the train images."""
        return self.codec.latents

    @property
    def train(self) -> Train:
        """The train split."""
        return self.codec.train

    @property
    def seed(self) -> int:
        """The seed of the method in the cell."""
        return self.codec.seed

    def compute(self, work: Work) -> None:
        """Write `cams.npy`, `rows.npy`, `classes.npy` and `saliency.json`."""
        train = train_set(work, self.train)
        shape = (n_maps(train, self.settings.cam_target), *work.get(self.latents).shape[1:])
        cams = new_array(work.out / "cams.npy", shape, np.float32)
        rows, classes = np.empty(len(cams), np.int64), np.empty(len(cams), np.int64)
        for part, found in self._maps(work, train):
            rows[part], classes[part], cams[part] = found
        cams.flush()
        np.save(work.out / "rows.npy", rows)
        np.save(work.out / "classes.npy", classes)
        # An empty map means that nothing in the image raises the score. Fusion then finds no class-specific site.
        empty = ~cams.any(axis=(1, 2))
        record = {"maps": len(rows), "empty_share": float(empty.mean()), "mean": float(cams.mean())}
        write_strict_json(work.out / "saliency.json", record)

    def open(self, folder: Path) -> SaliencyTable:
        """Return the maps, memory-mapped."""
        return SaliencyTable.open(folder)

    def _maps(self, work: Work, train: TrainSet) -> Iterator[tuple[slice, tuple[Int64, Int64, Float32]]]:
        """Yield rows, classes and maps, batch by batch, with their place among all maps.

        An image is encoded once, although its scores may decide which map it gets, and it may get several.
        """
        import torch

        from methods.fusion.cams import class_activation_maps

        networks, n, place = work.get(self.codec).load(work.device, self.checkpoint), len(train), 0
        layers = networks.feature_layers if self.settings.cam_layers == "all" else networks.feature_layers[-1:]
        size = batch_size(work.get(self.latents).shape)
        for start in range(0, n, size):
            batch = np.arange(start, min(start + size, n))
            latents = torch.from_numpy(drawn_latents(work, self.latents, batch, self.seed)).to(work.device)
            with torch.no_grad():
                codes = networks.encode(latents)
                scores = networks.classifier(codes).cpu().numpy()
            rows, classes = targets(train, scores, self.settings.cam_target, start)
            for begin in range(0, len(rows), size):
                part = slice(begin, begin + size)
                chosen, wanted = (torch.from_numpy(x[part]).to(work.device) for x in (rows - start, classes))
                maps = class_activation_maps(
                    self.settings.cam_method, networks.classifier, layers, codes[chosen], wanted
                )
                found = rows[part], classes[part], maps.cpu().numpy()
                yield slice(place, place := place + len(maps)), found
            work.progress(int(batch[-1]) + 1, n, "maps")


def batch_size(latent_shape: tuple[int, int, int]) -> int:
    """Return how many latents `[c, h, w]` pass through the codec's networks at once.

    It depends on nothing but their shape. Otherwise codes and maps would depend on the machine. Larger latents come in
    smaller batches, because a batch of 64 at 64 x 64 takes three times the memory of 16, and is no faster on a CPU.
    """
    return max(1, min(_MOST_LATENTS, _MOST_SITES // (latent_shape[1] * latent_shape[2])))


def drawn_latents(work: Work, latents: Latents, rows: Int64, seed: int) -> Float32:
    """Return latents drawn for train rows, `float32 [len(rows), c, h, w]`.

    A row has the same draw in every stage. Otherwise a map or a neighbour would belong to another code than the one
    that is fused.
    """
    return work.get(latents).sample(rows, seeds.derive(seed, "fusion-latents"))


def n_maps(train: TrainSet, cam_target: str) -> int:
    """Return how many maps `targets` asks for, which does not depend on scores."""
    each = (train.labels[:, train.tail_index] == 1).sum(axis=1) if cam_target == "each" else np.ones(len(train))
    return int(np.maximum(each, 1).sum())


def targets(train: TrainSet, scores: Float32, cam_target: str, first: int = 0) -> tuple[Int64, Int64]:
    """Return the maps to make as (rows, classes), `int64 [m]` each, sorted by row.

    Args:
        train: the train split; an image has a class if its observed label is 1.
        scores: `float32 [n, C]`, logits of the classifier of codes for the rows from `first` on.
        cam_target: `each` or `best`, see `SaliencySettings`.
        first: the row of the first score.
    """
    rows: list[int] = []
    classes: list[int] = []
    for row, score in enumerate(scores, start=first):
        labels = train.labels[row]
        own = [c for c in train.tail_index if labels[c] == 1]
        if cam_target == "best" or not own:
            pool = own or [c for c in train.head_index if labels[c] == 1] or train.head_index
            own = [max(pool, key=lambda c: score[c])]
        rows += [row] * len(own)
        classes += own
    return np.array(rows, dtype=np.int64), np.array(classes, dtype=np.int64)
