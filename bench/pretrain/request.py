"""What `bench pretrain` was asked for, as a stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.config.yaml_file import apply_override
from bench.data.split import Split, Train, checked_parts
from bench.errors import ConfigError, nearest
from bench.matrix.load import find, find_dataset
from bench.matrix.settings import MatrixSettings
from bench.pipeline.stage import Stage
from bench.plugins import registry
from bench.pretrain.diffusion import DiffusionSettings
from bench.pretrain.oracle import OracleSettings
from bench.pretrain.stages import PretrainedDiffusion, PretrainedOracle


def pretraining(
    what: str,
    matrix: str | None,
    overrides: Iterable[str],
    dataset: str | None = None,
    minutes: float | None = None,
) -> Stage:
    """Return the training of a diffusion model or of the oracle.

    Args:
        what: `diffusion` or `oracle`.
        matrix: a matrix whose train split is learnt; the rest of it need not be usable yet. None: the shipped data.
        overrides: `key=value` for the settings of the training, or for those of the matrix (`datasets.0.root=...`).
        dataset: label of the data set, if the matrix has several.
        minutes: how long to train, instead of the numbers of steps.

    Raises:
        ConfigError: for anything else, an unknown setting, steps and minutes together, or a matrix given to the oracle.
    """
    raw: dict[str, Any] = {}
    of_matrix: list[str] = []
    for override in overrides:
        if matrix and is_of_matrix(override):
            of_matrix.append(override)
        else:
            apply_override(raw, override)
    if what == "diffusion":
        settings = registry.build(DiffusionSettings, raw, "pretrain diffusion --set")
        for part in ("vae", "unet"):
            if minutes is not None and "steps" in (raw.get(part) or {}):
                raise ConfigError(f"pretrain diffusion: --minutes decides {part}.steps; give one of the two")
        train = _train(matrix, of_matrix, dataset) if matrix else None
        return PretrainedDiffusion(train=train, settings=settings, minutes=minutes)
    if what == "oracle":
        if matrix:
            raise ConfigError("pretrain oracle: takes no matrix; it is the phantom's, whose truth is known")
        if minutes is not None:
            raise ConfigError("pretrain oracle: takes no --minutes; its steps follow from --set epochs=N")
        return PretrainedOracle(settings=registry.build(OracleSettings, raw, "pretrain oracle --set"))
    choices = ("diffusion", "oracle")
    raise ConfigError(f"pretrain '{what}': want diffusion or oracle{nearest(what, choices)}")


def is_of_matrix(override: str) -> bool:
    """Tell whether a `key=value` is a setting of a matrix and not of the training."""
    return override.partition("=")[0].split(".")[0] in MatrixSettings.model_fields


def _train(matrix: str, overrides: list[str], label: str | None) -> Train:
    """Return the train split of a matrix's data set. Its diffusion model is not asked for: it is yet to be trained."""
    find(matrix)  # so that a kind of data set is refused: its settings would be taken for those of the training
    dataset, split = find_dataset(matrix, overrides, label)
    if (known := dataset.known_labels()) is not None:
        checked_parts(known, split)  # raises if the data set cannot be split this way
    return Train(split=Split(dataset=dataset, settings=split))
