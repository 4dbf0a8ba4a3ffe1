"""The oracle of the phantom data set: a network that recognises which findings an image shows."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.data.kinds.phantom import CLASS_NAMES
from bench.evaluation.shipped_oracle import ORACLE_WEIGHTS, SHIPPED_ORACLE
from bench.pixels import luma, to_planes
from bench.tables import Float32, UInt8

ORACLE_PX = 64


class Oracle(nn.Module):
    """A residual network with 0.6 M parameters for grey images of 64 px; other sizes are resized."""

    def __init__(self, n_classes: int, width: int = 64) -> None:
        """Build the untrained layers; `width` is the number of features."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.body = nn.Sequential(
            _Block(24, 48, 2), _Block(48, 96, 2), _Block(96, 96, 1), _Block(96, 128, 2)
        )  # fmt: skip
        self.project = nn.Sequential(nn.Conv2d(128, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, n_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[n, C]` and features `[n, width]` of images `[n, 1, H, W]` in [0, 1]."""
        if images.shape[-2:] != (ORACLE_PX, ORACLE_PX):
            size = (ORACLE_PX, ORACLE_PX)
            images = functional.interpolate(images, size, mode="bilinear", antialias=True)
        maps = self.project(self.body(self.stem((images - 0.4) * 4)))
        features = (maps.mean((2, 3)) + maps.amax((2, 3))) / 2
        return self.head(features), features


class _Block(nn.Module):
    """A residual block: two 3x3 convolutions and a shortcut."""

    def __init__(self, n_in: int, n_out: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(n_out, n_out, 3, 1, 1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(n_out), nn.BatchNorm2d(n_out)])
        self.short = nn.Conv2d(n_in, n_out, 1, bias=False)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output."""
        out = torch.relu(self.norms[0](self.first(x)))
        return torch.relu(self.norms[1](self.second(out)) + self.short(self.pool(x)))


def build_oracle(n_classes: int = len(CLASS_NAMES)) -> Oracle:
    """Return an untrained oracle."""
    return Oracle(n_classes).to(memory_format=torch.channels_last)


def load_oracle(path: Path | str | None = None) -> Oracle:
    """Return the trained oracle in folder `path`, in evaluation mode; by default the shipped one."""
    from safetensors.torch import load_file

    weights = load_file(str(Path(path or SHIPPED_ORACLE) / ORACLE_WEIGHTS))
    oracle = build_oracle(len(weights["head.bias"]))
    oracle.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return oracle.eval().requires_grad_(False)


def ask_oracle(oracle: Oracle, images: UInt8, batch_size: int = 250) -> tuple[Float32, Float32]:
    """Return logits `float32 [n, C]` and features `float32 [n, 64]` of images."""
    oracle.eval()
    with torch.inference_mode():
        parts = [oracle(to_input(images[i : i + batch_size])) for i in range(0, len(images), batch_size)]
    logits, features = zip(*parts, strict=True)
    return torch.cat(logits).numpy(), torch.cat(features).numpy()


def to_input(images: UInt8) -> Tensor:
    """Return images as `float32 [n, 1, H, W]` in [0, 1]; colour becomes luma."""
    return to_planes(luma(images)).float() / 255
