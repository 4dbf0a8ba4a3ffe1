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


_SAVE_S = 15.0  # at most this much of a budget of time is lost by a kill
_TELL_S = 5.0


def train_steps(
    name: str,
    parts: Mapping[str, Part],
    total: int,
    do_step: Callable[[int], float],
    checkpoints: Checkpoints,
    every: int,
    seconds: float | None = None,
) -> Iterator[Progress]:
    """Run `do_step` to `total`, continuing from the newest checkpoint; yield a record at once and every few seconds.

    A training that is already complete yields its last record once. `spent` in a record is wall-clock and
    processor seconds over all runs. With a budget of `seconds` the training ends after the step at which they are
    spent; it then is the training of that many steps, and `total` is an estimate until its end.
    """
    step, curve, spent = 0, [], [0.0, 0.0]
    if (found := checkpoints.newest()) is not None:
        step, state = found
        curve, spent = state["curve"], state["spent"]
        for key, part in parts.items():
            part.load_state_dict(state[key])
    losses: list[float] = []
    began = time.monotonic() - spent[0], time.process_time() - spent[1]
    saved = told = spent[0]

    def is_over() -> bool:
        return step >= total or (seconds is not None and step > 0 and spent[0] >= seconds)

    def record() -> Progress:
        likely = total if seconds is None else max(step, min(total, round(step * seconds / max(spent[0], 1e-3))))
        told = {"part": name, "step": step, "total": step if is_over() else likely, "curve": curve, "spent": spent}
        return told | ({"loss": curve[-1][1]} if curve else {})

    yield record()  # from here on the time is measured that an estimate is made of
    while not is_over():
        losses.append(do_step(step))
        step += 1
        spent = [time.monotonic() - began[0], time.process_time() - began[1]]
        if step % every == 0 or is_over() or (seconds is not None and spent[0] - saved >= _SAVE_S):
            curve = [*curve, [step, round(float(np.mean(losses)), 5)]]
            losses, saved = [], spent[0]
            states = {k: p.state_dict() for k, p in parts.items()}
            checkpoints.save(step, {"curve": curve, "spent": spent, **states})
        elif spent[0] - told < _TELL_S:
            continue
        told = spent[0]
        yield record()
