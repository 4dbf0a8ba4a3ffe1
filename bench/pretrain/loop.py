"""The loop that all trainings share: seeded by step, so that a resume continues the same run."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from bench.pipeline.checkpoints import Checkpoints
from bench.pretrain.record import Progress
from bench.seeds import derive


class Part(Protocol):
    """Anything with a state: a module, an optimizer, a schedule, an average of weights."""

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take the state over."""


@lru_cache(maxsize=2)
def _order(n: int, root: int, name: str, epoch: int) -> NDArray[np.int64]:
    return np.random.default_rng(derive(root, f"{name} order", epoch)).permutation(n)


def batch_at(n: int, batch_size: int, root: int, name: str, step: int) -> NDArray[np.int64]:
    """Return the indices of the batch of a step: every epoch is one permutation, cut into batches."""
    size = min(batch_size, n)
    epoch, position = divmod(step, n // size)
    return _order(n, root, name, epoch)[position * size : (position + 1) * size]


def noise_at(root: int, name: str, step: int) -> torch.Generator:
    """Return the torch generator of a step."""
    return torch.Generator().manual_seed(derive(root, f"{name} noise", step))


def train_steps(
    name: str,
    parts: Mapping[str, Part],
    total: int,
    do_step: Callable[[int], float],
    checkpoints: Checkpoints,
    every: int,
) -> Iterator[Progress]:
    """Run `do_step` to `total`, continuing from the newest checkpoint; yield a record at each save.

    A training that is already complete yields its last record once. `spent` in a record is wall-clock and
    processor seconds over all runs.
    """
    step, curve, spent = 0, [], [0.0, 0.0]
    if (found := checkpoints.newest()) is not None:
        step, state = found
        curve, spent = state["curve"], state["spent"]
        for key, part in parts.items():
            part.load_state_dict(state[key])
    if step >= total:
        yield {"part": name, "step": step, "total": total, "curve": curve, "spent": spent}
    losses: list[float] = []
    began = time.monotonic() - spent[0], time.process_time() - spent[1]
    while step < total:
        losses.append(do_step(step))
        step += 1
        if step % every == 0 or step == total:
            curve = [*curve, [step, round(float(np.mean(losses)), 5)]]
            losses = []
            spent = [time.monotonic() - began[0], time.process_time() - began[1]]
            states = {k: p.state_dict() for k, p in parts.items()}
            checkpoints.save(step, {"curve": curve, "spent": spent, **states})
            yield {"part": name, "step": step, "total": total, "loss": curve[-1][1], "curve": curve, "spent": spent}
