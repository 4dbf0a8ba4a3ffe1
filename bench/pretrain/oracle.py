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
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.data.kinds.phantom import CLASS_NAMES, PhantomSettings
from bench.evaluation.oracle import (
    Oracle,
    ask_oracle,
    build_oracle,
    to_input,
)
from bench.evaluation.shipped_oracle import ORACLE_WEIGHTS
from bench.files import write_json
from bench.pipeline.checkpoints import Checkpoints, fingerprint
from bench.pipeline.settings import Settings
from bench.pretrain.loop import batch_at, train_steps
from bench.pretrain.phantom_data import ASSET_SEED, NOTE, Arrays, lifted, natural
from bench.pretrain.record import OnProgress, Progress, close, host_kind
from bench.seeds import derive
from bench.store.manifest import versions


class OracleSettings(Settings):
    """How the oracle is trained."""

    seed: int = 0
    n_images: int = Field(default=20_000, ge=16)
    n_test: int = Field(default=4_000, ge=16, description="held out, natural prevalence")
    epochs: int = Field(default=4, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    checkpoint_every: int = Field(default=400, ge=1, description="optimizer steps")
    phantom: PhantomSettings = PhantomSettings(seed=ASSET_SEED)


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
    save_file({k: v.contiguous() for k, v in oracle.state_dict().items()}, str(out / ORACLE_WEIGHTS))
    test = natural(settings.phantom, settings.n_test, first=-(-settings.n_images // 8) * 8)
    write_json(out / "record.json", {
        "what": "oracle classifier of the phantom, trained on true labels",
        "command": "bench pretrain oracle", "settings": settings.model_dump(mode="json"),
        "parameters": sum(p.numel() for p in oracle.parameters()), "data": NOTE,
        "test": evaluate_oracle(oracle, test), "n_test": settings.n_test, "training": training,
        "versions": versions(), "host": host_kind(),
    })  # fmt: skip
    return out
