"""The final classifier of a cell: trained on real and synthetic images; its weights are selected on val."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import SerializeAsAny

from bench.augment.augmented import Augmented
from bench.classifier.settings import ClassifierSettings
from bench.data.split import Split, Train, part_rows, train_set
from bench.files import read_json_or_raise, write_strict_json
from bench.metrics.average_precision import average_precision, means
from bench.pipeline.stage import Resources, Stage, Work
from bench.tables import AugmentedSet, Float32, ImageRows, TrainSet, UInt8

if TYPE_CHECKING:
    from torch import nn

    from bench.classifier.training import Training


class Classifier(Stage):
    """A trained network with its record and history.

    No seed depends on the method's name. Two methods of a cell therefore start from the same weights and see the real
    images in the same order, and their difference is a paired comparison.

    `labelled` is a stage that returns the labels of the synthetic images. It is None for the method's own labels.
    """

    resources: ClassVar[Resources] = Resources(gpu=True, cpus=2, memory_gb=8, minutes=60)

    split: Split
    train: Train
    augmented: Augmented
    labelled: SerializeAsAny[Stage] | None = None
    settings: ClassifierSettings
    seed: int

    def size(self) -> int | None:
        """Return how many images pass through the network in training (an image counts once per epoch), or None."""
        if self.settings.steps is not None:
            return self.settings.steps * self.settings.batch_size
        parts = (self.train.size(), self.augmented.size())
        return None if None in parts else (self.settings.epochs or 0) * sum(n or 0 for n in parts)

    def compute(self, work: Work) -> None:
        """Train, resuming from `work.ckpt`; write `model.safetensors`, `history.json`, `record.json`.

        While it trains, the history so far is in `history.json` in `work.ckpt`.

        Raises:
            ConfigError: if the images are too small for the network, the weights file does not fit it, or the loss is
                not defined for the labels of the synthetic images.
            StageError: if the loss is not finite. The message names the step.
        """
        from safetensors.torch import save_file

        from bench.classifier.losses import refuse_soft_labels
        from bench.classifier.training import Training, TrainingData

        train, synthetic = train_set(work, self.train), work.get(self.augmented)
        self.settings.check_side(train.images.image_px)
        images, labels, _ = part_rows(work, self.split, "val")
        device = work.device
        validation = _Validation(images, labels, train, self.settings, device)
        labels_of_synthetic = work.get(self.labelled) if self.labelled else synthetic.labels
        refuse_soft_labels(self.settings.loss, labels_of_synthetic, "synthetic")
        data = TrainingData(train.images, train.labels, synthetic.images, labels_of_synthetic)
        training = Training(self.settings, self.seed, data, device, validation)
        training.run(work.ckpt, work.progress)

        weights = {name: tensor.contiguous() for name, tensor in training.best["weights"].items()}
        save_file(weights, work.out / "model.safetensors")
        record = self._record(training, train, synthetic, images.image_px)
        write_strict_json(work.out / "record.json", record)
        write_strict_json(work.out / "history.json", training.history)

    def _record(self, training: Training, train: TrainSet, synthetic: AugmentedSet, native_px: int) -> dict[str, Any]:
        best = training.best["step"]
        n_seen = training.n_steps * min(self.settings.batch_size, len(training.data))
        chosen = next(row for row in training.history if row["step"] == best)
        return {
            "architecture": self.settings.architecture,
            "class_names": list(train.class_names),
            "image_px": self.settings.image_px or native_px,
            "selection": self.settings.selection,
            "best_step": best,
            "steps": training.n_steps,
            "epochs": training.n_steps / training.steps_per_epoch,
            "n_real": len(train),
            "n_synthetic": len(synthetic),
            "images_per_second": n_seen / training.seconds,
            **{name: chosen[name] for name in ("val_loss", "val_map_head", "val_map_tail", "val_map_all", "val_ap")},
        }

    def open(self, folder: Path) -> TrainedClassifier:
        """Return the trained classifier; its weights are not read until they are needed."""
        return TrainedClassifier(
            folder,
            record=read_json_or_raise(folder / "record.json"),
            history=read_json_or_raise(folder / "history.json"),
        )


@dataclass(frozen=True)
class _Validation:
    """Evaluates a network on val."""

    images: ImageRows
    labels: Float32
    train: TrainSet
    settings: ClassifierSettings
    device: str

    def __call__(self, network: nn.Module) -> tuple[dict[str, Any], float | None]:
        """Return the figures (`val_loss`, `val_ap`, `val_map_*`) and the value that selection maximises, or None."""
        import torch

        from bench.classifier.networks import in_batches
        from bench.metrics.losses import masked_bce

        logits = in_batches(network, self.images, self.settings.image_px, self.device)
        ap = dict(zip(self.train.class_names, average_precision(logits, self.labels), strict=True))
        figures: dict[str, Any] = {
            "val_loss": float(masked_bce(torch.from_numpy(logits), torch.from_numpy(self.labels))),
            "val_ap": ap,
            **means("val_map", ap, self.train.head, self.train.tail),
        }
        return figures, figures.get(self.settings.selection.removeprefix("best_"))


@dataclass(frozen=True)
class TrainedClassifier:
    """A finished classifier.

    Attributes:
        folder: the folder with its files.
        record: selection rule, best step, counts, and `val_ap` and `val_map_*` of the selected weights.
        history: one dict per evaluation on val: step, epoch, train_loss, val_loss, val_ap, val_map_head/tail/all.
    """

    folder: Path
    record: dict[str, Any]
    history: list[dict[str, Any]]

    def load(self, device: str = "cpu") -> nn.Module:
        """Return the selected network in evaluation mode; make its input with `bench.classifier.networks.to_input`."""
        from safetensors.torch import load_file

        from bench.classifier import networks

        network = networks.build(self.record["architecture"], len(self.record["class_names"]), seed=0)
        network.load_state_dict(load_file(self.folder / "model.safetensors"))
        return network.to(device).eval()

    def logits(self, images: ImageRows | UInt8, device: str = "cpu") -> Float32:
        """Return logits `float32 [n, C]` of images. Rank images by these, not by probabilities."""
        from bench.classifier import networks

        return networks.in_batches(self.load(device), images, self.record["image_px"], device)

    def predict(self, images: ImageRows | UInt8, device: str = "cpu") -> Float32:
        """Return probabilities `float32 [n, C]`.

        Do not rank by them: float32 rounds confident ones to the same value, and the ties change the average
        precision. Use `logits`.
        """
        return probabilities(self.logits(images, device))

    def features(self, images: ImageRows | UInt8, device: str = "cpu") -> Float32:
        """Return the features before the last layer, `float32 [n, d]` (d = 1024 for DenseNet121)."""
        from bench.classifier.networks import in_batches, without_head

        network = without_head(self.load(device), self.record["architecture"])
        return in_batches(network, images, self.record["image_px"], device)


def probabilities(logits: Float32) -> Float32:
    """Return the sigmoid of `logits`, computed in float64 and rounded to float32."""
    return (1 / (1 + np.exp(-logits.astype(np.float64)))).astype(np.float32)
