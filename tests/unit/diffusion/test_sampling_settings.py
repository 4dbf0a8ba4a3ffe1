"""Guidance and the length of the schedule: what diffusers would take without a word, and what is refused instead."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest

from bench.config.validation import build
from bench.diffusion.folder import SCHEDULERS
from bench.diffusion.model import SHIPPED, DiffusionModel
from bench.diffusion.schedule import check_length, first_timestep
from bench.errors import ConfigError
from bench.matrix.inputs import check_weights, plan
from bench.matrix.load import load_matrix
from bench.pipeline.settings import Settings
from bench.pretrain.diffusion import DiffusionSettings
from methods.fusion.method import Fusion
from methods.roentgen import Roentgen
from methods.sdedit import Sdedit
from tests.unit.diffusion.diffusion_folders import build_folder

LEADING = {"_class_name": "DDIMScheduler", "timestep_spacing": "leading", "steps_offset": 1}


def noise(n: int = 1) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((n, 4, 8, 8)).astype(np.float32)


# --- guidance


@pytest.mark.parametrize("scale", [0, 0.5, 0.99, -1])
@pytest.mark.parametrize("cls", [DiffusionModel, Roentgen, Sdedit, Fusion])
def test_guidance_below_one_is_refused_with_the_reason(cls: type[Settings], scale: float) -> None:
    said = f"m.guidance_scale: want 1 or more, got {scale}; 1 means no guidance.*at 0 not at all"
    with pytest.raises(ConfigError, match=said):
        build(cls, {"guidance_scale": scale}, "m")
    assert build(cls, {"guidance_scale": 1}, "m")


def test_a_method_of_ones_own_cannot_ask_for_it_either() -> None:
    model = DiffusionModel().load()
    with pytest.raises(ConfigError, match="guidance_scale: want 1 or more, got 0"):
        model.sample(["x"], noise(), 2, 0.0)
    with pytest.raises(ConfigError, match="guidance_scale: want 1 or more"):
        model.denoise(noise(), ["x"], noise(), 1, 2, 0.5)


# --- the length of the schedule


def schedulers() -> list[tuple[Any, dict[str, Any]]]:
    """Return every known scheduler with every spacing, offset and kind of sigmas that it takes, and its settings."""
    found = []
    for name in SCHEDULERS:
        takes = inspect.signature(getattr(diffusers, name).__init__).parameters
        for spacing in ("leading", "linspace", "trailing", None):
            for karras in (False, True):
                wanted: dict[str, Any] = {"timestep_spacing": spacing, "use_karras_sigmas": karras, "steps_offset": 1}
                given = {k: v for k, v in wanted.items() if k in takes and v is not None}
                given |= {"skip_prk_steps": True} if "skip_prk_steps" in takes else {}
                found.append((getattr(diffusers, name)(beta_schedule="scaled_linear", **given), given))
    return found


def test_the_first_timestep_is_the_one_of_diffusers() -> None:
    for scheduler, given in schedulers():
        config = {"_class_name": type(scheduler).__name__, **given}
        for n in (1, 2, 7, 25, 75, 300, 334, 500, 501, 999):
            scheduler.set_timesteps(n)
            assert first_timestep(config, n) == pytest.approx(float(scheduler.timesteps.max()), abs=1), (config, n)


def test_what_is_accepted_begins_in_the_noise_and_is_in_the_range_of_the_training() -> None:
    """By the share of signal that diffusers' own table gives for the first timestep: .12 at 300 steps, .52 at 501."""
    table = diffusers.DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1)
    for n in range(8, 1001):
        table.set_timesteps(n)
        first = int(table.timesteps[0])
        share = float(table.alphas_cumprod[first] ** 0.5) if first < 1000 else 1.0
        try:
            check_length(LEADING, n)
        except ConfigError:
            assert share > 0.13, n
        else:
            assert share < 0.14, n


@pytest.mark.parametrize(
    ("config", "n", "said"),
    [
        (
            LEADING,
            1000,
            r"1000 steps of .* DDIMScheduler begin at timestep 1000 of 0 to 999.*; take 999 \(the most is 999\)",
        ),
        (LEADING, 501, r"begin at timestep 501 .*; take 500 or 874 \(the most is 999\)"),
        ({"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1}, 1000, "take 999"),
        ({"_class_name": "UniPCMultistepScheduler", "timestep_spacing": "leading"}, 1000, "begin at timestep 0"),
        (
            {**LEADING, "num_train_timesteps": 50},
            75,
            r"are too many, it was trained with 50; take 49 \(the most is 49\)",
        ),
        ({"_class_name": "PNDMScheduler"}, 3, "are too few, its Runge-Kutta start takes 4; take 4"),
    ],
)
def test_other_lengths_are_refused_with_what_is_allowed(config: dict[str, Any], n: int, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_length(config, n)


@pytest.mark.parametrize("spacing", ["trailing", "linspace"])
def test_with_other_spacings_every_length_begins_in_the_noise(spacing: str) -> None:
    for n in range(1, 1001):
        check_length({**LEADING, "timestep_spacing": spacing}, n)


def test_a_sampler_is_not_run_on_such_a_schedule() -> None:
    with pytest.raises(ConfigError, match="num_inference_steps: 501 steps"):
        DiffusionModel().load().sample(["x"], noise(), 501, 1.0)


ROWS = ["roentgen@1000", "roentgen@501", "{method: sdedit@2, settings: {num_inference_steps: 1000}}",
        "{method: ours@2, settings: {num_inference_steps: 600}}"]  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
@pytest.mark.parametrize("shape", [None, "sd15"])
def test_a_matrix_with_such_a_row_is_refused_before_anything_is_computed(
    row: str, shape: str | None, tmp_path: Path
) -> None:
    folder = build_folder(tmp_path / "sd", shape) if shape else SHIPPED
    sets = [f"methods=[baseline, {row}]", f"diffusion={{folder: '{folder}'}}"]
    with pytest.raises(ConfigError, match=r"toy.yaml: row .*: num_inference_steps: \d+ steps .* \(the most is 999\)"):
        check_weights(load_matrix("toy", sets), "toy.yaml")
    (missing,) = plan("toy", sets).missing
    assert missing.what.startswith("row ")
    assert missing.said.startswith("num_inference_steps: ")


def test_a_training_is_refused_that_could_draw_no_sample_at_its_end() -> None:
    for given in ({"grid_steps": 1000}, {"model": {"train_timesteps": 50}}):
        with pytest.raises(ConfigError, match=r"grid_steps: \d+ steps"):
            build(DiffusionSettings, given, "pretrain")
