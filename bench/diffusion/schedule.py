"""The last steps of a schedule, whatever the solver: where to enter it, and the noise that some solvers add."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import numpy as np

from bench.errors import ConfigError
from bench.tables import Float32


def last_steps(scheduler: Any, wanted: int, num_inference_steps: int, device: str) -> Any:
    """Set `scheduler` to `num_inference_steps`, ready for its last `wanted`; return the timesteps to evaluate at.

    A schedule may hold several evaluations a step, and those of a step differ in kind with their place:
    second-order solvers (`order` 2) come in pairs; PNDM (Liu et al. 2022) starts its multistep rule by evaluating
    the second timestep twice, wherever it is started. Cutting its list in the middle would drop that second
    evaluation and leave the latent one step noisier than the schedule believes.

    Raises:
        ConfigError: if there are fewer steps than asked for, or the scheduler cannot be entered in the middle.
    """
    import torch

    if not 1 <= wanted <= num_inference_steps:
        raise ConfigError(f"denoise_steps: got {wanted}, allowed 0 to num_inference_steps = {num_inference_steps}")
    scheduler.set_timesteps(num_inference_steps, device=device)
    skipped = num_inference_steps - wanted
    if not hasattr(scheduler, "plms_timesteps"):
        first = skipped * int(scheduler.order)
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(first)
        return scheduler.timesteps[first:]
    if not skipped:
        return scheduler.timesteps
    if not scheduler.config.skip_prk_steps:
        raise ConfigError(
            "diffusion.scheduler: PNDM with a Runge-Kutta start cannot be entered in the middle; "
            "set skip_prk_steps to true in scheduler_config.json, as Stable Diffusion does"
        )
    last = list(dict.fromkeys(scheduler.timesteps.tolist()))[skipped:]
    return torch.tensor([*last[:2], *last[1:]], device=device)


def stochastic_step(scheduler: Any, start: Float32) -> dict[str, Any]:
    """Return the `generator` argument for schedulers that draw noise in `step`: one a sample, seeded by its start.

    So an ancestral sampler gives the same sample in any batch and leaves torch's global generator alone.
    """
    import torch

    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    digests = (hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in start)
    return {"generator": [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]}
