"""Trains a small Stable Diffusion pipeline on any data set's train split and writes it as a folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator

from bench.diffusion.prompts import prompt_for
from bench.diffusion.schedule import check_length
from bench.errors import ConfigError, DataError
from bench.files import read_json_or_raise, write_json
from bench.pipeline.checkpoints import Checkpoints, fingerprint
from bench.pipeline.settings import Settings
from bench.pixels import are_images, has_colour
from bench.pretrain.networks import (
    Autoencoder,
    ModelSettings,
    Pipeline,
    assemble,
    build_scheduler,
    build_text,
    save_pipeline,
    scheduler_settings,
)
from bench.pretrain.record import OnProgress, close, host_kind
from bench.pretrain.sampling import sample_images, save_grid
from bench.pretrain.unet import UnetSettings, train_unet
from bench.pretrain.vae import VaeSettings, encode_moments, reconstruct, set_scale, steps_in, train_vae
from bench.seeds import derive
from bench.store.manifest import versions

GRID_GUIDANCE = 3.5
VAE_SHARE = 0.25  # of a budget of time


class DiffusionSettings(Settings):
    """Everything that decides the weights, next to the images and labels."""

    seed: int = 0
    model: ModelSettings = ModelSettings()
    vae: VaeSettings = VaeSettings()
    unet: UnetSettings = UnetSettings()
    grid_steps: int = Field(default=75, ge=1, description="sampling steps of samples.png")
    data_note: str = Field(default="", description="where the images came from, for the record")

    @model_validator(mode="after")
    def _grid_can_be_drawn(self) -> DiffusionSettings:
        """Refuse, before the training, a number of steps with which no sample could be drawn after it."""
        try:
            check_length(scheduler_settings(self.model), self.grid_steps, "grid_steps")
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return self


def pretrain_diffusion(
    images: NDArray[np.uint8],
    labels: NDArray[np.float32],
    class_names: Sequence[str],
    out_dir: Path | str,
    ckpt_dir: Path | str,
    settings: DiffusionSettings | None = None,
    on_progress: OnProgress = lambda record: None,
    minutes: float | None = None,
) -> Path:
    """Train autoencoder, denoiser and text encoder; write the pipeline, `record.json` and `samples.png`.

    Run again with the same arguments to resume. With a budget of time, the settings in `record.json` name the numbers
    of steps that were reached in it. A training of those numbers gives the same weights.

    Args:
        images: Images, uint8 `[n, R, R]` or `[n, R, R, 3]`; R divisible by 8 times the autoencoder's downsampling.
        labels: `[n, C]`, above one half where the finding is present.
        class_names: Names of the C classes.
        out_dir: The folder to write, in diffusers' layout.
        ckpt_dir: Where the checkpoints live.
        settings: How to train.
        on_progress: Called with a record every few seconds and at every checkpoint.
        minutes: How long to train in all, instead of the numbers of steps in the settings.

    Returns:
        The pipeline's folder.

    Raises:
        DataError: if the arrays do not fit one another or the networks.
    """
    settings, out = settings or DiffusionSettings(), Path(out_dir)
    _check(images, labels, class_names, settings)
    prompts = [prompt_for(class_names, row) for row in labels]
    data = fingerprint(images.shape, images[:: max(1, len(images) // 64)].tobytes().hex(), prompts)
    folder, training = Path(ckpt_dir), {}
    if minutes is not None:
        settings = _with_vae_steps(images, settings, minutes * 60 * VAE_SHARE, folder / "vae_steps.json")
    vae, training["vae"] = _fit_vae(images, settings, folder / "vae", data, on_progress)
    seconds = None if minutes is None else max(minutes * 60 - training["vae"]["wall_s"], minutes * 30)
    moments = encode_moments(vae, images)
    factor = set_scale(vae, moments)
    scaled = (moments[0] * factor, moments[1] * factor)
    pipeline, training["unet"] = _fit_unet(
        vae, scaled, prompts, class_names, settings, folder / "unet", data, on_progress, seconds
    )
    if minutes is not None:
        settings = _with_steps(settings, "unet", training["unet"]["loss"][-1][0])
    save_pipeline(pipeline, out)
    record = _record(pipeline, images, class_names, settings, training)
    write_json(out / "record.json", record | ({} if minutes is None else {"budget_minutes": minutes}))
    on_progress({"part": "samples", "step": 0, "total": 1})
    _write_grid(pipeline, class_names, out / "samples.png", settings, images)
    return out


def _with_vae_steps(
    images: NDArray[np.uint8], settings: DiffusionSettings, seconds: float, kept: Path
) -> DiffusionSettings:
    """Return settings with as many steps of the autoencoder as take `seconds`, measured once and kept for a resume."""
    if not kept.is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"steps": steps_in(images, seconds, settings.model, settings.vae)})
    return _with_steps(settings, "vae", read_json_or_raise(kept)["steps"])


def _with_steps(settings: DiffusionSettings, part: str, steps: int) -> DiffusionSettings:
    return settings.model_copy(update={part: getattr(settings, part).model_copy(update={"steps": steps})})


def _record(
    pipeline: Pipeline,
    images: NDArray[np.uint8],
    class_names: Sequence[str],
    settings: DiffusionSettings,
    training: dict[str, Any],
) -> dict[str, Any]:
    error = np.abs(reconstruct(pipeline.vae, images[:256]).astype(float) - images[:256]).mean()
    return {
        "what": "small Stable Diffusion pipeline", "command": "bench pretrain diffusion",
        "settings": settings.model_dump(mode="json"), "class_names": list(class_names),
        "n_images": len(images), "image_px": int(images.shape[1]), "data": settings.data_note,
        "parameters": {n: sum(p.numel() for p in m.parameters())
                       for n, m in pipeline.components.items() if isinstance(m, torch.nn.Module)},
        "scaling_factor": pipeline.vae.config.scaling_factor, "training": training,
        "reconstruction_l1_grey_levels": round(float(error), 3),
        "versions": versions(), "host": host_kind(),
    }  # fmt: skip


def _check(
    images: NDArray[np.uint8], labels: NDArray[np.float32], class_names: Sequence[str], settings: DiffusionSettings
) -> None:
    if not are_images(images) or not len(images):
        raise DataError(f"images must be uint8 [n, R, R] or [n, R, R, 3] with n > 0, got {images.dtype} {images.shape}")
    if labels.shape != (len(images), len(class_names)):
        raise DataError(f"labels must be [{len(images)}, {len(class_names)}], got {labels.shape}")
    factor = settings.model.downsampling * 2 ** (len(settings.model.unet_channels) - 1)
    if images.shape[1] % factor:
        raise DataError(f"the image side must be divisible by {factor} for these networks, got {images.shape[1]}")


def _fit_vae(
    images: NDArray[np.uint8], settings: DiffusionSettings, folder: Path, data: str, on_progress: OnProgress
) -> tuple[Autoencoder, dict[str, Any]]:
    parts = (settings.seed, settings.model.model_dump(), settings.vae.model_dump(), data)
    checkpoints, closing = Checkpoints(folder, fingerprint("vae", *parts)), {}
    for progress, model in train_vae(images, settings.seed, settings.model, settings.vae, checkpoints):
        closing, vae = close(progress), model
        on_progress(progress)
    return vae.eval(), closing


def _fit_unet(
    vae: Autoencoder, moments: tuple[torch.Tensor, torch.Tensor], prompts: Sequence[str],
    class_names: Sequence[str], settings: DiffusionSettings, folder: Path, data: str, on_progress: OnProgress,
    seconds: float | None,
) -> tuple[Pipeline, dict[str, Any]]:  # fmt: skip
    torch.manual_seed(derive(settings.seed, "text weights"))
    text = build_text(settings.model, class_names)
    whole = settings.model_dump(exclude={"grid_steps": True, "data_note": True, "unet": {"steps"}})
    checkpoints, closing = Checkpoints(folder, fingerprint("unet", whole, data)), {}
    for progress, model in train_unet(
        moments, prompts, text, settings.seed, settings.model, settings.unet, checkpoints, seconds
    ):
        closing, denoiser = close(progress), model
        on_progress(progress)
    return assemble(vae, denoiser.unet, (text[0], denoiser.text_encoder), build_scheduler(settings.model)), closing


def _write_grid(
    pipeline: Pipeline, class_names: Sequence[str], path: Path,
    settings: DiffusionSettings, images: NDArray[np.uint8], columns: int = 8,
) -> None:  # fmt: skip
    """Write a row of training images, a row without finding, and a row for every class alone."""
    rows = np.vstack([np.zeros(len(class_names)), np.eye(len(class_names))])
    prompts = [prompt_for(class_names, row) for row in rows for _ in range(columns)]
    drawn = sample_images(
        pipeline, prompts, images.shape[1], settings.grid_steps, GRID_GUIDANCE, settings.seed, colour=has_colour(images)
    )
    real = images[np.arange(columns) * len(images) // columns]
    save_grid(np.concatenate([real, drawn]), columns, path)
