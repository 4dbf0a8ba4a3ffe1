"""The sparse code: an encoder, decoder and classifier learnt by iterated learning (Ren et al. 2023)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from bench import seeds
from bench.contract import Latents, Settings, Stage, Train, Work, train_set
from bench.errors import ConfigError
from bench.pipeline.stage import Resources

if TYPE_CHECKING:
    from torch import Tensor

    from methods.fusion.networks import CodecNetworks

CodeActivation = Literal["softmax", "tanh"]
ImitationLoss = Literal["cross_entropy", "per_word_bce"]
Checkpoint = Literal["last", "first"]  # networks after the last generation, or after generation 0's interaction
_SMALLEST_FOR_TORCHVISION = 32  # both of its networks halve the side five times
_WEIGHTS: dict[Checkpoint, str] = {"last": "codec.safetensors", "first": "codec-first.safetensors"}


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


class Codec(Stage):
    """Trained encoder, decoder and classifier of the code, with a record of every generation."""

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=120)

    latents: Latents
    train: Train
    settings: CodecSettings = CodecSettings()
    seed: int

    def compute(self, work: Work) -> None:
        """Write `codec.safetensors`, `codec-first.safetensors` and `codec.json`.

        Epochs are checkpointed and resumed bit for bit.
        """
        from safetensors.torch import save_file

        from methods.fusion.iterated_learning import IteratedLearning

        table, labels = work.get(self.latents), train_set(work, self.train).labels
        learning = IteratedLearning(self.settings, table, labels, seeds.derive(self.seed, "codec"), work.device)
        record = learning.run(work.ckpt, work.progress)
        shape = {"latent_shape": list(table.shape), "n_classes": labels.shape[1]}
        states: dict[Checkpoint, dict[str, Tensor]] = {"last": learning.networks.state_dict(), "first": learning.first}
        for checkpoint, state in states.items():
            weights = {name: value.contiguous().cpu() for name, value in state.items()}
            save_file(weights, work.out / _WEIGHTS[checkpoint])
        (work.out / "codec.json").write_text(json.dumps(shape | record, indent=1), encoding="utf-8")

    def open(self, folder: Path) -> TrainedCodec:
        """Return the codec, not yet loaded."""
        return TrainedCodec(folder, self.settings)


@dataclass(frozen=True)
class TrainedCodec:
    """A finished codec on disk."""

    folder: Path
    settings: CodecSettings

    @property
    def record(self) -> dict[str, Any]:
        """What `codec.json` holds.

        `generations`: losses and sparsity of each while it was trained; `final` and `first`: the same measures of the
        finished networks (of the checkpoints `last` and `first`) over the whole train set, see
        `methods.fusion.iterated_learning.measure`; shapes, epochs and steps.
        """
        return json.loads((self.folder / "codec.json").read_text(encoding="utf-8"))

    def load(self, device: str = "cpu", checkpoint: Checkpoint = "last") -> CodecNetworks:
        """Return the networks on `device`, frozen and in evaluation mode.

        `checkpoint` is `last` for the networks after the last generation, `first` for those after generation 0's
        interaction, which the paper's run script fuses with. With one generation they are the same.
        """
        import torch
        from safetensors.torch import load_file

        from methods.fusion.networks import CodecNetworks

        record = self.record
        channels, h, w = record["latent_shape"]
        with torch.device("meta"):  # no initialisation to throw away, and no draw from the global generator
            networks = CodecNetworks(self.settings, (channels, h, w), record["n_classes"])
        networks.load_state_dict(load_file(self.folder / _WEIGHTS[checkpoint], device=device), assign=True)
        return networks.eval().requires_grad_(False)
