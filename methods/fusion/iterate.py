"""Iterated learning of the code: generations of interaction and imitation (Ren et al. 2023, algorithm 1).

In *interaction* encoder, decoder and classifier learn together to rebuild latents and to tell labels. In *imitation*
the encoder is frozen as the teacher and a re-initialised student learns the words that the teacher utters: one word
per simplex and site, drawn from the teacher's probabilities. What survives is what a learner picks up quickly, which
is the pressure towards a compositional code. The last generation ends after its interaction.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench import checkpoint, seeds
from bench.types import Float32
from methods.fusion.networks import CodecNetworks, SimplicialEmbedding, UNet

if TYPE_CHECKING:
    from bench.latents import LatentTable
    from methods.fusion.codec import CodecSettings

Progress = Callable[[float, float, str], None]


class PhaseEpoch(NamedTuple):
    """One epoch of one phase of one generation; all counted from 0."""

    generation: int
    phase: Literal["interaction", "imitation"]
    epoch: int


def schedule(settings: CodecSettings) -> list[PhaseEpoch]:
    """Return every epoch of the training, in order; the last generation has no imitation."""
    epochs: list[PhaseEpoch] = []
    for g in range(settings.generations):
        epochs += [PhaseEpoch(g, "interaction", e) for e in range(settings.interaction_epochs)]
        if g < settings.generations - 1:
            epochs += [PhaseEpoch(g, "imitation", e) for e in range(settings.imitation_epochs)]
    return epochs


class IteratedLearning:
    """The training of a codec: networks, optimisers and records, resumable after every epoch."""

    def __init__(
        self, settings: CodecSettings, table: LatentTable, labels: Float32, seed: int, device: str = "cpu"
    ) -> None:
        """Initialise everything from `seed`; `labels` are `float32 [n, C]` with NaN for unknown."""
        self.settings, self.table, self.seed, self.device = settings, table, seed, device
        self.labels = torch.from_numpy(np.array(labels, dtype=np.float32)).to(device)
        self.positive_weights = positive_weights(self.labels) if settings.positive_weights == "balanced" else None
        with seeded(seeds.derive(seed, "networks")):
            self.networks = CodecNetworks(settings, table.shape, self.labels.shape[1])
        start_at_prior(self.networks.classifier, self.labels, self.positive_weights)
        self.networks.to(device).train()
        self.teacher: UNet | None = None
        self.encoder_optimizer = self._optimizer(self.networks.encoder)
        self.task_optimizer = self._optimizer(self.networks.decoder, self.networks.classifier)
        self.decay = torch.optim.lr_scheduler.StepLR(
            self.task_optimizer, settings.decay_every_epochs, settings.decay_factor
        )
        self.epochs = schedule(settings)
        # a last batch of one is left out: where nothing is left of the map either, DenseNet cannot normalise it
        self.steps_per_epoch = max(1, math.ceil((len(table) - 1) / settings.batch_size))
        self.done = 0
        self.records: list[dict[str, float]] = [{} for _ in range(settings.generations)]

    def run(self, folder: Path, progress: Progress = lambda done, total, note: None) -> dict[str, Any]:
        """Train what is left after the newest checkpoint in `folder`; return the record of all generations."""
        state = checkpoint.load_newest(folder, self.device)
        if state is not None:
            self.load_state(state)
        while self.done < len(self.epochs):
            now = self.epochs[self.done]
            self._begin(now)
            run_epoch = self._imitation_epoch if now.phase == "imitation" else self._interaction_epoch
            self._note(now, run_epoch(now, progress))
            self.done += 1
            checkpoint.save(folder, self.done, self.state())
        self.networks.eval()
        n_epochs = len(self.epochs)
        return {"generations": self.records, "epochs": n_epochs, "steps": n_epochs * self.steps_per_epoch}

    def state(self) -> dict[str, Any]:
        """Return all that a resume needs."""
        return {
            "done": self.done,
            "records": self.records,
            "networks": self.networks.state_dict(),
            "teacher": self.teacher.state_dict() if self.teacher is not None else None,
            "encoder_optimizer": self.encoder_optimizer.state_dict(),
            "task_optimizer": self.task_optimizer.state_dict(),
            "decay": self.decay.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what `state()` returned."""
        self.done, self.records = state["done"], state["records"]
        self.networks.load_state_dict(state["networks"])
        if state["teacher"] is not None:
            self.teacher = frozen_copy(self.networks.encoder)
            self.teacher.load_state_dict(state["teacher"])
        self.encoder_optimizer.load_state_dict(state["encoder_optimizer"])
        self.task_optimizer.load_state_dict(state["task_optimizer"])
        self.decay.load_state_dict(state["decay"])

    def _begin(self, now: PhaseEpoch) -> None:
        """At the start of an imitation freeze the encoder as teacher and put a new student in its place."""
        if now.epoch == 0 and now.phase == "imitation":
            self.teacher = frozen_copy(self.networks.encoder)
            with seeded(seeds.derive(self.seed, "student", now.generation + 1)):
                self.networks.encoder = self.networks.fresh_encoder().to(self.device)
        elif now.epoch == 0:
            self.teacher = None
        if now.epoch == 0:  # a phase is a new loss: the moments of the old one would mislead its first steps
            self.encoder_optimizer = self._optimizer(self.networks.encoder)

    def _interaction_epoch(self, now: PhaseEpoch, progress: Progress) -> dict[str, float]:
        networks, meter = self.networks, Meter()
        for rows, latents in self._batches(now, progress):
            codes = networks.encode(latents)
            reconstruction = functional.l1_loss(networks.decoder(codes), latents)
            classification = masked_bce(networks.classifier(codes), self.labels[rows], self.positive_weights)
            loss = reconstruction + self.settings.classification_weight * classification
            self._step(loss, self.encoder_optimizer, self.task_optimizer)
            meter.add(len(rows), reconstruction_l1=reconstruction, classification_bce=classification)
            meter.add(len(rows), **sparsity(networks.embedding, codes))
            meter.add(len(rows), latents_beyond_1=(latents.abs() > 1).float().mean())
        self.decay.step()
        return meter.means()

    def _imitation_epoch(self, now: PhaseEpoch, progress: Progress) -> dict[str, float]:
        embedding, student, meter = self.networks.embedding, self.networks.encoder, Meter()
        generator = torch.Generator(self.device).manual_seed(seeds.derive(self.seed, "words", *now))
        for rows, latents in self._batches(now, progress):
            with torch.no_grad():
                uttered = embedding.split(embedding(self.teacher(latents)))  # type: ignore[misc]
                if self.settings.pseudo_labels == "sampled":
                    uttered = sampled_words(uttered, generator)
            loss = imitation_loss(embedding, student(latents), uttered)
            self._step(loss, self.encoder_optimizer)
            meter.add(len(rows), imitation_cross_entropy=loss)
        return meter.means()

    def _batches(self, now: PhaseEpoch, progress: Progress) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (rows, latents) in an order, and with latents drawn from their moments, that only the seed decides."""
        order = seeds.rng(self.seed, "order", *now).permutation(len(self.table))
        noise_seed = seeds.derive(self.seed, "latents", *now)
        total = len(self.epochs) * self.steps_per_epoch
        note = f"generation {now.generation + 1}/{self.settings.generations}, {now.phase}"
        for step in range(self.steps_per_epoch):
            rows = order[step * self.settings.batch_size : (step + 1) * self.settings.batch_size]
            latents = torch.from_numpy(self.table.sample(rows, noise_seed)).to(self.device)
            yield torch.from_numpy(rows).to(self.device), latents
            progress(self.done * self.steps_per_epoch + step + 1, total, note)

    def _note(self, now: PhaseEpoch, means: dict[str, float]) -> None:
        """Keep the phase's last epoch, and the first cross-entropy beside it, in the generation's record."""
        record = self.records[now.generation]
        if now.phase == "imitation" and now.epoch == 0:
            record["imitation_cross_entropy_first"] = means["imitation_cross_entropy"]
        record.update(means)

    def _optimizer(self, *networks: nn.Module) -> torch.optim.AdamW:
        parameters = [p for network in networks for p in network.parameters()]
        return torch.optim.AdamW(parameters, lr=self.settings.learning_rate, weight_decay=self.settings.weight_decay)

    @staticmethod
    def _step(loss: Tensor, *optimizers: torch.optim.Optimizer) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


class Meter:
    """Means over an epoch, weighted by batch size; nothing leaves the device before `means`."""

    def __init__(self) -> None:
        """Start empty."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = defaultdict(int)

    def add(self, n: int, **values: Tensor) -> None:
        """Add batch means over `n` rows."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value.detach())) + value.detach() * n
            self.counts[name] += n

    def means(self) -> dict[str, float]:
        """Return the means by name."""
        return {name: float(value) / self.counts[name] for name, value in self.sums.items()}


def positive_weights(labels: Tensor) -> Tensor:
    """Return N / (count_c * C) for every class, `float32 [C]`; N and the counts are of known labels."""
    known = (~labels.isnan()).sum(dim=0)
    return known / (labels.nansum(dim=0).clamp(min=1) * labels.shape[1])


def start_at_prior(classifier: nn.Module, labels: Tensor, weights: Tensor | None) -> None:
    """Set the bias of the classifier's last layer to the logits of the (weighted) prevalences.

    A rare class then starts at its low score without every feature weight turning negative for it, which would leave
    its class activation maps empty.
    """
    positives = labels.nansum(dim=0).clamp(min=0.5)
    negatives = ((~labels.isnan()).sum(dim=0) - positives).clamp(min=0.5)
    odds = positives / negatives * (weights if weights is not None else 1)
    last = [m for m in classifier.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.copy_(odds.log())


def masked_bce(logits: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return the mean binary cross-entropy over known labels; NaN labels count for nothing."""
    known = ~labels.isnan()
    losses = functional.binary_cross_entropy_with_logits(
        logits, labels.nan_to_num(), pos_weight=weights, reduction="none"
    )
    return (losses * known).sum() / known.sum().clamp(min=1)


def sampled_words(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Return one-hot words `[b, L, V, h, w]`, one per simplex and site, drawn from the teacher's probabilities."""
    last = probabilities.movedim(2, -1)
    words = torch.multinomial(last.flatten(0, -2), 1, generator=generator).view(last.shape[:-1])
    return functional.one_hot(words, last.shape[-1]).movedim(-1, 2).to(probabilities.dtype)


def imitation_loss(embedding: SimplicialEmbedding, logits: Tensor, uttered: Tensor) -> Tensor:
    """Return the mean cross-entropy, in nats per simplex and site, of the student against the teacher's words."""
    return -(uttered * embedding.log_codes(logits)).sum(dim=2).mean()


def sparsity(embedding: SimplicialEmbedding, codes: Tensor) -> dict[str, Tensor]:
    """Return how sparse codes are.

    `mean_max_probability` is 1 for one-hot codes and 1/V for uniform ones; `normalised_entropy` is the mean entropy
    of a site's words over log V (0 one-hot, 1 uniform).
    """
    words = embedding.split(codes.detach())
    entropy = -(words * words.clamp(min=1e-12).log()).sum(dim=2).mean()
    return {
        "mean_max_probability": words.amax(dim=2).mean(),
        "normalised_entropy": entropy / math.log(embedding.vocab_size),
    }


def frozen_copy(encoder: UNet) -> UNet:
    """Return a copy that no optimiser and no gradient reaches: a teacher."""
    return copy.deepcopy(encoder).eval().requires_grad_(False)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, which initialisers draw from, for the length of a block; then restore it."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
