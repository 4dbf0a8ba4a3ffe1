"""Scores with a group of classes between head and tail."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from bench.errors import DataError
from bench.evaluation.scores import Groups, Scores
from bench.pipeline.stage import Work
from bench.tables import ImageTable, Int64


class GroupedScores(Scores):
    """The scores of `Scores`, in which the `n_medium` rarest classes of the head are a group of their own.

    This is a class of its own so that the keys of scores without such a group do not depend on it. Methods still see
    these classes as head.
    """

    group_names: ClassVar[tuple[str, ...]] = ("head", "medium", "tail", "all")

    n_medium: int = Field(ge=1)

    @classmethod
    def stage_name(cls) -> str:
        """Return the name of the folder in the store, which is that of all scores."""
        return Scores.stage_name()

    def groups(self, work: Work) -> Groups:
        """Return the classes of each group that has means; the head lacks the medium classes."""
        table: ImageTable = work.get(self.split.dataset)
        medium = self.medium(table, work.get(self.split)["train"])
        head = tuple(name for name in table.head if name not in medium)
        return {"head": head, "medium": medium, "tail": table.tail, "all": table.class_names}

    def medium(self, table: ImageTable, train_rows: Int64) -> tuple[str, ...]:
        """Return the classes of the head that have fewest positives in train, in column order.

        Of classes with equal numbers, the first column is taken. An unknown label is no positive.

        Args:
            table: the data set.
            train_rows: `int64 [n_train]`, the rows of train.

        Raises:
            DataError: if they leave no head.
        """
        counts = np.nansum(table.labels[train_rows], axis=0)
        others = [c for c in np.argsort(counts, kind="stable").tolist() if table.class_names[c] in table.head]
        medium = tuple(table.class_names[c] for c in sorted(others[: self.n_medium]))
        if not set(table.head) - set(medium):
            raise DataError(
                f"n_medium: want fewer than the {len(others)} classes of the head, so that one is left; got "
                f"{self.n_medium}"
            )
        return medium
