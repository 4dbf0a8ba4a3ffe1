"""What a stage will take, told before it runs: operations of its networks, of the processor, pictures, bytes it leaves.

Nothing here computes a result or enters a key. A stage says its own cost (`Stage.cost`, marked `inert`); `Sizes` gives
it the numbers of images that follow from the labels, without any picture or weight being read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.types import ImageRows, ImageTable, TrainSet

if TYPE_CHECKING:
    from bench.contract import Plan
    from bench.datasets.base import Dataset
    from bench.diffusion import DiffusionModel
    from bench.flops import DiffusionFlops
    from bench.split import Split, Train
    from bench.stage import Stage
    from bench.store import Store


LARGEST = 1e30  # of a cost: nobody waits for more, and sums stay numbers


class NoEstimate(Exception):
    """A cost cannot be told; the message says what would have to be known."""


@dataclass(frozen=True)
class Cost:
    """What one computation of a stage takes, and what it leaves.

    Attributes:
        flop: floating-point operations of networks, on the device: a multiplication and an addition are two.
        host: operations of array code on the processor; of a product of matrices a tenth counts, so much faster it is.
        images: pictures decoded or drawn.
        bytes: of the files that it leaves in the store.
        what: network and size; the speeds of equal ones are the likest.
    """

    flop: float = 0.0
    host: float = 0.0
    images: float = 0.0
    bytes: float = 0.0
    what: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no size: a method may have worked it out.

        Raises:
            NoEstimate: naming the field.
        """
        for name in ("flop", "host", "images", "bytes"):
            if not 0 <= getattr(self, name) <= LARGEST:
                raise NoEstimate(f"its cost has {name} {str(getattr(self, name))[:20]}, want 0 to {LARGEST:g}")


def product(n: float, m: float, width: float) -> float:
    """Return the `host` operations of a product of matrices `[n, width]` and `[width, m]`."""
    return 2.0 * n * m * width / 10


def distances(n: int, n_reference: int, width: int, subset_size: int, n_subsets: int) -> float:
    """Return the `host` operations of a class's fidelity: Fréchet and kernel distances, subsets, two manifolds."""
    size = min(subset_size, n // 2, n_reference // 2)
    subsets = n_subsets * product(2 * size, 2 * size, width)
    whole = max(n, n_reference) <= subset_size
    kernels = product(n + n_reference, n + n_reference, width) if whole else subsets
    roots = [min(n, width), min(n_reference, width)]
    factors = sum(2 * product(width, width, rows) for rows in (n, n_reference) if rows > width)
    frechet = factors + product(roots[0], roots[1], width) + 2.0 * roots[0] * roots[1] * min(roots)
    pairs = n * n + n_reference * n_reference + n * n_reference
    return 3 * (kernels + frechet) + subsets + 2.0 * pairs * width  # three: the figure, its floor, at equal n


@dataclass(frozen=True)
class Making:
    """What a method is asked to make, for an estimate.

    Attributes:
        made: class name → number of images; empty where nothing is to be made, or the method declines.
        train: the train split; its images hold nothing but have their shape.
    """

    made: dict[str, int]
    train: TrainSet
    _model: DiffusionModel | None
    _sizes: Sizes

    @property
    def n(self) -> int:
        """Number of images."""
        return sum(self.made.values())

    @property
    def image_px(self) -> int:
        """Side of an image."""
        return self.train.images.image_px

    @property
    def model(self) -> DiffusionModel:
        """The diffusion model, of a method that uses one.

        Raises:
            NoEstimate: where the method has none.
        """
        if self._model is None:
            raise NoEstimate("the method uses no diffusion model")
        return self._model

    @property
    def networks(self) -> DiffusionFlops:
        """What the diffusion model's networks take.

        Raises:
            NoEstimate: where the method has none, or its architecture is not known.
        """
        return self._sizes.diffusion(self.model)


class _Unread:
    """Images of which number and side are known; who looks at one, a method's `skip` say, gets no estimate."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        self.shape, self.nbytes = shape, math.prod(shape)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> Any:
        raise NoEstimate("it looks at images, which are not read yet")


@dataclass
class Sizes:
    """How many images of what size and with which labels there are, from labels and settings alone.

    What is finished in `store` is read there. `documented` holds the data sets of which only a documented size is
    known; their labels are drawn at the documented frequencies.
    """

    store: Store | None = None
    documented: dict[str, str] = field(default_factory=dict)
    _tables: dict[str, ImageTable] = field(default_factory=dict)
    _parts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def get(self, stage: Stage) -> Any:
        """Return a data set's table or a split's rows, so that functions which read inputs can be asked for sizes."""
        from bench.datasets.base import Dataset
        from bench.split import Split

        if isinstance(stage, Dataset):
            return self.table(stage)
        if isinstance(stage, Split):
            return self.rows(stage)
        raise NoEstimate(f"the size of {stage.stage_name()} is not known before it is computed")

    def table(self, dataset: Dataset) -> ImageTable:
        """Return the table of a data set; its images are of the right shape and hold nothing.

        Raises:
            NoEstimate: where neither labels nor a documented size are there.
        """
        if dataset.key not in self._tables:
            self._tables[dataset.key] = self._table(dataset)
        return self._tables[dataset.key]

    def _table(self, dataset: Dataset) -> ImageTable:
        if self.store is not None and self.store.has(dataset):
            return dataset.open(self.store.folder(dataset))
        found = dataset.expected()
        px = getattr(dataset, "image_px", None)
        if found is None or not isinstance(px, int):
            raise NoEstimate(f"how many images '{dataset.label}' has is not known: its labels are not there")
        known = found.known
        if found.documented:
            self.documented[dataset.label] = found.documented
        images: Any = _Unread((len(known.labels), px, px))
        head, tail = known.head, known.tail
        return ImageTable(images, known.labels, known.patients, known.class_names, head, tail, splits=known.splits)

    def rows(self, split: Split) -> dict[str, Any]:
        """Return the rows of each part by its name.

        Raises:
            NoEstimate: where the labels are not known, or cannot be dealt so.
        """
        if split.key not in self._parts:
            self._parts[split.key] = self._rows(split)
        return self._parts[split.key]

    def _rows(self, split: Split) -> dict[str, Any]:
        from bench.errors import DataError
        from bench.split import PARTS, parts

        if self.store is not None and self.store.has(split):
            return dict(split.open(self.store.folder(split)))
        table = self.table(split.dataset)
        try:
            part = parts(table, split.settings)
        except DataError as error:
            raise NoEstimate(str(error)) from error
        return {name: np.flatnonzero(part == i) for i, name in enumerate(PARTS)}

    def train(self, train: Train) -> TrainSet:
        """Return the train split; its images hold nothing."""
        table, rows = self.table(train.split.dataset), self.rows(train.split)["train"]
        images = ImageRows(table.images, rows)
        return TrainSet(images, table.labels[rows], table.class_names, table.head, table.tail)

    def samples(self, plan: Plan, train: Train) -> int:
        """Return how many synthetic images a plan asks for."""
        return sum(plan.resolve(self.train(train)).values())

    def diffusion(self, model: DiffusionModel) -> DiffusionFlops:
        """Return what the networks of a diffusion model take.

        Raises:
            NoEstimate: where its folder is not there and its preset does not say of which architecture it is.
        """
        from bench.flops import diffusion_flops

        return diffusion_flops(model)
