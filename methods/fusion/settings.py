"""The settings of the codec: its networks and its training by iterated learning."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from bench.contract import ConfigError, Settings

CodeActivation = Literal["softmax", "tanh"]

ImitationLoss = Literal["cross_entropy", "per_word_bce"]

Checkpoint = Literal["last", "first"]  # The networks after the last generation, or after generation 0's interaction.

_SMALLEST_FOR_TORCHVISION = 32  # torchvision's vgg11 and densenet121 halve the side five times.


class CodecSettings(Settings):
    """Shape and training of the code. The defaults suit latents of 16 x 16 on a CPU; paper scale is in matrix files.

    A U-Net, the group normalisation in it and a deep classifier let every site see the whole image. Then the maps do
    not point at a class, because any site will do. If encoder and classifier are `local`, a site of the code sees 3 x 3
    sites of the latent, and a site of the maps 9 x 9 (docs/methods.md, "Maps of a local code").

    The paper's released code has `code_activation` and `decoder_range` at `tanh`, `imitation_loss` at `per_word_bce`
    and a temperature of 1. Each of these weakens the code: a Tanh keeps every word unlikely, a decoder that ends in
    Tanh cannot rebuild latents beyond 1, and most terms of the per-word loss are about words that were not uttered.
    """

    n_simplices: int = Field(1, ge=1, le=64, description="L: simplices at every site")
    vocab_size: int = Field(64, ge=2, le=4096, description="V: words of a simplex; L*V channels")
    temperature: float = Field(0.1, gt=0, le=100, description="tau of softmax(logits / tau); low is sparse")
    code_activation: CodeActivation = Field(
        "softmax", description="softmax of the logits, or of their Tanh, which keeps every word unlikely"
    )
    decoder_range: Literal["linear", "tanh"] = Field(
        "linear", description="the decoder's last layer; tanh cannot rebuild latent values beyond 1 in size"
    )
    encoder: Literal["local", "unet"] = Field(
        "unet", description="local: a site's code depends on the 3 x 3 sites of the latent around it; unet: on all"
    )
    width: int = Field(
        16,
        ge=4,
        le=512,
        description="channels of the U-Nets at full resolution; other layers have 2 or 4 times as many",
    )
    downsamplings: int = Field(3, ge=1, le=8, description="halvings in the U-Nets, at most log2 of the latent's side")
    classifier: Literal["conv", "local", "vgg11", "densenet121"] = Field(
        "conv",
        description="network that classifies codes; a site's score depends on 7 x 7 sites of the code in `local`",
    )
    pooling_sharpness: float = Field(
        0.5,
        ge=0,
        le=100,
        description="how the classifier `local` pools the scores of sites: 0 is the mean, 100 nearly the maximum",
    )
    generations: int = Field(3, ge=1, le=1000, description="G: interaction phases; one fewer imitation phases")
    interaction_epochs: int = Field(3, ge=1, description="epochs of an interaction phase")
    imitation_epochs: int = Field(1, ge=1, description="epochs of an imitation phase")
    batch_size: int = Field(32, ge=1, description="latents per step")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="AdamW's, for every network")
    weight_decay: float = Field(1e-2, ge=0, le=1, description="AdamW's, for every network")
    decay_every_epochs: int = Field(
        10, ge=1, description="interaction epochs between decays of the decoder's and classifier's learning rate"
    )
    decay_factor: float = Field(1.0, gt=0, le=1, description="factor on that learning rate at a decay; 1 is constant")
    classification_weight: float = Field(1.0, ge=0, description="weight of the BCE beside the L1 of the latents")
    batches: Literal["class_balanced", "plain"] = Field(
        "plain", description="plain: each image once an epoch; class_balanced: drawn, each class equally often"
    )
    positive_weights: Literal["balanced", "none"] = Field("balanced", description="balanced: N / (count_c * C)")
    pseudo_labels: Literal["sampled", "soft"] = Field("sampled", description="what a student imitates")
    imitation_loss: ImitationLoss = Field(
        "cross_entropy", description="cross-entropy per simplex and site, or BCE averaged over all words"
    )
    student_reset: bool = Field(True, description="true: a student starts from new weights; false: from its teacher's")

    @model_validator(mode="after")
    def _each_setting_has_an_effect_of_its_own(self) -> Self:
        """Refuse to balance classes twice, and to pool sharply where nothing is pooled."""
        if self.batches == "class_balanced" and self.positive_weights == "balanced":
            raise ValueError(
                "positive_weights: 'balanced' would balance the classes a second time, because batches is "
                "'class_balanced'; use positive_weights: none, or batches: plain"
            )
        default = type(self).model_fields["pooling_sharpness"].default
        if self.classifier != "local" and self.pooling_sharpness != default:
            raise ValueError(
                f"pooling_sharpness: has no effect with the classifier '{self.classifier}'; leave it out, or use "
                "classifier: local"
            )
        return self

    def check(self, latent_px: int) -> None:
        """Check that batches can be normalised and that the classifier is not too deep for latents of side `latent_px`.

        Raises:
            ConfigError: if it is. The message names the setting and what is allowed.
        """
        if self.classifier == "local" and self.batch_size == 1:
            raise ConfigError(
                "codec.batch_size: the classifier 'local' normalises over a batch, and got 1; use 2 or more"
            )
        if self.classifier in ("vgg11", "densenet121") and latent_px < _SMALLEST_FOR_TORCHVISION:
            raise ConfigError(
                f"codec.classifier: '{self.classifier}' halves the side five times and the latent has {latent_px} px; "
                f"it needs {_SMALLEST_FOR_TORCHVISION}; use 'local' or 'conv'"
            )
