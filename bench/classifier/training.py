"""The training loop of the classifier.

A resumed training must give the same weights as an uninterrupted one. So a checkpoint holds the whole state, and
everything random in a step is derived from the seed and the step or epoch number. There is no running generator whose
state a checkpoint would have to store.
"""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bench import seeds
from bench.classifier import networks
from bench.classifier.augmentation import augmented, balanced_share, mixed, mixed_with, torch_seed
from bench.classifier.losses import loss_function
from bench.classifier.recipe import Sampler
from bench.classifier.sampling import drawn, occurrence
from bench.classifier.settings import ClassifierSettings
from bench.data.class_balance import rarest_class
from bench.errors import ConfigError, StageError
from bench.files import write_strict_json
from bench.pipeline import checkpoints
from bench.tables import Float32, ImageRows, Int64, UInt8

Bool = npt.NDArray[np.bool_]
Part = Literal["all", "real", "synthetic"]


N_CHECKPOINTS = 10  # At most so many, evenly spaced over the training.
_MIX_ALPHA = {"mixup": 0.4, "cutmix": 1.0, "balanced_mixup": 0.1}
_RISE, _START, _END = 0.3, 1 / 25, 1 / 25e4  # The one-cycle schedule's defaults in torch's OneCycleLR.


@dataclass(frozen=True)
class TrainingData:
    """The training images, numbered with the real ones first and the synthetic ones after them.

    Images are read from disk when a batch needs them.

    Attributes:
        real, synthetic: images, read lazily.
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
    side = images.shape[1]
    padded = np.pad(images, [(0, 0), (shift_px, shift_px), (shift_px, shift_px), (0, 0)][: images.ndim], mode="edge")
    corners = rng.integers(0, 2 * shift_px + 1, size=(len(images), 2))
    return np.stack([image[y : y + side, x : x + side] for image, (y, x) in zip(padded, corners, strict=True)])


class _Phase(NamedTuple):
    """Which images a step takes: of which part, how they are drawn, and the step's number within the phase."""

    part: Part
    sampler: Sampler
    step: int
    name: str = ""


class _Batch(NamedTuple):
    """The rows of a batch, `int64 [b]`, and a seed for the augmentation of each."""

    rows: Int64
    seeds: list[int]


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
        self.optimizer = self._optimizer(self.network)
        positive = torch.from_numpy(inverse_prevalence(labels)).to(self.device) if s.positive_weights else None
        self.loss = loss_function(s.loss, labels, positive, self.device)
        counts = np.nansum(labels, axis=0)
        self.groups = rarest_class(np.concatenate([labels, self.data.synthetic_labels]), counts)
        self.steps_per_epoch = max(1, len(self.data) // s.batch_size)  # The last, shorter batch is left out.
        self.n_steps = s.steps if s.steps is not None else (s.epochs or 0) * self.steps_per_epoch
        if s.retrain_head and self.n_steps < 2:
            raise ConfigError("classifier.retrain_head: a single step leaves none before the new last layer; take more")
        # Rounding must leave at least one step for each phase.
        n_retrain = min(max(1, round(s.retrain_head * self.n_steps)), self.n_steps - 1) if s.retrain_head else 0
        self.retrain_from = self.n_steps - n_retrain
        self.n_first = 0
        if s.synthetic_first > 0 and len(self.data.synthetic_labels):
            self.n_first = max(1, min(round(s.synthetic_first * self.n_steps), self.retrain_from - 1))
        self._orders: dict[str, tuple[int, Int64]] = {}

    def _optimizer(self, trained: nn.Module) -> torch.optim.Optimizer:
        s = self.settings
        # The fused optimiser is 7 % faster than the unfused one on a CPU.
        return torch.optim.AdamW(
            trained.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay, fused=self.device != "mps"
        )

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
                # For who watches. A resumed training goes on from its checkpoint, and writes later rows again.
                write_strict_json(ckpt / "history.json", self.history)
            if self.step in saved_after and self.seconds - saved_at >= checkpoints.LEAST_SECONDS:
                checkpoints.save(ckpt, self.step, self._state())
                saved_at = self.seconds
            progress(self.step, self.n_steps, f"train, loss {loss:.3f}")

    def _advance(self) -> float:
        """Take one optimiser step and return its loss."""
        if self.step == self.retrain_from:
            self._renew_head()
        pixels, target, factor = self._inputs()
        self.network.train(self.step < self.retrain_from)  # the statistics of a frozen trunk are frozen, too
        rounding = tf32() if self.settings.precision == "tf32_on_gpu" else contextlib.nullcontext()
        with rounding:
            with torch_seed(seeds.derive(self.seed, "dropout", self.step)), self._precision():
                logits = self.network(pixels)
            loss = self.loss(logits.float(), target, factor, self.step / self.n_steps)
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * self._rate()
            self.optimizer.zero_grad()
            loss.backward()
        self.optimizer.step()
        value = float(loss.detach())  # waits for a GPU, so it comes after all that the GPU is given to do
        self._refuse_nan("loss", value, self.step + 1)
        self.step += 1
        return value

    def _rate(self) -> float:
        """Return the learning rate of this step as a share of the highest one. The new last layer has its own cycle."""
        if self.settings.schedule == "constant":
            return 1.0
        if self.step < self.retrain_from:
            return one_cycle(self.step, self.retrain_from)
        return one_cycle(self.step - self.retrain_from, self.n_steps - self.retrain_from)

    def _renew_head(self) -> None:
        """Begin to train a new last layer on the frozen trunk (classifier re-training, cRT, of Kang et al. 2020).

        Weights of before are not selected any more: their last layer was trained otherwise.
        """
        s = self.settings
        seed = seeds.derive(self.seed, "new-head")
        fresh = networks.build(s.architecture, self.data.real_labels.shape[1], seed)
        head = networks.head_of(self.network, s.architecture)
        head.load_state_dict(networks.head_of(fresh, s.architecture).state_dict())
        self.best = {}
        self._freeze_trunk()

    def _freeze_trunk(self) -> None:
        head = networks.head_of(self.network, self.settings.architecture)
        self.network.requires_grad_(False)
        head.requires_grad_(True)
        self.optimizer = self._optimizer(head)

    def _inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return this step's pixels `[b, 3, h, w]`, labels `[b, C]` and weights `[b]`, augmented and mixed."""
        s, phase = self.settings, self._phase()
        batch = self._load(self._batch(phase), "shift")
        if s.mix == "none":
            return batch
        alpha = s.mix_alpha or _MIX_ALPHA[s.mix]
        if s.mix == "balanced_mixup":
            balanced = self._batch(phase._replace(sampler="class_balanced", name=f"{phase.name}-balanced"))
            share = balanced_share(alpha, self.seed, self.step)
            pixels, labels, weights = mixed_with(share, batch, self._load(balanced, "shift-balanced"))
        else:
            pixels, labels, weights = mixed(s.mix, alpha, *batch, seeds.derive(self.seed, "mix", self.step))
        return pixels, labels, weights

    def _load(self, batch: _Batch, shift: str) -> tuple[Tensor, Tensor, Tensor]:
        s = self.settings
        images, labels, synthetic = self.data.batch(batch.rows)
        images = shifted(images, s.shift_px, seeds.rng(self.seed, shift, self.step))
        # The batch has the real images first.
        first = np.argsort(batch.rows >= len(self.data.real_labels), kind="stable")
        if s.augmentation != "none":
            images = augmented(images, s.augmentation, [batch.seeds[i] for i in first])
        weights = np.where(synthetic, s.synthetic_weight, 1.0).astype(np.float32)
        if s.mix != "none":  # each is mixed with its neighbour, so real and synthetic ones must not be apart
            back = np.argsort(first)
            images, labels, weights = images[back], labels[back], weights[back]
        target, factor = (torch.from_numpy(x).to(self.device) for x in (labels, weights))
        return networks.to_input(images, s.image_px, self.device), target, factor

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

    def _phase(self) -> _Phase:
        """Return the phase of this step. With `synthetic_first` and `retrain_head`, each phase counts from step 0."""
        sampler = self.settings.sampler
        part: Part = "real" if self.n_first else "all"
        if self.step >= self.retrain_from:
            return _Phase(part, "class_balanced", self.step - self.retrain_from, "new-head")
        if self.step < self.n_first:
            return _Phase("synthetic", sampler, self.step)
        return _Phase(part, sampler, self.step - self.n_first)

    def _batch(self, phase: _Phase) -> _Batch:
        """Return the rows of this step's batch in a phase."""
        size, n_real = self.settings.batch_size, len(self.data.real_labels)
        n_rows = {"all": len(self.data), "real": n_real, "synthetic": len(self.data) - n_real}[phase.part]
        epoch, place = divmod(phase.step, max(1, n_rows // size))
        order = self._order(phase, epoch)
        if phase.part == "synthetic":
            # Fewer synthetic images than a batch holds are repeated: batch statistics need more than one image.
            order = np.resize(order, max(len(order), size))
        start, stop = place * size, min((place + 1) * size, len(order))
        rows = order[start:stop]
        if self.settings.augmentation == "none":
            return _Batch(rows, [])
        # The seed of an image depends on the epoch and on how often the epoch had it, and not on what is around it.
        again = occurrence(order, start, stop)
        axes = ("augment", phase.name, epoch)
        return _Batch(rows, [seeds.derive(self.seed, *axes, int(r), int(k)) for r, k in zip(rows, again, strict=True)])

    def _order(self, phase: _Phase, epoch: int) -> Int64:
        """Return the order of the rows of a phase in an epoch. It is kept until the next epoch."""
        name = f"{phase.part} {phase.name}"
        if name not in self._orders or self._orders[name][0] != epoch:
            order = self.data.order(self.seed, epoch, phase.part)
            if phase.sampler != "plain":
                rows = np.sort(order)
                order = rows[drawn(self.groups[rows], phase.sampler, self.seed, name, epoch)]
            self._orders[name] = epoch, order
        return self._orders[name][1]

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
        if state["step"] > self.retrain_from:
            self._freeze_trunk()
        self.optimizer.load_state_dict(state.pop("optimizer"))
        for name, value in state.items():
            setattr(self, name, value)


@contextlib.contextmanager
def tf32() -> Iterator[None]:
    """Let CUDA round the factors of float32 products and convolutions to TF32 inside a block; a CPU does not change."""
    switches: list[Any] = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
    before = [switch.fp32_precision for switch in switches]
    for switch in switches:
        switch.fp32_precision = "tf32"
    try:
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


def _spread(n_steps: int, count: int) -> set[int]:
    """Return up to `count` step numbers, evenly spaced over the training; the last step is always among them."""
    return {max(1, round(n_steps * (i + 1) / count)) for i in range(count)}
