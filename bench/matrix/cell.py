"""One cell of a matrix: a data set, a row and a seed, with the stages that measure them."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from bench.augment.augmented import Augmented
from bench.augment.method import Method
from bench.classifier.classifier import Classifier
from bench.data.dataset import Dataset
from bench.data.split import Split
from bench.diffusion.model import DiffusionModel
from bench.evaluation.fidelity import Fidelity
from bench.evaluation.scores import Scores
from bench.matrix.rows import Row
from bench.pipeline.key import canonical_json
from bench.pipeline.stage import Stage, walk

if TYPE_CHECKING:
    pass


def own_stages(cell: Cell) -> list[Stage]:
    """Return the stages that a cell is about, inputs first."""
    labelled = cell.classifier.labelled
    return [cell.augmented, *([labelled] if labelled else []), cell.classifier, *cell.targets]


@dataclass(frozen=True)
class Cell:
    """One data set × row (a method with its settings) × seed, and the stages that measure it.

    `against` is the label of the row that this one's effect is measured from, where the matrix names one.
    """

    matrix: str
    dataset: Dataset
    row: Row
    seed: int
    split: Split
    augmented: Augmented
    classifier: Classifier
    scores: Scores
    fidelity: Fidelity
    diagnostics: Stage | None = None

    @property
    def method(self) -> Method:
        """The row's method."""
        return self.row.method

    @property
    def label(self) -> str:
        """The row's label: what tables call the cell's method."""
        return self.row.label

    @property
    def against(self) -> str | None:
        """Label of the row to compare with, or None."""
        return self.row.against

    @property
    def name(self) -> str:
        """`<data set>/<row>/s<seed>`: unique in its matrix."""
        return f"{self.dataset.label}/{self.label}/s{self.seed}"

    @functools.cached_property
    def sharing(self) -> str:
        """`open` if anybody may see its images: every data set and diffusion model that had a part in them says so."""
        models = [m for stage in walk([self.augmented]) for m in _models_in(stage)]
        said = {self.dataset.sharing, *(m.sharing for m in models if isinstance(m, (Dataset, DiffusionModel)))}
        return "open" if said == {"open"} else "credentialed"

    @property
    def targets(self) -> list[Stage]:
        """The stages that finish the cell."""
        return [self.scores, self.fidelity, *([self.diagnostics] if self.diagnostics else [])]

    @functools.cached_property
    def key(self) -> str:
        """Stands for the cell's numbers: equal keys, equal results."""
        return hashlib.sha256(canonical_json([s.key for s in self.targets]).encode()).hexdigest()[:32]


def _models_in(value: Any) -> Iterator[BaseModel]:
    """Yield a model and the settings inside of it; the stages below a stage are not gone into."""
    inner: Iterable[Any] = ()
    if isinstance(value, BaseModel):
        yield value
        inner = [getattr(value, name) for name in type(value).model_fields]
    elif isinstance(value, (dict, list, tuple)):
        inner = value.values() if isinstance(value, dict) else value
    for found in inner:
        if not isinstance(found, Stage):
            yield from _models_in(found)
