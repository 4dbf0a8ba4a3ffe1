"""What `gpu` measures, at which sizes: the package's own training and codec, on random data with random weights."""

from __future__ import annotations

import contextlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import bench.matrix
from bench.augment.latents import LatentTable
from bench.classifier.settings import ClassifierSettings
from bench.classifier.training import Training, TrainingData
from bench.tables import Float32, UInt8
from benchmarks.gpu_clock import Enough
from benchmarks.gpu_diffusion import CLASSES, STABLE_DIFFUSION, TINY_DIFFUSION, Parts
from methods.fusion.iterated_learning import IteratedLearning, Progress
from methods.fusion.settings import CodecSettings

_ENDLESS = 10**6  # steps; a callback stops the training


@dataclass(frozen=True)
class Sizes:
    """What is measured at which size.

    Attributes:
        classifier, pictures_px, image_px, batches, n_pictures: the classifier's; pictures are resized to `image_px`.
        parts, latent_px, at_once, denoise_steps, schedule: the diffusion model's; `at_once` is the batch.
        codec, latents: the codec's settings, and the number of latents.
        job, job_px, jobs, job_s: architecture and side of what the jobs train, numbers of jobs, seconds of a window.
        most: repeats of what is short.
    """

    classifier: Any
    pictures_px: int
    image_px: int
    batches: tuple[int, ...]
    n_pictures: int
    parts: Parts
    latent_px: int
    at_once: int
    denoise_steps: tuple[int, int]
    schedule: int
    codec: CodecSettings
    latents: int
    job: Any
    job_px: int
    jobs: tuple[int, ...]
    job_s: float
    most: int


def paper_codec() -> dict[str, Any]:
    """Return the settings of the codec in the shipped matrix `paper`."""
    import yaml

    matrix = Path(bench.matrix.__file__).parent / "shipped" / "paper.yaml"
    return dict(yaml.safe_load(matrix.read_text(encoding="utf-8"))["settings"]["ours"]["codec"])


FULL = Sizes(
    classifier="densenet121", pictures_px=512, image_px=224, batches=(32, 128), n_pictures=512,
    parts=STABLE_DIFFUSION, latent_px=64, at_once=32, denoise_steps=(5, 75), schedule=75,
    codec=CodecSettings(**paper_codec() | {"generations": 2, "interaction_epochs": 3, "imitation_epochs": 3}),
    latents=4 * 256 + 1, job="resnet18", job_px=64, jobs=(1, 2, 4), job_s=3.0, most=20,
)  # fmt: skip
TINY = Sizes(
    classifier="resnet18", pictures_px=40, image_px=32, batches=(2, 4), n_pictures=16,
    parts=TINY_DIFFUSION, latent_px=8, at_once=2, denoise_steps=(1, 4), schedule=4,
    codec=CodecSettings(width=4, downsamplings=1, vocab_size=4, generations=2, interaction_epochs=3, imitation_epochs=3,
                        batch_size=4),
    latents=4 * 4 + 1, job="resnet18", job_px=32, jobs=(1, 2), job_s=0.2, most=3,
)  # fmt: skip


def pictures(n: int, px: int) -> tuple[UInt8, Float32]:
    """Return random pictures, `uint8 [n, px, px]`, and labels, `float32 [n, 19]`; each class has a positive one."""
    rng = np.random.default_rng(0)
    labels = (rng.random((n, len(CLASSES))) < 0.1).astype(np.float32)
    labels[np.arange(len(CLASSES)) % n, np.arange(len(CLASSES))] = 1
    return rng.integers(0, 256, (n, px, px), dtype=np.uint8), labels


def training(architecture: Any, n: int, px: int, batch: int, device: str, **settings: Any) -> Training:
    """Return the training of a classifier on random pictures, as the classifier's stage makes it."""
    images, labels = pictures(n, px)
    data = TrainingData(images, labels, images[:0], labels[:0])
    chosen = ClassifierSettings(
        architecture=architecture, steps=_ENDLESS, batch_size=batch, n_validations=1, **settings
    )
    return Training(chosen, 0, data, device, lambda network: ({"val_loss": 0.0}, None))


def codec_learning(settings: CodecSettings, n: int, latent_px: int, device: str) -> IteratedLearning:
    """Return the training of a codec on random latents, as the codec's stage makes it."""
    _, labels = pictures(n, 1)
    return IteratedLearning(settings, latent_table(n, latent_px), labels, 0, device)


def latent_table(n: int, latent_px: int) -> LatentTable:
    """Return random latents of four channels."""
    mean = np.random.default_rng(0).standard_normal((n, 4, latent_px, latent_px), dtype=np.float32)
    return LatentTable(mean, np.full_like(mean, 0.1))


def run_until_enough(subject: Training | IteratedLearning, after_step: Progress) -> None:
    """Train until `after_step` raises `Enough`. Checkpoints go to a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="bench-gpu-") as folder, contextlib.suppress(Enough):
        subject.run(Path(folder), after_step)
