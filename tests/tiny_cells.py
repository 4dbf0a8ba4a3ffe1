"""A matrix of seconds, with a method of its own that has settings to vary: what tests of trackers and sweeps run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from pydantic import Field

from bench.contract import AugmentedBatch, Context, Method, Settings, TrainSet
from bench.plugins import registry
from methods.baseline import Baseline


class Noise(Settings):
    level: int = Field(3, ge=0, le=50)
    kind: Literal["none", "grey"] = "grey"


class Copies(Method):
    """Copies of real images with noise on them; fails and declines on demand."""

    name: ClassVar[str] = "copies"
    at: ClassVar[str | None] = "shift"

    shift: int = Field(0, ge=0, le=5)
    noise: Noise = Noise()
    gain: float = Field(1.0, gt=0)
    fails: bool = False
    declines: bool = False

    def augment(self, ctx: Context) -> Iterator[AugmentedBatch]:
        if self.fails:
            raise RuntimeError("asked to fail, /secret/path")
        for index in ctx.batches(8):
            rows = np.array([ctx.rng(i).choice(ctx.train.rows_with(ctx.samples[i])) for i in index])
            drawn = [ctx.rng(i).integers(0, self.noise.level + 1, ctx.train.images[:1].shape[1:]) for i in index]
            images = np.clip(ctx.train.images[rows] * self.gain + np.stack(drawn), 0, 255).astype(np.uint8)
            yield AugmentedBatch(np.roll(images, self.shift, axis=2), ctx.train.labels[rows], rows[:, None])

    def skip(self, train: TrainSet) -> str | None:
        return "declines on request" if self.declines else None


def tiny(**changes: Any) -> dict[str, Any]:
    """Return a matrix file's content: two methods, one seed, a few dozen images, four steps of training."""
    return {
        "name": "tiny",
        "datasets": [{"kind": "phantom", "n_images": 160, "prevalence_floor": 0.08}],
        "split": {"val": 0.3, "test": 0.3, "min_positives": 1},
        "augment": {"per_class": 2},
        "methods": ["baseline", "copies@1"],
        "settings": {"copies": {"noise": {"level": 4}}},
        "classifier": {"architecture": "resnet18", "steps": 2, "batch_size": 8, "n_validations": 2},
        "seeds": [0],
    } | changes


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry know the two methods of this module's matrix, and nothing else."""
    torch.set_num_threads(1)
    monkeypatch.setattr(registry, "methods", lambda: {"baseline": Baseline, "copies": Copies})
