"""What does the harness add to a training? The classifier's stage against a bare loop over the same tensors.

Both train a DenseNet121 on the same batches in the same order from the same initial weights, with the same optimiser,
schedule and number of evaluations, and write their weights at the end. The stage also reads images through a memory
map, masks unknown labels, tells its progress, keeps the best weights, checkpoints, and digests and syncs its result.
Runs are interleaved, and each pair gives one ratio, so that a slow spell of the machine falls on both.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import common
from benchmarks.common import Figure

if TYPE_CHECKING:
    from bench.classifier import Classifier
    from bench.store import Store

BOUND = 1.05
_PX, _BATCH = 64, 22  # of the demo


@dataclass(frozen=True)
class Tensors:
    """What the bare loop trains on, all in memory: images `uint8 [n, H, W]`, labels `float32 [n, C]`, rows a step."""

    images: Any
    labels: Any
    val_images: Any
    val_labels: Any
    rows: list[Any]
    seed: int


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--validations", type=int, default=3)
    parser.add_argument("--images", type=int, default=600, help="in all; half of them are trained on, a fifth val")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved runs of each")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where the store goes, kept [a temporary one]")
    given = parser.parse_args()
    with common.folder(given.folder, "bench-training-") as place:
        stage, store = prepared(place, given.images, given.steps, given.validations)
        tensors, weights = read(store, stage), place / "bare.pt"
        losses: dict[str, float] = {}

        def harness() -> None:
            losses["harness"] = compute(store, stage, given.threads)

        def bare() -> None:
            losses["bare"] = bare_loop(tensors, stage, weights)

        pairs = [(timed(harness), timed(bare)) for _ in range(given.pairs + 1)][1:]  # the first pair warms up
    figures = [
        Figure.of("harness / bare, wall", "", [h[0] / b[0] for h, b in pairs], BOUND),
        Figure.of("harness / bare, CPU time", "", [h[1] / b[1] for h, b in pairs]),
        Figure.of("harness", "s", [h[0] for h, _ in pairs]),
        Figure.of("bare loop", "s", [b[0] for _, b in pairs]),
    ]
    work = {"steps": given.steps, "evaluations": given.validations, "batch": _BATCH, "threads": given.threads}
    return common.report(figures, given.json, work=work, last_val_loss=losses)


def timed(run: Callable[[], None]) -> tuple[float, float]:
    """Return the wall and CPU seconds of a call."""
    started, used = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - started, time.process_time() - used


def prepared(root: Path, n_images: int, steps: int, validations: int) -> tuple[Classifier, Store]:
    """Return a classifier's stage whose inputs are all in the store."""
    from bench.matrix import build_matrix
    from bench.store import Store

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
    """Return the tensors of a stage, and the batches that it will draw."""
    import numpy as np
    import torch

    from bench.split import part_rows, train_set
    from bench.training import TrainingData

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


def compute(store: Store, stage: Classifier, threads: int) -> float:
    """Compute the stage anew and return its last loss on val."""
    from bench.store import Execution

    shutil.rmtree(store.folder(stage), ignore_errors=True)
    store.compute(stage, Execution(device="cpu", threads=threads))
    return float(store.open(stage).history[-1]["val_loss"])


def bare_loop(tensors: Tensors, stage: Classifier, weights: Path) -> float:
    """Train as anyone would in a page of torch and return the last loss on val."""
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
    loss = 0.0
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
    torch.save(network.state_dict(), weights)
    return loss


if __name__ == "__main__":
    sys.exit(main())
