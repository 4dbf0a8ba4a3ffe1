"""The oracle: a small classifier that has seen the truth of many phantoms, and its features.

It answers what is really on a generated image (label fidelity) and gives a 64-d feature space in
which distances between sets of phantoms mean something.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from bench.data.kinds.phantom import CLASS_NAMES, PhantomSettings
from bench.files import versions, write_json
from bench.pretrain import ORACLE_WEIGHTS, SHIPPED_ORACLE
from bench.pretrain.checkpoint import Checkpoints, fingerprint
from bench.pretrain.loop import batch_at, train_steps
from bench.pretrain.phantom_data import ASSET_SEED, NOTE, Arrays, lifted, natural
from bench.pretrain.record import OnProgress, Progress, close, host_kind
from bench.seeds import derive

SHIPPED, WEIGHTS, RECORD = SHIPPED_ORACLE, ORACLE_WEIGHTS, "record.json"
ORACLE_PX = 64


class OracleSettings(BaseModel):
    """How the oracle is trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: int = 0
    n_images: int = Field(default=20_000, ge=16)
    n_test: int = Field(default=4_000, ge=16, description="held out, natural prevalence")
    epochs: int = Field(default=4, ge=1)
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
    return Oracle(n_classes).to(memory_format=torch.channels_last)


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


def train_oracle(data: Arrays, settings: OracleSettings, checkpoints: Checkpoints) -> Iterator[tuple[Progress, Oracle]]:
    """Yield progress and the oracle at every checkpoint; resumes by itself."""
    torch.manual_seed(derive(settings.seed, "oracle"))
    oracle, labels = build_oracle(data.labels.shape[1]), torch.from_numpy(data.labels)
    n, size = len(labels), min(settings.batch_size, len(labels))
    total = n // size * settings.epochs
    optimizer = torch.optim.AdamW(oracle.parameters(), settings.learning_rate, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.learning_rate, total_steps=total)

    def do_step(step: int) -> float:
        batch = batch_at(n, size, settings.seed, "oracle", step)
        shift = np.random.default_rng(derive(settings.seed, "oracle shift", step))
        pixels = _shifted(to_input(data.images[batch]), shift)
        loss = functional.binary_cross_entropy_with_logits(oracle.train()(pixels)[0], labels[batch])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        return float(loss.detach())

    parts: dict[str, Any] = {"model": oracle, "optimizer": optimizer, "schedule": schedule}
    for progress in train_steps("oracle", parts, total, do_step, checkpoints, settings.checkpoint_every):
        yield progress, oracle


def _shifted(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the batch shifted by up to three pixels, a little brighter or darker."""
    down, right = rng.integers(-3, 4, 2)
    rolled = torch.roll(pixels.contiguous(memory_format=torch.channels_last), (int(down), int(right)), (2, 3))
    return rolled * float(rng.uniform(0.9, 1.1))


def evaluate_oracle(oracle: Oracle, data: Arrays) -> dict[str, Any]:
    """Return AP and AUC of every class against the truth, with its prevalence."""
    from sklearn.metrics import average_precision_score, roc_auc_score

    logits, _ = ask_oracle(oracle, data.images)
    out: dict[str, Any] = {}
    for c, name in enumerate(CLASS_NAMES):
        truth = data.labels[:, c] > 0.5
        if truth.any() and not truth.all():
            ap, auc = average_precision_score(truth, logits[:, c]), roc_auc_score(truth, logits[:, c])
            figures = {"ap": ap, "auc": auc, "prevalence": truth.mean()}
            out[name] = {k: round(float(v), 4) for k, v in figures.items()}
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

    settings, out = settings or OracleSettings(), Path(out_dir)
    data = lifted(settings.phantom, settings.n_images)
    checkpoints = Checkpoints(Path(ckpt_dir), fingerprint("oracle", settings.model_dump(mode="json")))
    for progress, model in train_oracle(data, settings, checkpoints):
        training, oracle = close(progress), model
        on_progress(progress)
    out.mkdir(parents=True, exist_ok=True)
    save_file({k: v.contiguous() for k, v in oracle.state_dict().items()}, str(out / WEIGHTS))
    test = natural(settings.phantom, settings.n_test, first=-(-settings.n_images // 8) * 8)
    write_json(out / RECORD, {
        "what": "oracle classifier of the phantom, trained on true labels",
        "command": "bench pretrain oracle", "settings": settings.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in oracle.parameters()), "data": NOTE,
        "test": evaluate_oracle(oracle, test), "n_test": settings.n_test, "training": training,
        "versions": versions(), "host": host_kind(),
    })  # fmt: skip
    return out
