"""The oracle: a small classifier that has seen the truth of many phantoms, and its features.

It answers what is really on a generated image (label fidelity) and gives a 64-d feature space in
which distances between sets of phantoms mean something.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from bench.datasets.phantom import CLASS_NAMES, PhantomSettings
from bench.pretrain.checkpoint import Checkpoints, fingerprint
from bench.pretrain.phantom_data import ASSET_SEED, NOTE, Arrays, lifted, natural
from bench.pretrain.record import OnProgress, Progress, host_kind, versions, write_json
from bench.seeds import derive

SHIPPED = Path(__file__).parent.parent / "assets" / "oracle"
WEIGHTS, RECORD = "oracle.safetensors", "record.json"
ORACLE_PX = 64


class OracleSettings(BaseModel):
    """How the oracle is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    n_images: int = Field(default=20_000, ge=16)
    n_test: int = Field(default=4_000, ge=16, description="held out, natural prevalence")
    epochs: int = Field(default=5, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    checkpoint_every: int = Field(default=400, ge=1, description="optimizer steps")
    phantom: PhantomSettings = PhantomSettings(seed=ASSET_SEED)


class Oracle(nn.Module):
    """A residual network of 0.6 M parameters on 64 px grey images."""

    def __init__(self, n_classes: int, width: int = 64) -> None:
        """Build untrained layers."""
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 24, 3, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU())
        self.body = nn.Sequential(
            _Block(24, 48, 2), _Block(48, 96, 2), _Block(96, 96, 1), _Block(96, 128, 2)
        )  # fmt: skip
        self.project = nn.Sequential(nn.Conv2d(128, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, n_classes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits `[n, C]` and features `[n, 64]` of images `[n, 1, H, W]` in [0, 1]."""
        if images.shape[-2:] != (ORACLE_PX, ORACLE_PX):
            size = (ORACLE_PX, ORACLE_PX)
            images = functional.interpolate(images, size, mode="bilinear", antialias=True)
        maps = self.project(self.body(self.stem((images - 0.4) * 4)))
        features = (maps.mean((2, 3)) + maps.amax((2, 3))) / 2
        return self.head(features), features


class _Block(nn.Module):
    """Two convolutions and a shortcut."""

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
    return Oracle(n_classes).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def load_oracle(path: Path | str | None = None) -> Oracle:
    """Return a trained oracle in evaluation mode; the shipped one by default."""
    from safetensors.torch import load_file

    weights = load_file(str(Path(path or SHIPPED) / WEIGHTS))
    oracle = build_oracle(len(weights["head.bias"]))
    oracle.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in weights.items()})
    return oracle.eval().requires_grad_(False)


def ask_oracle(oracle: Oracle, images: NDArray[np.uint8], batch_size: int = 250) -> tuple[NDArray, NDArray]:
    """Return logits `[n, C]` and features `[n, 64]` of uint8 images `[n, H, W]`."""
    oracle.eval()
    with torch.inference_mode():
        parts = [oracle(to_input(images[i : i + batch_size])) for i in range(0, len(images), batch_size)]
    logits, features = zip(*parts, strict=True)
    return torch.cat(logits).numpy(), torch.cat(features).numpy()


def to_input(images: NDArray[np.uint8]) -> Tensor:
    """Return uint8 images `[n, H, W]` as float `[n, 1, H, W]` in [0, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images))[:, None].float() / 255


def train_oracle(
    data: Arrays, settings: OracleSettings, checkpoints: Checkpoints
) -> Iterator[tuple[Progress, Oracle]]:
    """Yield progress and the model once a checkpoint interval and at the end; resumes by itself."""
    torch.manual_seed(derive(settings.seed, "oracle"))
    oracle = build_oracle(data.labels.shape[1])
    per_epoch = len(data.images) // settings.batch_size
    total = per_epoch * settings.epochs
    optimizer = torch.optim.AdamW(oracle.parameters(), settings.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=total)
    step, parts = 0, (oracle, optimizer, schedule)
    if (found := checkpoints.newest()) is not None:
        step, state = found
        for name, part in zip(("model", "optimizer", "schedule"), parts, strict=True):
            part.load_state_dict(state[name])
    labels, losses = torch.from_numpy(data.labels), []
    while step < total:
        epoch, position = divmod(step, per_epoch)
        if position == 0 or not losses:
            order = np.random.default_rng(derive(settings.seed, "oracle order", epoch)).permutation(len(labels))
        batch = order[position * settings.batch_size : (position + 1) * settings.batch_size]
        losses.append(_oracle_step(oracle.train(), optimizer, data.images[batch], labels[batch], step))
        schedule.step()
        step += 1
        if step % settings.checkpoint_every == 0 or step == total:
            states = {n: p.state_dict() for n, p in zip(("model", "optimizer", "schedule"), parts, strict=True)}
            checkpoints.save(step, states)
            yield {"part": "oracle", "step": step, "total": total, "loss": float(np.mean(losses[-400:]))}, oracle


def _oracle_step(
    oracle: Oracle, optimizer: torch.optim.Optimizer, images: NDArray[np.uint8], labels: Tensor, step: int
) -> float:
    pixels = to_input(images).contiguous(memory_format=torch.channels_last)
    rng = np.random.default_rng(derive(0, "oracle shift", step))
    down, right = rng.integers(-3, 4, 2)
    pixels = torch.roll(pixels, (int(down), int(right)), (2, 3)) * float(rng.uniform(0.9, 1.1))
    loss = functional.binary_cross_entropy_with_logits(oracle(pixels)[0], labels)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def evaluate_oracle(oracle: Oracle, data: Arrays) -> dict[str, Any]:
    """Return AP and AUC of every class against the truth, with its prevalence."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    logits, _ = ask_oracle(oracle, data.images)
    out: dict[str, Any] = {}
    for c, name in enumerate(CLASS_NAMES):
        truth = data.labels[:, c] > 0.5
        if truth.any() and not truth.all():
            ap, auc = average_precision_score(truth, logits[:, c]), roc_auc_score(truth, logits[:, c])
            out[name] = {"ap": round(float(ap), 4), "auc": round(float(auc), 4), "prevalence": round(float(truth.mean()), 4)}
    return out


def pretrain_oracle(
    out_dir: Path | str,
    ckpt_dir: Path | str,
    settings: OracleSettings | None = None,
    on_progress: OnProgress = lambda record: None,
) -> Path:
    """Train the oracle and write weights and record to `out_dir`; run again to resume.

    Returns:
        The folder with `oracle.safetensors` and `record.json`.
    """
    from safetensors.torch import save_file

    settings, out, began = settings or OracleSettings(), Path(out_dir), time.monotonic()
    data = lifted(settings.phantom, settings.n_images)
    checkpoints = Checkpoints(Path(ckpt_dir), fingerprint("oracle", settings.model_dump(mode="json")))
    oracle, curve = build_oracle(), []
    for progress, oracle in train_oracle(data, settings, checkpoints):
        curve.append({"step": progress["step"], "loss": round(progress["loss"], 5)})
        on_progress(progress)
    if not curve and (found := checkpoints.newest()) is not None:
        oracle.load_state_dict(found[1]["model"])
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in oracle.state_dict().items()}, str(out / WEIGHTS))
    test = natural(settings.phantom, settings.n_test, first=-(-settings.n_images // 8) * 8)
    write_json(out / RECORD, {
        "what": "oracle classifier of the phantom, trained on true labels",
        "command": "bench pretrain oracle", "settings": settings.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in oracle.parameters()), "data": NOTE,
        "test": evaluate_oracle(oracle, test), "n_test": settings.n_test, "loss": curve,
        "seconds": round(time.monotonic() - began), "versions": versions(), "host": host_kind(),
    })  # fmt: skip
    return out
