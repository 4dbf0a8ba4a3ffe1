"""What a matrix needs from disk, found or not: data and weights, each with what is wrong with it and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from bench.augment.unusable import UnusableDataset, UnusableDiagnostics, UnusableMethod
from bench.checks import Check, guarded
from bench.data.dataset import Dataset
from bench.errors import BenchError, in_words
from bench.evaluation.extractors import InceptionExtractor
from bench.matrix.load import Matrix, load_matrix
from bench.matrix.weights import looks
from bench.pipeline.missing_inputs import Absent, place_of, placeholders
from bench.pipeline.stage import Stage, walk


@dataclass(frozen=True)
class Planned:
    """A matrix that was planned with what is there.

    Attributes:
        matrix: all of its cells. Keys that depend on what is missing begin with `?`; nothing computes under them.
        inputs: what was looked at.
    """

    matrix: Matrix
    inputs: tuple[Check, ...]

    @property
    def missing(self) -> tuple[Check, ...]:
        """What is missing or wrong."""
        return tuple(check for check in self.inputs if not check.ok)


def plan(name: str, overrides: Iterable[str] = ()) -> Planned:
    """Return a matrix planned without the data and weights that are not there, every key of it worked out.

    Raises:
        ConfigError: for what is wrong with the file or the overrides themselves.
    """
    with placeholders() as absent:
        matrix = load_matrix(name, overrides)
        targets: list[Stage] = [s for c in matrix.cells for s in c.targets]
        walk(targets)
        return Planned(matrix, tuple(_examine(matrix, absent)))


def _examine(matrix: Matrix, absent: list[Absent]) -> Iterator[Check]:
    """Yield one check of every input, and of what planning found amiss that these do not see."""
    told: set[str] = set()
    for dataset in _datasets(matrix):
        for check in _of_dataset(dataset):
            yield check
            told |= set() if check.ok else {place_of(dataset)}
    yield from _of_methods(matrix)
    for look in looks(matrix):
        place = place_of(look.model)
        if look.fits and place in told:
            continue
        try:
            said = look.see()
        except (BenchError, OSError) as error:
            told |= set() if look.fits else {place}
            yield Check(look.what, False, _said(error).removeprefix(f"{look.what}: "))
        else:
            if said:
                yield Check(look.what, True, said)
    yield from _unseen(absent, told)


def _of_methods(matrix: Matrix) -> Iterator[Check]:
    for cell in {c.label: c for c in matrix.cells}.values():
        if isinstance(method := cell.augmented.method, UnusableMethod):
            yield Check(f"method {method.name}", False, method.reason.line)
        if isinstance(cell.diagnostics, UnusableDiagnostics):
            yield Check(f"diagnostics of {cell.label}", False, cell.diagnostics.reason.line)


def _datasets(matrix: Matrix) -> list[Dataset]:
    """Return the data sets of the cells, and those that methods take something from, each once."""
    below = (s for s in walk([c.augmented for c in matrix.cells]) if isinstance(s, Dataset))
    return list({place_of(d): d for d in [*(c.dataset for c in matrix.cells), *below]}.values())


def _of_dataset(dataset: Dataset) -> Iterator[Check]:
    if isinstance(dataset, UnusableDataset):
        yield Check(dataset.label, False, dataset.reason.line)
    for check in guarded("files", dataset.sources()):
        said = check.said.removeprefix(f"{dataset.kind}: ")
        yield replace(check, what=f"{dataset.label}, {check.what}", said=said)


def _unseen(absent: list[Absent], told: set[str]) -> Iterator[Check]:
    """Yield what planning could not read and no check has told, once."""
    seen: set[str] = set()
    for missing in absent:
        model, said = missing.model, _said(missing.error)
        coming = isinstance(model, InceptionExtractor) and model.to_be_fetched()
        if place_of(model) not in told and said not in seen and not coming:
            seen.add(said)
            what = model.label if isinstance(model, Dataset) else said.partition(": ")[0]
            yield Check(what, False, said.removeprefix(f"{what}: "))


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, BenchError) else in_words(error)
