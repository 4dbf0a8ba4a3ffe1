"""The sparse code: an encoder, decoder and classifier learnt by iterated learning (Ren et al. 2023)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bench.contract import (
    Latents,
    Resources,
    Stage,
    Train,
    Work,
    read_json_or_raise,
    seeds,
    train_set,
    write_strict_json,
)
from methods.fusion.settings import Checkpoint, CodecSettings

if TYPE_CHECKING:
    from torch import Tensor

    from methods.fusion.networks import CodecNetworks

_WEIGHTS: dict[Checkpoint, str] = {"last": "codec.safetensors", "first": "codec-first.safetensors"}


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
        write_strict_json(work.out / "codec.json", shape | record)

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
        return read_json_or_raise(self.folder / "codec.json")

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
