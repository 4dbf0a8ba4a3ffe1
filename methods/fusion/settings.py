"""The settings of the codec: of its networks and of iterated learning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from bench.contract import ConfigError, Settings

CodeActivation = Literal["softmax", "tanh"]

ImitationLoss = Literal["cross_entropy", "per_word_bce"]

Checkpoint = Literal["last", "first"]  # networks after the last generation, or after generation 0's interaction

_SMALLEST_FOR_TORCHVISION = 32  # both of its networks halve the side five times


class CodecSettings(Settings):
    """Shape and training of the code. Defaults fit latents of 16 x 16 on a CPU; paper scale is in the matrix files.

    `code_activation` and `decoder_range` at `tanh` and `imitation_loss` at `per_word_bce` are what the paper's released
    code does, with a temperature of 1.
    """

    n_simplices: int = Field(1, ge=1, le=64, description="L: simplices at every site")
    vocab_size: int = Field(64, ge=2, le=4096, description="V: words of a simplex; L*V channels")
    temperature: float = Field(0.1, gt=0, le=100, description="tau of softmax(logits / tau); low is sparse")
    code_activation: CodeActivation = Field(
        "softmax", description="softmax of free logits, or of their Tanh, under which no word can be likely"
    )
    decoder_range: Literal["linear", "tanh"] = Field(
        "linear", description="decoder's last layer; tanh can rebuild no latent value beyond 1 in size"
    )
    width: int = Field(16, ge=4, le=512, description="channels of the U-Nets at full resolution")
    downsamplings: int = Field(3, ge=1, le=8, description="halvings in the U-Nets, cut to log2 of the latent's side")
    classifier: Literal["conv", "vgg11", "densenet121"] = Field("conv", description="network that reads the code")
    generations: int = Field(3, ge=1, le=1000, description="G: interaction phases; one fewer imitation phases")
    interaction_epochs: int = Field(3, ge=1, description="epochs of an interaction phase")
    imitation_epochs: int = Field(1, ge=1, description="epochs of an imitation phase")
    batch_size: int = Field(32, ge=1, description="latents a step")
    learning_rate: float = Field(2e-3, gt=0, le=1, description="of AdamW, every network")
    weight_decay: float = Field(1e-2, ge=0, le=1, description="of AdamW, every network")
    decay_every_epochs: int = Field(10, ge=1, description="interaction epochs between decays of decoder, classifier")
    decay_factor: float = Field(1.0, gt=0, le=1, description="their learning rate's factor at a decay; 1 is constant")
    classification_weight: float = Field(1.0, ge=0, description="weight of the BCE beside the L1 of the latents")
    positive_weights: Literal["balanced", "none"] = Field("balanced", description="balanced: N / (count_c * C)")
    pseudo_labels: Literal["sampled", "soft"] = Field("sampled", description="what a student imitates")
    imitation_loss: ImitationLoss = Field(
        "cross_entropy", description="of the teacher's words: cross-entropy of a site, or mean BCE of each word alone"
    )
    student_reset: bool = Field(True, description="a student starts anew; false: as a copy of its teacher")

    def check(self, latent_px: int) -> None:
        """Refuse a classifier that is too deep for latents of `latent_px` sites a side.

        Raises:
            ConfigError: naming the setting and what is allowed.
        """
        if self.classifier != "conv" and latent_px < _SMALLEST_FOR_TORCHVISION:
            raise ConfigError(
                f"codec.classifier: '{self.classifier}' halves the side five times and the latent has {latent_px} px; "
                f"it needs {_SMALLEST_FOR_TORCHVISION}; use 'conv'"
            )
