"""The trainings of the shipped assets, and of a diffusion model on any data set, as stages: resumable, done once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from bench.data.kinds.phantom import CLASS_NAMES, PhantomSettings
from bench.data.split import Train, train_set
from bench.errors import DataError
from bench.evaluation.oracle import load_oracle
from bench.files import read_json_or_raise, write_json
from bench.pipeline.settings import Settings
from bench.pipeline.stage import Resources, Stage, Work
from bench.pretrain.diffusion import DiffusionSettings, pretrain_diffusion
from bench.pretrain.label_fidelity import record_fidelity
from bench.pretrain.oracle import OracleSettings, pretrain_oracle
from bench.pretrain.phantom_data import ASSET_SEED, NOTE, lifted


class ShippedData(Settings):
    """Phantom images that no benchmark uses (another seed): what the shipped model is trained on."""

    n_images: int = Field(8000, ge=8)
    first: int = Field(200_000, ge=0, multiple_of=8, description="index of the first; the oracle has others")


class PretrainedDiffusion(Stage):
    """A small Stable Diffusion pipeline trained on a train split, or on the shipped model's data when `train` is None.

    Labels that are unknown are left out of the prompts. A training of `minutes` is kept under that budget, and its
    `record.json` names the steps that were reached; on another machine they would be others.
    """

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=90)

    train: Train | None = None
    data: ShippedData = ShippedData()
    settings: DiffusionSettings = DiffusionSettings()
    minutes: float | None = Field(None, gt=0, description="how long to train; null: the steps in the settings")

    def compute(self, work: Work) -> None:
        """Write the pipeline's folder, `record.json` and `samples.png`."""
        if self.train is None:
            drawn = lifted(PhantomSettings(seed=ASSET_SEED), self.data.n_images, self.data.first)
            note = f"{self.data.n_images} phantom images, seed {ASSET_SEED}, indices from {self.data.first}: {NOTE}"
            images, labels, names = drawn.images, drawn.labels, CLASS_NAMES
        else:
            train = train_set(work, self.train)
            images, labels, names = train.images[:], np.nan_to_num(train.labels), train.class_names
            note = f"train split of {self.train.split.dataset.label}, {len(images)} images, observed labels"
        settings = self.settings.model_copy(update={"data_note": note})
        pretrain_diffusion(images, labels, names, work.out, work.ckpt, settings, _progress_of(work), self.minutes)
        if self.train is None:  # only of the phantom is the truth of a generated image known
            record_fidelity(work.out, load_oracle())
        else:
            split, record = self.train.split, read_json_or_raise(work.out / "record.json")
            seen = {"dataset": split.dataset.label, "split": split.settings.division()}
            write_json(work.out / "record.json", {**record, "trained_on": seen})


class PretrainedOracle(Stage):
    """The phantom's oracle: `oracle.safetensors` and `record.json`."""

    resources: ClassVar[Resources] = Resources(minutes=15)

    settings: OracleSettings = OracleSettings()

    def compute(self, work: Work) -> None:
        """Train on true labels of phantom images that no benchmark uses."""
        pretrain_oracle(work.out, work.ckpt, self.settings, _progress_of(work))


def _progress_of(work: Work) -> Callable[[dict[str, Any]], None]:
    work.device  # noqa: B018 - applies the number of threads
    return lambda record: work.progress(record["step"], record["total"], _PARTS[record["part"]])


_PARTS = {
    "vae": "the autoencoder (1 of 2)",
    "unet": "the denoiser (2 of 2)",
    "samples": "samples.png, after the training",
    "oracle": "the oracle",
}


def copy_out(folder: Path, out: Path) -> None:
    """Copy a finished result to `out`, a new or empty folder.

    Raises:
        DataError: if `out` holds anything.
    """
    import shutil

    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"--out {out}: is not an empty folder; give a new one")
    shutil.copytree(folder, out, dirs_exist_ok=True, ignore=shutil.ignore_patterns("manifest.json"))
