"""What does the harness add to a training? Compare the classifier's stage with a bare loop over the same tensors.

Both train a DenseNet121 on the same batches in the same order from the same initial weights, with the same optimiser,
schedule and number of evaluations, and write their weights at the end. The stage also reads images through a memory
map, masks unknown labels, reports progress, keeps the best weights, writes checkpoints, and digests and syncs its
result. The two take their steps in turn, so that other work on the machine slows down both. The bare loop takes a step
whenever the stage reports progress, and that time is subtracted from the stage's.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common
from benchmarks.common import Figure

if TYPE_CHECKING:
    import torch

    from bench.classifier.classifier import Classifier
    from bench.store.store import Store

BOUND = 1.05
_PX, _BATCH = 64, 22  # as in the demo matrix


@dataclass(frozen=True)
class Tensors:
    """Data of the bare loop, in memory: images `uint8 [n, H, W]`, labels `float32 [n, C]`, the rows of each step."""

    images: torch.Tensor
    labels: torch.Tensor
    val_images: torch.Tensor
    val_labels: torch.Tensor
    rows: list[torch.Tensor]
    seed: int


@dataclass
class Clock:
    """Measures wall and CPU seconds between two calls of `lap`."""

    wall: float = 0.0
    cpu: float = 0.0

    def lap(self) -> tuple[float, float]:
        """Return the wall and CPU seconds since the last call."""
        now = time.perf_counter(), time.process_time()
        taken = now[0] - self.wall, now[1] - self.cpu
        self.wall, self.cpu = now
        return taken


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--validations", type=int, default=3)
    parser.add_argument("--images", type=int, default=600, help="in all; half of them are trained on, a fifth val")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the store goes, kept [a temporary one]")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(given.threads)
    with common.folder(given.folder, "bench-training-") as place:
        stage, store = prepared(place, given.images, given.steps, given.validations)
        tensors = read(store, stage)
        # The first step and evaluation of a shape build its kernels. They run here once, so that neither side pays for
        # both.
        list(bare_loop(replace(tensors, rows=tensors.rows[:2]), stage, store.root / "bare.pt"))
        runs = [by_turns(store, stage, tensors, given.threads) for _ in range(given.runs)]
    steps = [(h, b) for run in runs for h, b in zip(run["harness steps"], run["bare steps"], strict=True)]
    figures = [
        Figure.of("harness / bare, whole, wall", "", [r["harness"][0] / r["bare"][0] for r in runs], BOUND),
        Figure.of("harness / bare, whole, CPU", "", [r["harness"][1] / r["bare"][1] for r in runs]),
        Figure.of("harness / bare, each step, wall", "", [h[0] / b[0] for h, b in steps]),
        Figure.of("harness / bare, each step, CPU", "", [h[1] / b[1] for h, b in steps]),
        Figure.of("harness, before and after the steps, CPU", "s", [r["harness around"] for r in runs]),
        Figure.of("bare loop, before and after the steps, CPU", "s", [r["bare around"] for r in runs]),
        Figure.of("harness, whole", "s", [r["harness"][0] for r in runs]),
        Figure.of("bare loop, whole", "s", [r["bare"][0] for r in runs]),
    ]
    work = {"steps": given.steps, "evaluations": given.validations, "batch": _BATCH, "threads": given.threads}
    losses = {"harness": runs[-1]["harness loss"], "bare": runs[-1]["bare loss"]}
    return common.report(figures, given.json, work=work, last_val_loss=losses)


def by_turns(store: Store, stage: Classifier, tensors: Tensors, threads: int) -> dict[str, Any]:
    """Compute the stage again, in turn with the bare loop; return the seconds and the last loss on val of each."""
    from bench.store.work import Execution

    shutil.rmtree(store.folder(stage), ignore_errors=True)
    clock, harness, bare = Clock(), list[tuple[float, float]](), list[tuple[float, float]]()
    loop, losses = bare_loop(tensors, stage, store.root / "bare.pt"), list[float]()

    def turn(told: object, done: float, total: float, note: str) -> None:
        if told is stage:
            harness.append(clock.lap())
            losses.append(next(loop))
            bare.append(clock.lap())

    clock.lap()
    next(loop)  # builds its network, as the stage does before its first step
    bare.append(clock.lap())
    store.compute(stage, Execution(device="cpu", threads=threads, on_progress=turn))
    harness.append(clock.lap())
    losses += list(loop)
    bare.append(clock.lap())
    return {
        "harness": tuple(map(sum, zip(*harness, strict=True))),
        "bare": tuple(map(sum, zip(*bare, strict=True))),
        "harness steps": harness[1:-1],  # the first lap is building the network, the last is saving it
        "bare steps": bare[2:-1],
        "harness around": harness[0][1] - harness[1][1] + harness[-1][1],
        "bare around": bare[0][1] + bare[-1][1],
        "harness loss": float(store.open(stage).history[-1]["val_loss"]),
        "bare loss": losses[-1],
    }


def prepared(root: Path, n_images: int, steps: int, validations: int) -> tuple[Classifier, Store]:
    """Return a classifier's stage and the store with its finished inputs."""
    from bench.matrix.build import build_matrix
    from bench.store.store import Store

    raw = {
        "name": "training",
        "datasets": [{"kind": "phantom", "n_images": n_images, "image_px": _PX, "prevalence_floor": 0.06}],
        "split": {"min_positives": 1},
        "methods": ["baseline"],
        "classifier": {"steps": steps, "batch_size": _BATCH, "n_validations": validations},
    }
    stage, store = build_matrix(raw, "benchmarks.training").cells[0].classifier, Store(root)
    for below in stage.inputs():
        store.get(below)
    return stage, store


def read(store: Store, stage: Classifier) -> Tensors:
    """Return the tensors of a stage and the batches that it will draw."""
    import numpy as np
    import torch

    from bench.classifier.training import TrainingData
    from bench.data.split import part_rows, train_set

    train, (val_images, val_labels, _) = train_set(store, stage.train), part_rows(store, stage.split, "val")
    added = store.get(stage.augmented)
    data = TrainingData(train.images, train.labels, added.images, added.labels)
    per_epoch = max(1, len(data) // _BATCH)
    n_epochs = -(-(stage.settings.steps or 0) // per_epoch)
    orders = [data.order(stage.seed, epoch)[: per_epoch * _BATCH] for epoch in range(n_epochs)]
    rows = torch.from_numpy(np.concatenate(orders)).split(_BATCH)[: stage.settings.steps]
    known = (torch.from_numpy(np.nan_to_num(np.array(x))) for x in (train.labels, val_labels))
    labels, of_val = known
    images, val = (torch.from_numpy(x[:]) for x in (train.images, val_images))
    return Tensors(images, labels, val, of_val, list(rows), stage.seed)


def bare_loop(tensors: Tensors, stage: Classifier, weights: Path) -> Iterator[float]:
    """Train with a page of plain torch; yield the last loss on val, once when ready and then after each step."""
    import torch
    import torchvision
    from sklearn.metrics import average_precision_score
    from torch.nn.functional import binary_cross_entropy_with_logits as bce

    from bench import seeds

    s, n_steps = stage.settings, len(tensors.rows)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))

    def pixels(images: torch.Tensor) -> torch.Tensor:
        return ((images[:, None].float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)

    torch.manual_seed(seeds.derive(tensors.seed, "init"))
    network = torchvision.models.densenet121(weights=None, num_classes=tensors.labels.shape[1])
    network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(network.parameters(), lr=s.learning_rate, weight_decay=s.weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, s.learning_rate, total_steps=n_steps, cycle_momentum=False
    )
    evaluations = {round(n_steps * (i + 1) / s.n_validations) for i in range(s.n_validations)}
    loss = float("nan")
    yield loss
    for step, rows in enumerate(tensors.rows, start=1):
        network.train()
        error = bce(network(pixels(tensors.images[rows])), tensors.labels[rows])
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        schedule.step()
        error.item()
        if step in evaluations:
            network.eval()
            with torch.inference_mode():
                logits = torch.cat([network(pixels(part)) for part in tensors.val_images.split(256)])
            loss = float(bce(logits, tensors.val_labels))
            average_precision_score(tensors.val_labels.numpy(), logits.numpy(), average="macro")
        yield loss
    torch.save(network.state_dict(), weights)


if __name__ == "__main__":
    sys.exit(main())
