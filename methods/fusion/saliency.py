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

    from methods.fusion.networks import CodecNetworks

CamMethod = Literal["gradcam", "hirescam", "layercam", "eigencam", "scorecam", "gradcam++", "xgradcam"]
_BATCH = 64  # Fixed, so that maps do not depend on the machine.


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
        networks, device = work.get(self.codec).load(work.device, self.checkpoint), work.device
        scores = self._scores(work, networks, device)
        rows, classes = targets(train, scores, self.settings.cam_target)
        shape = (len(rows), *work.get(self.latents).shape[1:])
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
        return SaliencyTable.open(folder)

    def _scores(self, work: Work, networks: CodecNetworks, device: str) -> Float32:
        import torch

        n = len(work.get(self.latents))
        # One array from the start. A list of small arrays, one per batch, would fragment the heap.
        scores = np.empty((n, len(train_set(work, self.train).class_names)), np.float32)
        for start in range(0, n, _BATCH):
            stop = min(start + _BATCH, n)
            latents = drawn_latents(work, self.latents, np.arange(start, stop), self.seed)
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
                codes = networks.encode(
                    torch.from_numpy(drawn_latents(work, self.latents, rows[part], self.seed)).to(device)
                )
            wanted = torch.from_numpy(classes[part]).to(device)
            maps = class_activation_maps(self.settings.cam_method, networks.classifier, layers, codes, wanted)
            yield part, maps.cpu().numpy()
            work.progress(len(rows) + min(part.stop, len(rows)), 2 * len(rows), "maps")


def drawn_latents(work: Work, latents: Latents, rows: Int64, seed: int) -> Float32:
    """Return latents drawn for train rows, `float32 [len(rows), c, h, w]`.

    A row has the same draw in every stage. Otherwise a map or a neighbour would belong to another code than the one
    that is fused.
    """
    return work.get(latents).sample(rows, seeds.derive(seed, "fusion-latents"))


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
