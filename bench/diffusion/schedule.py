"""Enters a sampling schedule in the middle, with any solver, and seeds the solvers that add noise in their steps."""

from __future__ import annotations

import hashlib
import inspect
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ConfigError
from bench.tables import Float32

if TYPE_CHECKING:
    from torch import Tensor


def last_steps(scheduler: Any, wanted: int, num_inference_steps: int, device: str) -> Tensor:
    """Prepare `scheduler` for the last `wanted` of `num_inference_steps` steps, and return the timesteps to evaluate.

    A step may need several evaluations, so the list of timesteps cannot simply be cut at any place. Second-order
    solvers (`order` 2) evaluate in pairs. PNDM (Liu et al. 2022) evaluates the second timestep twice to start its
    multistep rule, wherever it begins. If the list were cut after that, the second evaluation would be missing, and the
    latent would stay one step noisier than the schedule assumes.

    Raises:
        ConfigError: if there are fewer steps than `wanted`, or the scheduler cannot be entered in the middle.
    """
    import torch

    if not 1 <= wanted <= num_inference_steps:
        raise ConfigError(f"denoise_steps: got {wanted}, allowed 0 to num_inference_steps = {num_inference_steps}")
    scheduler.set_timesteps(num_inference_steps, device=device)
    skipped = num_inference_steps - wanted
    if not hasattr(scheduler, "plms_timesteps"):
        first = skipped * int(scheduler.order)
        if hasattr(scheduler, "set_begin_index"):
            # Without it a solver looks up its position from the first timestep, which may occur twice in the list.
            scheduler.set_begin_index(first)
        return scheduler.timesteps[first:]
    if not skipped:
        return scheduler.timesteps
    if not scheduler.config.skip_prk_steps:
        raise ConfigError(
            "diffusion.scheduler: PNDM with a Runge-Kutta start cannot be entered in the middle; "
            "set skip_prk_steps to true in scheduler_config.json, as Stable Diffusion does"
        )
    # PNDM: remove the repeated second timestep, cut the list, and repeat the second timestep of what is left.
    last = list(dict.fromkeys(scheduler.timesteps.tolist()))[skipped:]
    return torch.tensor([*last[:2], *last[1:]], device=device)


def stochastic_step(scheduler: Any, start: Float32) -> dict[str, Any]:
    """Return the extra arguments of `scheduler.step`: a generator per sample if the scheduler draws noise, else none.

    A generator is seeded with the sample's starting latent. So an ancestral sampler gives the same sample in any batch,
    and torch's global generator is not touched.
    """
    import torch

    if "generator" not in inspect.signature(scheduler.step).parameters:
        return {}
    digests = (hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in start)
    return {"generator": [torch.Generator().manual_seed(int.from_bytes(d[:7], "big")) for d in digests]}
