"""The settings of a matrix file."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from bench.augment.method import Plan
from bench.classifier.settings import ClassifierSettings
from bench.data.split import SplitSettings
from bench.diffusion.model import DiffusionModel
from bench.evaluation.measures import FidelitySettings
from bench.evaluation.scores import ScoresSettings
from bench.matrix.rows import RowSettings
from bench.matrix.study import Study
from bench.pipeline.settings import Settings


class MatrixSettings(Settings):
    """The matrix file as written. Every choice that changes a number is one of these settings or has a default here."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=100, description="names the group in the tracker and the report"
    )
    description: str = ""
    datasets: list[Any] = Field(min_length=1, description="kinds, or mappings with `kind`")
    split: SplitSettings = SplitSettings()
    diffusion: DiffusionModel = DiffusionModel()
    augment: Plan = Plan()
    methods: list[RowSettings] = Field(min_length=1, description="the table's rows, see `bench.matrix.rows`")
    settings: dict[str, dict[str, Any]] = Field({}, description="method name → settings, for all its rows")
    classifier: ClassifierSettings
    scores: ScoresSettings = ScoresSettings()
    n_medium: int = Field(
        0,
        ge=0,
        description="how many classes are medium in the scores: the rarest in train that are not tail; methods, which "
        "augment the tail alone, see them as head",
    )
    fidelity: FidelitySettings = FidelitySettings()
    seeds: list[Annotated[int, Field(ge=0)]] = Field([0], min_length=1)
    published: bool | None = Field(
        None,
        description="show the paper's numbers beside the rows of the same names; null: beside data that stand for the "
        "paper's (phantom, mimic-cxr-lt, nih-cxr-lt), and not beside your own",
    )
    study: Study | None = Field(None, description="what the study figure of the report shows, see `bench.matrix.study`")
