"""The training loop of the classifier.

A resumed training must give the same weights as an uninterrupted one. So a checkpoint holds the whole state, and
everything random in a step is derived from the seed and the step or epoch number. There is no running generator whose
state a checkpoint would have to store.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from bench import seeds
from bench.classifier import networks
from bench.classifier.settings import ClassifierSettings
from bench.errors import StageError
from bench.metrics.losses import masked_bce
from bench.pipeline import checkpoints
from bench.tables import Float32, ImageRows, Int64, UInt8

Bool = npt.NDArray[np.bool_]
Part = Literal["all", "real", "synthetic"]


N_CHECKPOINTS = 10  # At most so many, evenly spaced over the training.
CHECKPOINT_SECONDS = 20.0  # Least training time between two: one of DenseNet121 has 110 MB and takes 0.5 s to write.
_RISE, _START, _END = 0.3, 1 / 25, 1 / 25e4  # The one-cycle schedule's defaults in torch's OneCycleLR.


@dataclass(frozen=True)
class TrainingData:
    """The training images, numbered with the real ones first and the synthetic ones after them.

    Images are read from disk when a batch needs them.

    Attributes:
        real, synthetic: `uint8 [n, H, W]`, read lazily.
        real_labels, synthetic_labels: `float32 [n, C]` in [0, 1]; NaN = unknown.
    """

    real: ImageRows | UInt8
    real_labels: Float32
    synthetic: ImageRows | UInt8
    synthetic_labels: Float32

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.real_labels) + len(self.synthetic_labels)

    def batch(self, index: Int64) -> tuple[UInt8, Float32, Bool]:
        """Return images, labels and a mask of the synthetic ones for the rows in `index`; real images come first."""
        real = index[index < len(self.real_labels)]
        synthetic = index[index >= len(self.real_labels)] - len(self.real_labels)
        images = np.concatenate([self.real[real], self.synthetic[synthetic]])
        labels = np.concatenate([self.real_labels[real], self.synthetic_labels[synthetic]])
        return images, labels, np.arange(len(index)) >= len(real)

    def order(self, seed: int, epoch: int, part: Part = "all") -> Int64:
        """Return the order of the rows of `part` in an epoch, `int64 [n]`.

        The real images have the same order among themselves whatever synthetic images are mixed in. Otherwise adding
        images would also reshuffle the real ones, and methods would no longer be compared on paired seeds.
        """
        keys = seeds.rng(seed, "order", epoch).random(len(self.real_labels))
        more = seeds.rng(seed, "order-synthetic", epoch).random(len(self.synthetic_labels))
        if part == "real":
            return np.argsort(keys, kind="stable")
        if part == "synthetic":
            return len(keys) + np.argsort(more, kind="stable")
        return np.argsort(np.concatenate([keys, more]), kind="stable")


def inverse_prevalence(labels: Float32) -> Float32:
    """Return negatives / positives per class, `float32 [C]`, over the known labels; 1 for a class without positives."""
    positives, known = np.nansum(labels, axis=0), (~np.isnan(labels)).sum(axis=0)
    return np.where(positives > 0, (known - positives) / np.maximum(positives, 1), 1).astype(np.float32)


def one_cycle(step: int, n_steps: int) -> float:
    """Return the learning rate of a step as a share of the highest one (Smith & Topin 2018, with cosine phases)."""

    def cosine(start: float, end: float, share: float) -> float:
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    top = max(_RISE * n_steps - 1, 0)
    if step < top:
        return cosine(_START, 1, step / top)
    return cosine(1, _END, (step - top) / max(n_steps - 1 - top, 1))


def shifted(images: UInt8, shift_px: int, rng: np.random.Generator) -> UInt8:
    """Return the images, each shifted by up to `shift_px` pixels along both axes; edge pixels are repeated."""
    if shift_px == 0:
        return images
    side = images.shape[-1]
    padded = np.pad(images, ((0, 0), (shift_px, shift_px), (shift_px, shift_px)), mode="edge")
    corners = rng.integers(0, 2 * shift_px + 1, size=(len(images), 2))
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)])


@dataclass
class Training:
    """The state of a training.

    `evaluate` returns the figures on val and the value to select by, or None if it is undefined.
    """

    settings: ClassifierSettings
    seed: int
    data: TrainingData
    device: str
    evaluate: Callable[[nn.Module], tuple[dict[str, Any], float | None]]
    step: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)
    best: dict[str, Any] = field(default_factory=dict)
    losses: list[float] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        """Build the network and its optimiser."""
        labels, s = self.data.real_labels, self.settings
        self.network = networks.build(s.architecture, labels.shape[1], seeds.derive(self.seed, "init"), s.weights)
        self.network.to(self.device)
        # The fused optimiser is 7 % faster than the unfused one on a CPU.
        self.optimizer = torch.optim.AdamW(
            self.network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay, fused=self.device != "mps"
        )
        self.positive = torch.from_numpy(inverse_prevalence(labels)).to(self.device) if s.positive_weights else None
        self.steps_per_epoch = max(1, len(self.data) // s.batch_size)  # The last, shorter batch is left out.
        self.n_steps = s.steps if s.steps is not None else (s.epochs or 0) * self.steps_per_epoch
        self.n_first = 0
        if s.synthetic_first > 0 and len(self.data.synthetic_labels):
            # Rounding must leave at least one step for each of the two phases.
            self.n_first = max(1, min(round(s.synthetic_first * self.n_steps), self.n_steps - 1))
        self._order: tuple[Part, int, Int64] | None = None

    def run(self, ckpt: Path, progress: Callable[[float, float, str], None]) -> None:
        """Train to the end, starting from the newest checkpoint in `ckpt` if there is one."""
        self._restore(checkpoints.load_newest(ckpt, self.device))
        evaluations = _spread(self.n_steps, self.settings.n_validations)
        saved_after = _spread(self.n_steps, N_CHECKPOINTS) - {self.n_steps}
        saved_at = self.seconds
        while self.step < self.n_steps:
            started = time.monotonic()
            loss = self._advance()
            self.losses.append(loss)
            self.seconds += time.monotonic() - started
            if self.step in evaluations:
                self._validate()
            if self.step in saved_after and self.seconds - saved_at >= CHECKPOINT_SECONDS:
                checkpoints.save(ckpt, self.step, self._state())
                saved_at = self.seconds
            progress(self.step, self.n_steps, f"train, loss {loss:.3f}")

    def _advance(self) -> float:
        """Take one optimiser step and return its loss."""
        images, labels, synthetic = self.data.batch(self._batch_rows())
        images = shifted(images, self.settings.shift_px, seeds.rng(self.seed, "shift", self.step))
        weights = np.where(synthetic, self.settings.synthetic_weight, 1.0).astype(np.float32)
        self.network.train()
        with self._precision():
            logits = self.network(networks.to_input(images, self.settings.image_px, self.device))
        target, factor = (torch.from_numpy(x).to(self.device) for x in (labels, weights))
        loss = masked_bce(logits.float(), target, factor, self.positive)
        value = float(loss.detach())
        self._refuse_nan("loss", value, self.step + 1)
        share = one_cycle(self.step, self.n_steps) if self.settings.schedule == "onecycle" else 1.0
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * share
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.step += 1
        return value

    def _refuse_nan(self, what: str, value: float, step: int) -> None:
        if not math.isfinite(value):
            s = self.settings
            advice = "lower classifier.learning_rate"
            if s.synthetic_weight > 1:
                advice += f" or classifier.synthetic_weight ({s.synthetic_weight:g})"
            if self.step == 0:  # Nothing has been updated yet, so the learning rate cannot be the cause.
                advice = "this is before the first update: check classifier.weights and classifier.synthetic_weight"
            raise StageError(
                f"classifier: the {what} is {value} at step {step} of {self.n_steps} (learning_rate "
                f"{s.learning_rate:g}, batch_size {s.batch_size}); {advice}"
            )

    def _batch_rows(self) -> Int64:
        """Return the rows of this step's batch.

        With `synthetic_first` there are two phases, and each counts its own epochs from 0.
        """
        part: Part = "all"
        n_rows, step, size = len(self.data), self.step, self.settings.batch_size
        if self.n_first and step < self.n_first:
            part, n_rows = "synthetic", len(self.data.synthetic_labels)
        elif self.n_first:
            part, n_rows, step = "real", len(self.data.real_labels), step - self.n_first
        epoch, place = divmod(step, max(1, n_rows // size))
        if self._order is None or self._order[:2] != (part, epoch):
            self._order = part, epoch, self.data.order(self.seed, epoch, part)
        order = self._order[2]
        if part == "synthetic":
            # Fewer synthetic images than a batch holds are repeated: batch statistics need more than one image.
            order = np.resize(order, max(len(order), size))
        return order[place * size : (place + 1) * size]

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if self.settings.precision == "bfloat16_on_gpu" and self.device.startswith("cuda"):
            return torch.autocast("cuda", dtype=torch.bfloat16)
        return contextlib.nullcontext()

    def _validate(self) -> None:
        """Evaluate on val, add a row to the history and keep the weights if they are the best so far.

        Of equal values the earlier one is kept.
        """
        figures, value = self.evaluate(self.network)
        self._refuse_nan("loss on val", figures["val_loss"], self.step)
        row = {"step": self.step, "epoch": self.step / self.steps_per_epoch, "train_loss": float(np.mean(self.losses))}
        self.history.append(row | figures)
        self.losses = []
        known = self.best.get("value")
        better = value is not None and (known is None or value > known)
        if better or not self.best or self.settings.selection == "last":
            weights = {name: tensor.detach().cpu().clone() for name, tensor in self.network.state_dict().items()}
            self.best = {"step": self.step, "value": value, "weights": weights}

    def _state(self) -> dict[str, Any]:
        plain = {name: getattr(self, name) for name in ("step", "history", "best", "losses", "seconds")}
        return plain | {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def _restore(self, state: dict[str, Any] | None) -> None:
        if state is None:
            return
        self.network.load_state_dict(state.pop("network"))
        self.optimizer.load_state_dict(state.pop("optimizer"))
        for name, value in state.items():
            setattr(self, name, value)


def _spread(n_steps: int, count: int) -> set[int]:
    """Return up to `count` step numbers, evenly spaced over the training; the last step is always among them."""
    return {max(1, round(n_steps * (i + 1) / count)) for i in range(count)}
