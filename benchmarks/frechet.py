"""Is the Fréchet distance as fast as torchmetrics' at every size? CPU seconds of both, alternating, from features.

Both get the same features. torchmetrics' time is that of `compute` on the moments that it keeps, in float64, and of
adding up these moments, since ours begins from the features as well.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torchmetrics.image.fid import _compute_fid  # its class would need weights, or a stand-in for them

from bench.metrics.frechet import Features, frechet_distance
from benchmarks import common
from benchmarks.common import Figure

SIZES = ((100, 3_000), (100, 10_000), (2_000, 3_000), (10_000, 10_000))
BOUND = 1.0  # ours / theirs


def main() -> int:
    """Measure and report."""
    parser = common.parser(__doc__)
    parser.add_argument("--width", type=int, default=1024, help="features; DenseNet121 has 1024, Inception 2048")
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # numpy's linear algebra, which otherwise takes all cores, as no stage does
    figures: list[Figure] = []
    for n, m in SIZES:
        a, b = features(n, given.width, 0), features(m, given.width, 1)
        ours, theirs, ratios = [], [], []
        for _ in range(given.repeats):
            started = time.process_time()
            value = frechet_distance(a, b)
            between = time.process_time()
            peer = torchmetrics_distance(a, b)
            ended = time.process_time()
            ours.append(between - started)
            theirs.append(ended - between)
            ratios.append(ours[-1] / theirs[-1])
        apart = abs(value - peer) / peer
        figures.append(Figure.of(f"{n} against {m}: ours / torchmetrics", "", ratios, BOUND))
        figures.append(Figure.of(f"{n} against {m}: ours", "s", ours))
        figures.append(Figure.of(f"{n} against {m}: torchmetrics", "s", theirs))
        figures.append(Figure.of(f"{n} against {m}: relative difference", "", [apart], 1e-3))
    return common.report(figures, given.json, width=given.width)


def features(n: int, width: int, seed: int) -> Features:
    """Return correlated features without negative values, as a network's last layer has them, `float32 [n, width]`."""
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(9).normal(size=(width, width)) * np.exp(-np.arange(width) / (width / 5))
    return np.maximum(rng.normal(size=(n, width)) @ mix + 1 + 0.2 * seed, 0).astype(np.float32)


def torchmetrics_distance(a: Features, b: Features) -> float:
    """Return the distance as torchmetrics computes it, from the sums that it keeps while it is given batches."""
    moments = []
    for x in (a, b):
        batch = torch.from_numpy(x).double()
        total, cross = batch.sum(dim=0), batch.t().mm(batch)
        mean = (total / len(x)).unsqueeze(0)
        moments += [mean.squeeze(0), (cross - len(x) * mean.t().mm(mean)) / (len(x) - 1)]
    return float(_compute_fid(*moments))


if __name__ == "__main__":
    raise SystemExit(main())
