"""What `bench pretrain` was asked for, as a stage."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from bench.config.yaml_file import apply_override
from bench.errors import ConfigError, nearest
from bench.matrix.load import load_matrix
from bench.pipeline.stage import Stage
from bench.plugins import registry
from bench.pretrain.diffusion import DiffusionSettings
from bench.pretrain.oracle import OracleSettings
from bench.pretrain.stages import PretrainedDiffusion, PretrainedOracle


def pretraining(what: str, matrix: str | None, overrides: Iterable[str]) -> Stage:
    """Return the training of a diffusion model or of the oracle; `overrides` change its settings.

    Raises:
        ConfigError: for anything else, an unknown setting, or a matrix given to the oracle.
    """
    raw: dict[str, Any] = {}
    for override in overrides:
        apply_override(raw, override)
    if what == "diffusion":
        settings = registry.build(DiffusionSettings, raw, "pretrain diffusion --set")
        train = load_matrix(matrix).cells[0].augmented.train if matrix else None
        return PretrainedDiffusion(train=train, settings=settings)
    if what == "oracle":
        if matrix:
            raise ConfigError("pretrain oracle: takes no matrix; it is the phantom's, whose truth is known")
        return PretrainedOracle(settings=registry.build(OracleSettings, raw, "pretrain oracle --set"))
    choices = ("diffusion", "oracle")
    raise ConfigError(f"pretrain '{what}': want diffusion or oracle{nearest(what, choices)}")
