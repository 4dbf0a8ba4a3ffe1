"""One cell of a matrix: a data set, a row and a seed, with the stages that measure this combination."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

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
from bench.pipeline.settings import PLAIN
from bench.pipeline.stage import Stage, walk


def own_stages(cell: Cell) -> list[Stage]:
    """Return the cell's images, their new labels, its classifier and its measures: no input that many cells share."""
    labelled = cell.classifier.labelled
    return [cell.augmented, *([labelled] if labelled else []), cell.classifier, *cell.targets]


@dataclass(frozen=True)
class Cell:
    """One data set × row (a method with its settings) × seed, and the stages that measure it.

    `diagnostics` is the stage that judges the method's inner steps, if the method has one.
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
    def against(self) -> tuple[str, ...]:
        """Labels of the rows that this one's effect is measured from; none: from the controls."""
        return self.row.against

    @property
    def name(self) -> str:
        """`<data set>/<row>/s<seed>`: unique in its matrix."""
        return f"{self.dataset.label}/{self.label}/s{self.seed}"

    @functools.cached_property
    def sharing(self) -> str:
        """`open` if every data set and diffusion model behind the cell's images is open, else `credentialed`."""
        models = [m for stage in walk([self.augmented]) for m in _models_in(stage)]
        said = {self.dataset.sharing, *(m.sharing for m in models if isinstance(m, (Dataset, DiffusionModel)))}
        return "open" if said == {"open"} else "credentialed"

    @property
    def targets(self) -> list[Stage]:
        """The stages that nothing else in the cell needs: with them, the cell is finished."""
        return [self.scores, self.fidelity, *([self.diagnostics] if self.diagnostics else [])]

    @functools.cached_property
    def key(self) -> str:
        """Digest of the keys of `targets`: cells with equal keys have equal results."""
        return hashlib.sha256(canonical_json([s.key for s in self.targets]).encode()).hexdigest()[:32]


def _models_in(value: object) -> Iterator[BaseModel]:
    """Yield a model and all models among its settings, but not the stages among its inputs."""
    inner: Iterable[object] = ()
    if isinstance(value, BaseModel):
        yield value
        inner = [getattr(value, name) for name in type(value).model_fields]
    elif isinstance(value, (dict, list, tuple)):
        inner = value.values() if isinstance(value, dict) else value
    for found in inner:
        if type(found) not in PLAIN and not isinstance(found, Stage):
            yield from _models_in(found)
