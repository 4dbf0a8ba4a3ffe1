"""The losses and measures of the codec's training: imitation, class weights, sparsity, and their means."""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.metrics.losses import masked_bce
from methods.fusion.networks import CodecNetworks, SimplicialEmbedding

if TYPE_CHECKING:
    from methods.fusion.settings import ImitationLoss


class Meter:
    """Collects weighted means over an epoch.

    Sums stay on the device until `means` is called. Reading a number in every step would wait for the GPU each time.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int | Tensor] = defaultdict(int)

    def add(self, n: int | Tensor, **values: Tensor) -> None:
        """Add the means of a batch; `n` is the number of rows or labels that they were taken over."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, torch.zeros_like(value.detach())) + value.detach() * n
            self.counts[name] += n

    def means(self) -> dict[str, float]:
        """Return the weighted means by name."""
        return {name: float(value) / max(float(self.counts[name]), 1.0) for name, value in self.sums.items()}


def positive_weights(labels: Tensor) -> Tensor:
    """Return N / (count_c * C) for every class c, `float32 [C]`; N and the counts are over the known labels of c."""
    known = (~labels.isnan()).sum(dim=0)
    return known / (labels.nansum(dim=0).clamp(min=1) * labels.shape[1])


def start_at_prior(classifier: nn.Module, labels: Tensor, weights: Tensor | None, draws: Tensor) -> None:
    """Set the bias of the classifier's last layer to the logit of each class's (weighted) prevalence in the batches.

    A rare class needs a low score on most images. With a bias of zero the training gets there by making all feature
    weights of the class negative, and then nothing in an image raises its score: its class activation maps are empty.

    Args:
        classifier: the network.
        labels: `[n, C]`, NaN where unknown.
        weights: `[C]`, factors on the positive terms of the BCE, or None.
        draws: `[n]`, how often an epoch has each image, on the mean; 1 for each if it has all of them once.
    """
    often = labels.isfinite() * draws[:, None]
    positives = (labels.nan_to_num() * often).sum(dim=0).clamp(min=0.5)
    negatives = (often.sum(dim=0) - positives).clamp(min=0.5)
    odds = positives / negatives * (weights if weights is not None else 1)
    last = [m for m in classifier.modules() if isinstance(m, nn.Linear)][-1]
    with torch.no_grad():
        last.bias.copy_(odds.log())


def sampled_words(probabilities: Tensor, generator: torch.Generator) -> Tensor:
    """Return one-hot words `[b, L, V, h, w]`, one per simplex and site, drawn from the teacher's probabilities."""
    last = probabilities.movedim(2, -1)
    words = torch.multinomial(last.flatten(0, -2), 1, generator=generator).view(last.shape[:-1])
    return functional.one_hot(words, last.shape[-1]).movedim(-1, 2).to(probabilities.dtype)


def imitation_loss(
    embedding: SimplicialEmbedding, logits: Tensor, uttered: Tensor, kind: ImitationLoss = "cross_entropy"
) -> Tensor:
    """Return the loss of the student against the teacher's words.

    Args:
        embedding: turns the student's logits into words.
        logits: `[b, L*V, h, w]`, the student's logits.
        uttered: `[b, L, V, h, w]`, the teacher's words: one-hot, or its probabilities.
        kind: `cross_entropy` is the mean cross-entropy per simplex and site, in nats (Ren et al. 2023).
            `per_word_bce` is the mean binary cross-entropy over every word of every site, as in the paper's released
            code. Nearly all of its terms are for the V - 1 words that were not uttered.
    """
    if kind == "per_word_bce":
        return functional.binary_cross_entropy(embedding.split(embedding(logits)), uttered)
    return -(uttered * embedding.log_codes(logits)).sum(dim=2).mean()


def sparsity(embedding: SimplicialEmbedding, codes: Tensor) -> dict[str, Tensor]:
    """Return two measures of how sparse codes are.

    `mean_max_probability` is 1 for one-hot codes and 1/V for uniform ones. `normalised_entropy` is the mean entropy
    per simplex and site, divided by log V: 0 for one-hot codes and 1 for uniform ones.
    """
    words = embedding.split(codes.detach())
    entropy = -(words * words.clamp(min=1e-12).log()).sum(dim=2).mean()
    return {
        "mean_max_probability": words.amax(dim=2).mean(),
        "normalised_entropy": entropy / math.log(embedding.vocab_size),
    }


def measure(
    meter: Meter, networks: CodecNetworks, latents: Tensor, labels: Tensor, weights: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return (L1 error of the rebuilt latents, BCE of the labels), and add all measures of the batch to `meter`.

    The measures are `reconstruction_l1`; `classification_bce` over known labels; `mean_max_probability` and
    `normalised_entropy` from `sparsity`; and `latents_beyond_1`, the share of latent values outside [-1, 1], which a
    decoder that ends in Tanh cannot rebuild.

    Args:
        meter: collects the means.
        networks: the codec's networks.
        latents: `[b, c, h, w]`.
        labels: `[b, C]`, NaN where unknown.
        weights: `[C]`, factors on the positive terms of the BCE, or None.
    """
    codes = networks.encode(latents)
    reconstruction = functional.l1_loss(networks.decoder(codes), latents)
    classification = masked_bce(networks.classifier(codes), labels, positive=weights)
    meter.add(len(latents), reconstruction_l1=reconstruction, **sparsity(networks.embedding, codes))
    meter.add(len(latents), latents_beyond_1=(latents.abs() > 1).float().mean())
    meter.add((~labels.isnan()).sum(), classification_bce=classification)
    return reconstruction, classification
