"""The stage that trains the sparse code: encoder, decoder and classifier, by iterated learning (Ren et al. 2023)."""

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
    """The trained encoder, decoder and classifier of the code, with a record of every generation."""

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=120)

    latents: Latents
    train: Train
    settings: CodecSettings = CodecSettings()
    seed: int

    def compute(self, work: Work) -> None:
        """Write `codec.safetensors`, `codec-first.safetensors` and `codec.json`.

        There is a checkpoint after every epoch, and a resumed training gives the same bits.
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
        """Return the codec; its networks are not loaded yet."""
        return TrainedCodec(folder, self.settings)


@dataclass(frozen=True)
class TrainedCodec:
    """A finished codec on disk."""

    folder: Path
    settings: CodecSettings

    @property
    def record(self) -> dict[str, Any]:
        """Return the contents of `codec.json`.

        `generations` holds the losses and the sparsity of each generation during its training, over the batches as they
        were drawn. `final` and `first` hold the same measures over the whole train set, each image once, for the
        networks of the checkpoints `last` and `first` (see `methods.fusion.objectives.measure`). Shapes, epochs and
        steps are there too.
        """
        return read_json_or_raise(self.folder / "codec.json")

    def load(self, device: str = "cpu", checkpoint: Checkpoint = "last") -> CodecNetworks:
        """Return the networks on `device`, frozen and in evaluation mode.

        The checkpoint `last` is the networks after the last generation. `first` is the networks after the interaction
        of generation 0, which the paper's run script uses for fusion. With one generation they are the same.
        """
        import torch
        from safetensors.torch import load_file

        from methods.fusion.networks import CodecNetworks

        record = self.record
        channels, h, w = record["latent_shape"]
        with torch.device("meta"):  # No weights are initialised, so nothing is drawn from the global generator.
            networks = CodecNetworks(self.settings, (channels, h, w), record["n_classes"])
        networks.load_state_dict(load_file(self.folder / _WEIGHTS[checkpoint], device=device), assign=True)
        return networks.eval().requires_grad_(False)
