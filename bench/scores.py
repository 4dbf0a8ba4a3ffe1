"""Scores of a trained classifier on test, once a cell. No other stage looks at a prediction for a test image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from bench.classifier import Classifier, TrainedClassifier, probabilities
from bench.metrics.average_precision import average_precision, means
from bench.split import Split, part_rows
from bench.stage import Resources, Stage
from bench.types import ImageTable


class Scores(Stage):
    """Average precision per class on test, the no-skill level (prevalence) beside every mean."""

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=10)

    split: Split
    classifier: Classifier

    def compute(self, work: Any) -> None:
        """Write `scores.json` and `predictions.npy`: probabilities `float32 [n_test, C]`, in order of test rows."""
        table: ImageTable = work.get(self.split.dataset)
        trained: TrainedClassifier = work.get(self.classifier)
        images, labels, _ = part_rows(work, self.split, "test")
        work.progress(0, 1, "predict test")
        logits = trained.logits(images, work.device)
        np.save(work.out / "predictions.npy", probabilities(logits))

        positives, known = np.nansum(labels, axis=0), (~np.isnan(labels)).sum(axis=0)
        ap = dict(zip(table.class_names, average_precision(logits, labels), strict=True))
        shares = positives / np.maximum(known, 1)
        # over the classes that have an AP, so that each mean stands beside the no-skill level of the same classes
        prevalence = {name: float(share) for name, share in zip(table.class_names, shares, strict=True)}
        comparable = {name: prevalence[name] if ap[name] is not None else None for name in table.class_names}
        scores = {
            "n_test": len(labels),
            "ap": ap,
            "prevalence": prevalence,
            "n_positives": {name: int(n) for name, n in zip(table.class_names, positives, strict=True)},
            **means("map", ap, table.head, table.tail),
            **means("prevalence", comparable, table.head, table.tail),
            "selection": trained.record["selection"],
        }
        (work.out / "scores.json").write_text(json.dumps(scores, indent=1, allow_nan=False), encoding="utf-8")
        work.progress(1, 1, "scored")

    def open(self, folder: Path) -> dict[str, Any]:
        """Return the scores."""
        return json.loads((folder / "scores.json").read_text(encoding="utf-8"))
