"""Iterated learning of the code: generations of interaction and imitation (Ren et al. 2023, algorithm 1).

In the interaction phase, encoder, decoder and classifier learn together to rebuild latents and to predict labels. In
the imitation phase, the encoder is frozen as the teacher, and a newly initialised student learns the teacher's words:
one word per simplex and site, drawn from the teacher's probabilities. Only what a new learner picks up quickly
survives, which is the pressure towards a compositional code. The last generation ends after its interaction.

The training is resumed after any epoch and then gives the same weights. So every random draw is derived from the seed
and the position in the schedule (generation, phase, epoch), and no generator has to be stored in a checkpoint.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bench.contract import Float32, LatentTable, checkpoints, draw_probabilities, rarest_class, seeds
from methods.fusion.networks import CodecNetworks
from methods.fusion.objectives import Meter, imitation_loss, measure, positive_weights, sampled_words, start_at_prior

if TYPE_CHECKING:
    from methods.fusion.settings import CodecSettings

Progress = Callable[[float, float, str], None]


class PhaseEpoch(NamedTuple):
    """A position in the schedule. Generations are counted from 0, and the epochs of each phase too."""

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
    """The training of a codec: networks, optimisers and records. It can be resumed after every epoch."""

    def __init__(
        self, settings: CodecSettings, table: LatentTable, labels: Float32, seed: int, device: str = "cpu"
    ) -> None:
        """Initialise everything from `seed`; `labels` are `float32 [n, C]`, NaN for unknown."""
        self.settings, self.table, self.seed, self.device = settings, table, seed, device
        self.labels = torch.from_numpy(np.array(labels, dtype=np.float32)).to(device)
        self.positive_weights = positive_weights(self.labels) if settings.positive_weights == "balanced" else None
        with seeded(seeds.derive(seed, "networks")):
            self.networks = CodecNetworks(settings, table.shape, self.labels.shape[1])
        self.draws = self._draws(labels)
        often = torch.ones(len(table)) if self.draws is None else torch.from_numpy(self.draws * len(table))
        start_at_prior(self.networks.classifier, self.labels, self.positive_weights, often.to(self.labels))
        self.networks.to(device).train()
        self.teacher: nn.Module | None = None
        self.encoder_optimizer = self._optimizer(self.networks.encoder)
        self.task_optimizer = self._optimizer(self.networks.decoder, self.networks.classifier)
        self.decay = torch.optim.lr_scheduler.StepLR(
            self.task_optimizer, settings.decay_every_epochs, settings.decay_factor
        )
        self.epochs = schedule(settings)
        # A last batch of one latent is left out. If the map also has a single site, batch normalisation would have one
        # value per channel, which is an error.
        self.steps_per_epoch = max(1, math.ceil((len(table) - 1) / settings.batch_size))
        self.done = 0
        self.first: dict[str, Tensor] = {}
        self.records: list[dict[str, float]] = [{} for _ in range(settings.generations)]

    def run(self, folder: Path, progress: Progress = lambda done, total, note: None) -> dict[str, Any]:
        """Train the epochs after the newest checkpoint in `folder`, and return the record of all generations.

        A checkpoint is written after an epoch, if it is time (`checkpoints.Pace`).
        """
        pace = checkpoints.Pace()
        state = checkpoints.load_newest(folder, self.device)
        if state is not None:
            self.load_state(state)
        while self.done < len(self.epochs):
            now = self.epochs[self.done]
            self._begin(now)
            run_epoch = self._imitation_epoch if now.phase == "imitation" else self._interaction_epoch
            self._note(now, run_epoch(now, progress))
            self.done += 1
            if self.done == self.settings.interaction_epochs:
                self._settle(now)
                self.first = {name: value.to("cpu", copy=True) for name, value in self.networks.state_dict().items()}
            pace.save_if_due(folder, self.done, self.state)
        self._settle(self.epochs[-1])
        self.networks.eval()
        n_epochs = len(self.epochs)
        counts = {"epochs": n_epochs, "steps": n_epochs * self.steps_per_epoch}
        return {"generations": self.records, "final": self._measured(), "first": self._measured(self.first)} | counts

    def state(self) -> dict[str, Any]:
        """Return everything that a resume needs."""
        return {
            "done": self.done,
            "records": self.records,
            "networks": self.networks.state_dict(),
            "first": self.first,
            "teacher": self.teacher.state_dict() if self.teacher is not None else None,
            "encoder_optimizer": self.encoder_optimizer.state_dict(),
            "task_optimizer": self.task_optimizer.state_dict(),
            "decay": self.decay.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from a state that `state()` returned."""
        self.done, self.records = state["done"], state["records"]
        self.networks.load_state_dict(state["networks"])
        self.first = {name: value.cpu() for name, value in state["first"].items()}
        if state["teacher"] is not None:
            self.teacher = frozen_copy(self.networks.encoder)
            self.teacher.load_state_dict(state["teacher"])
        self.encoder_optimizer.load_state_dict(state["encoder_optimizer"])
        self.task_optimizer.load_state_dict(state["task_optimizer"])
        self.decay.load_state_dict(state["decay"])

    def _begin(self, now: PhaseEpoch) -> None:
        """Prepare the epoch `now`; at the start of an imitation, freeze the encoder as teacher and set up a student.

        The student takes the encoder's place, and the next interaction continues with it. With `student_reset` it has
        new weights. A copy of the teacher would imitate it perfectly from the start, and nothing would be selected for
        being easy to learn. Decoder and classifier are kept: they can read the student's codes, because it learns the
        teacher's words.
        """
        if now.epoch == 0 and now.phase == "imitation":
            self.teacher = frozen_copy(self.networks.encoder)
            if self.settings.student_reset:
                with seeded(seeds.derive(self.seed, "student", now.generation + 1)):
                    self.networks.encoder = self.networks.fresh_encoder().to(self.device)
        elif now.epoch == 0:
            self.teacher = None
        if now.epoch == 0:
            # Each phase has its own loss. AdamW's moments from the phase before would mislead the first steps.
            self.encoder_optimizer = self._optimizer(self.networks.encoder)

    def _draws(self, labels: Float32) -> npt.NDArray[np.float64] | None:
        """Return the probability of each train row in a draw, `float64 [n]`, or None if each is seen once an epoch.

        An unknown label counts as absent here.
        """
        if self.settings.batches == "plain":
            return None
        return draw_probabilities(rarest_class(labels, np.nansum(labels, axis=0)), "class_balanced")

    def _interaction_epoch(self, now: PhaseEpoch, progress: Progress) -> dict[str, float]:
        networks, meter = self.networks, Meter()
        for rows, latents in self._batches(now, progress):
            reconstruction, classification = measure(meter, networks, latents, self.labels[rows], self.positive_weights)
            loss = reconstruction + self.settings.classification_weight * classification
            self._step(loss, self.encoder_optimizer, self.task_optimizer)
        self.decay.step()
        return meter.means()

    def _imitation_epoch(self, now: PhaseEpoch, progress: Progress) -> dict[str, float]:
        embedding, student, meter = self.networks.embedding, self.networks.encoder, Meter()
        kind = self.settings.imitation_loss
        generator = torch.Generator(self.device).manual_seed(seeds.derive(self.seed, "words", *now))
        for rows, latents in self._batches(now, progress):
            with torch.no_grad():
                uttered = embedding.split(embedding(self.teacher(latents)))  # type: ignore[misc]
                if self.settings.pseudo_labels == "sampled":
                    uttered = sampled_words(uttered, generator)
            loss = imitation_loss(embedding, student(latents), uttered, kind)
            self._step(loss, self.encoder_optimizer)
            meter.add(len(rows), **{f"imitation_{kind}": loss})
        return meter.means()

    def _settle(self, last: PhaseEpoch) -> None:
        """Set the statistics of batch normalisation to those of one more epoch of batches, with the final weights.

        In training they are a moving mean that starts from 0 and 1, and lags behind. After a short training scores are
        then far too small, and maps are wrong, although the weights are right.
        """
        norms = {norm: norm.momentum for norm in self.networks.modules() if isinstance(norm, nn.BatchNorm2d)}
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # a plain mean over the batches
        if norms:
            with torch.no_grad():
                for _, latents in self._batches(last._replace(epoch=last.epoch + 1), lambda done, total, note: None):
                    self.networks.classifier(self.networks.encode(latents))
        for norm, momentum in norms.items():
            norm.momentum = momentum

    def _batches(self, now: PhaseEpoch, progress: Progress) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (rows, latents) of each step of an epoch; order and latents are drawn from the seed and `now`."""
        rng, n = seeds.rng(self.seed, "order", *now), len(self.table)
        order = rng.permutation(n) if self.draws is None else rng.choice(n, n, p=self.draws)
        noise_seed = seeds.derive(self.seed, "latents", *now)
        total = len(self.epochs) * self.steps_per_epoch
        note = f"generation {now.generation + 1}/{self.settings.generations}, {now.phase}"
        for step in range(self.steps_per_epoch):
            rows = order[step * self.settings.batch_size : (step + 1) * self.settings.batch_size]
            # An image that is drawn again in an epoch has another latent.
            seed = noise_seed if self.draws is None else seeds.derive(noise_seed, step)
            latents = torch.from_numpy(self.table.sample(rows, seed)).to(self.device)
            yield torch.from_numpy(rows).to(self.device), latents
            progress(self.done * self.steps_per_epoch + step + 1, total, note)

    def _note(self, now: PhaseEpoch, means: dict[str, float]) -> None:
        """Store the means of an epoch in the generation's record.

        Later epochs of a phase overwrite earlier ones, but the first imitation loss is kept as `<name>_first`.
        """
        record = self.records[now.generation]
        if now.phase == "imitation" and now.epoch == 0:
            record |= {f"{name}_first": value for name, value in means.items()}
        record.update(means)

    def _measured(self, weights: dict[str, Tensor] | None = None) -> dict[str, float]:
        """Return the measures of the networks over the whole train set, with `weights` in place of theirs if given."""
        networks = copy.deepcopy(self.networks)
        if weights is not None:
            networks.load_state_dict(weights)
        latents_seed = seeds.derive(self.seed, "latents", "measured")
        meter = Meter()
        for rows in np.array_split(np.arange(len(self.table)), self.steps_per_epoch):
            latents = torch.from_numpy(self.table.sample(rows, latents_seed)).to(self.device)
            labels = self.labels[torch.from_numpy(rows).to(self.device)]
            with torch.inference_mode():
                measure(meter, networks.eval(), latents, labels, self.positive_weights)
        return meter.means()

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


def frozen_copy(encoder: nn.Module) -> nn.Module:
    """Return a frozen copy of an encoder, in evaluation mode and without gradients: a teacher."""
    return copy.deepcopy(encoder).eval().requires_grad_(False)


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed torch's CPU generator, from which layers are initialised, inside a block, and restore it afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
