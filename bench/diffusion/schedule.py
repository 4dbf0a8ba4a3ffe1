"""The settings of sampling: guidance, the length of the schedule, and the place where it is entered.

A schedule can be entered in the middle, with any solver. Solvers that add noise in their steps are seeded.
"""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from pydantic import AfterValidator, Field

from bench.errors import ConfigError
from bench.tables import Float32

if TYPE_CHECKING:
    from torch import Tensor

# Solvers that divide the schedule into one part more than they have steps, with their first step one part below it.
_MULTISTEP = ("DEISMultistepScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
_LEADING = ("DDIMScheduler", "DDPMScheduler", "PNDMScheduler")  # by default; all others have `linspace`
_OTHER_SIGMAS = ("use_karras_sigmas", "use_exponential_sigmas", "use_beta_sigmas", "use_lu_lambdas")


def check_guidance(scale: float) -> float:
    """Return the scale of classifier-free guidance if it is 1 or more.

    Raises:
        ValueError: if it is less.
    """
    if scale < 1:
        raise ValueError(
            f"want 1 or more, got {scale:g}; 1 means no guidance, the prompt alone. Below 1 the prompt would count "
            "less than in plain sampling, and at 0 not at all (in diffusers, 0 to 1 all mean the same as 1 here)"
        )
    return scale


GuidanceScale = Annotated[float, Field(le=100), AfterValidator(check_guidance)]


def first_timestep(config: Mapping[str, Any], num_inference_steps: int) -> int:
    """Return the timestep at which a schedule of that length begins, from the scheduler's configuration file."""
    trained, n = _trained(config), num_inference_steps
    kind = config.get("_class_name")
    spacing = config.get("timestep_spacing") or ("leading" if kind in _LEADING else "linspace")
    if kind == "DPMSolverSinglestepScheduler" or (kind in _MULTISTEP and any(config.get(k) for k in _OTHER_SIGMAS)):
        return trained - 1
    if spacing == "leading":
        steps, parts = (n, n + 1) if kind in _MULTISTEP else (n - 1, n)
        return steps * (trained // parts) + int(config.get("steps_offset", 0))
    return 0 if spacing == "linspace" and n == 1 and kind not in _MULTISTEP else trained - 1


def check_length(config: Mapping[str, Any], num_inference_steps: int, field: str = "num_inference_steps") -> None:
    """Refuse a length at which the schedule does not begin in noise.

    Sampling starts from pure noise. A schedule with `leading` spacing has a whole stride and drops the remainder: 501
    steps of 1,000 timesteps have stride 1 and begin at timestep 501. The model then takes pure noise for an image that
    is half visible, and draws a pale one.

    Raises:
        ConfigError: naming `field`, where the schedule would begin, and the nearest lengths that are allowed.
    """
    if (fault := _fault(config, num_inference_steps)) is None:
        return
    fine = [n for n in range(1, _trained(config) + 1) if _fault(config, n) is None]
    near = [*[n for n in fine if n < num_inference_steps][-1:], *[n for n in fine if n > num_inference_steps][:1]]
    take = f"take {' or '.join(map(str, near))} (the most is {fine[-1]})" if fine else "its steps_offset fits no length"
    kind = config.get("_class_name", "scheduler")
    raise ConfigError(f"{field}: {num_inference_steps} steps of this model's {kind} {fault}; {take}")


def _trained(config: Mapping[str, Any]) -> int:
    return int(config.get("num_train_timesteps", 1000))


def _fault(config: Mapping[str, Any], n: int) -> str | None:
    """Return what is wrong with a schedule of `n` steps, or None."""
    trained = _trained(config)
    if n > trained:
        return f"are too many, it was trained with {trained}"
    if config.get("_class_name") == "PNDMScheduler" and not config.get("skip_prk_steps") and n < 4:
        return "are too few, its Runge-Kutta start takes 4"
    # A schedule begins in the noisiest eighth. One of few steps cannot, because its strides are longer than that.
    first, lowest = first_timestep(config, n), trained - 1 - max(trained / 8, 2 * trained / n)
    return None if lowest <= first < trained else f"begin at timestep {first} of 0 to {trained - 1}, not in the noise"


def last_steps(scheduler: Any, wanted: int, num_inference_steps: int, device: str) -> Tensor:
    """Prepare `scheduler` for the last `wanted` of `num_inference_steps` steps, and return the timesteps to evaluate.

    A step may need several evaluations, so the list of timesteps cannot simply be cut at any place. Second-order
    solvers (`order` 2) evaluate in pairs. PNDM (Liu et al. 2022) evaluates the second timestep twice to start its
    multistep rule, wherever it begins. If the list were cut after that, the second evaluation would be missing, and the
    latent would stay one step noisier than the schedule assumes.

    Raises:
        ConfigError: if there are fewer steps than `wanted`, the schedule does not begin in noise (see `check_length`),
            or the scheduler cannot be entered in the middle.
    """
    import torch

    if not 1 <= wanted <= num_inference_steps:
        raise ConfigError(f"denoise_steps: got {wanted}, allowed 0 to num_inference_steps = {num_inference_steps}")
    check_length({**scheduler.config, "_class_name": type(scheduler).__name__}, num_inference_steps)
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
