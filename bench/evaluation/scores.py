"""Scores of a trained classifier on test, computed once per cell. No other stage predicts a test image.

Average precision is what the paper reports. What the field reads beside it is computed from the same predictions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from bench import seeds
from bench.classifier.classifier import Classifier, TrainedClassifier, probabilities
from bench.data.split import Split, part_rows, positive_patients
from bench.evaluation.held_out import held_out_intervals, held_out_replicates, held_out_scores
from bench.files import read_json_or_raise, write_strict_json
from bench.metrics.average_precision import average_precision, mean_over
from bench.metrics.classification import (
    accuracy,
    auroc,
    balanced_accuracy,
    best_thresholds,
    calibration_error,
    f1,
)
from bench.metrics.patient_bootstrap import INTERVAL, group_means, intervals, resampled_accuracy, resampled_precision
from bench.pipeline.settings import Settings
from bench.pipeline.stage import Resources, Stage, Work
from bench.tables import Float32, ImageTable

Groups = Mapping[str, Sequence[str]]  # name of a group → its classes
_RESAMPLES = "test-bootstrap"  # the word from which the seed of the resamples is made
_RESAMPLED = "resampled."  # the names of files begin with it, each with one score


class ScoresSettings(Settings):
    """How the scores on test are computed."""

    n_bootstrap: int = Field(
        1000, ge=0, le=100_000, description="resamples of the test patients (or images, if they are unknown); 0 = none"
    )
    # A class of k test patients is lost in about exp(-k) of the resamples. From three on that is at most 5 %, so below
    # it not even a 95 % interval can be had without drawing such resamples again.
    min_patients: int = Field(
        3,
        ge=0,
        description="a tail class with positives of fewer test patients is named wherever tail mAP stands, with the "
        "mean without such classes beside it; 0 = none is named",
    )


class Scores(Stage):
    """Average precision per class on test, with the no-skill level (the prevalence) beside every mean.

    Beside it stand AUROC, F1 at the threshold that is best on val, and the calibration error, each with its means over
    head, tail and all classes; and, where every image has one class, the balanced accuracy and the top-1 accuracy on
    the images of each group. Where the split holds out pairs of classes, the scores on these images are there too.

    The test patients are also resampled (`bench.metrics.patient_bootstrap`). The seed comes from the split only, so
    that every method has the same resamples and the differences between methods are paired.
    """

    resources: ClassVar[Resources] = Resources(gpu=True, minutes=10)
    group_names: ClassVar[tuple[str, ...]] = ("head", "tail", "all")

    split: Split
    classifier: Classifier
    settings: ScoresSettings = ScoresSettings()

    def groups(self, work: Work) -> Groups:
        """Return the classes of each group that has means, in the order of `group_names`."""
        table: ImageTable = work.get(self.split.dataset)
        return {"head": table.head, "tail": table.tail, "all": table.class_names}

    def compute(self, work: Work) -> None:
        """Write `scores.json`, `logits.npy`, `predictions.npy`, `bootstrap.npy`, and for some `resampled.NAME.npy`.

        Logits and predictions (probabilities) are `float32 [n_test, C]`, in the order of the test rows. All that ranks
        images ranks by logits, since different ones can round to the same probability. The bootstrap is
        `float32 [B, groups]`: the mean AP of each of `group_names` in each resample. The accuracies and the scores on
        held-out pairs, where there are any, have a file each, `float32 [B]`.
        """
        table: ImageTable = work.get(self.split.dataset)
        groups, split = self.groups(work), self.split.settings
        trained: TrainedClassifier = work.get(self.classifier)
        images, labels, rows = part_rows(work, self.split, "test")
        val_images, val_labels, _ = part_rows(work, self.split, "val")
        work.progress(0, 3, "predict test")
        logits = trained.logits(images, work.device)
        np.save(work.out / "logits.npy", logits)
        np.save(work.out / "predictions.npy", probabilities(logits))
        work.progress(1, 3, "predict val")
        beside = _beside_precision(table, groups, logits, labels, trained.logits(val_images, work.device), val_labels)

        work.progress(2, 3, "resample the test patients")
        columns = [[table.class_names.index(name) for name in names] for names in groups.values()]
        n, patients = self.settings.n_bootstrap, table.patients[rows]
        resampled = resampled_precision(logits, labels, patients, n, seeds.rng(split.seed, _RESAMPLES))
        replicates = group_means(resampled, columns)
        np.save(work.out / "bootstrap.npy", replicates)
        again = seeds.rng(split.seed, _RESAMPLES)  # it draws the same patients
        hits = resampled_accuracy(logits, labels, columns, patients, n, again)
        top1 = {} if hits is None else {f"accuracy_{group}": hits[:, i] for i, group in enumerate(groups)}
        pairs = table, groups, split.held_out_pairs, logits, labels, rows
        held_out = held_out_scores(*pairs, split.seed)
        of_pairs = held_out_replicates(*pairs, n, seeds.rng(split.seed, _RESAMPLES, "held-out-pairs"))
        for name, values in (top1 | of_pairs).items():
            np.save(work.out / f"{_RESAMPLED}{name}.npy", values)

        positives, known = np.nansum(labels, axis=0), (~np.isnan(labels)).sum(axis=0)
        ap = dict(zip(table.class_names, average_precision(logits, labels), strict=True))
        shares = positives / np.maximum(known, 1)
        # Each mean AP is compared with the mean prevalence, so both must be over the classes that have an AP.
        prevalence = {name: float(share) for name, share in zip(table.class_names, shares, strict=True)}
        comparable = {name: prevalence[name] if ap[name] is not None else None for name in table.class_names}
        n_patients = dict(zip(table.class_names, positive_patients(labels, patients).tolist(), strict=True))
        few = {name: n_patients[name] for name in table.tail if n_patients[name] < self.settings.min_patients}
        others = [name for name in table.tail if name not in few]
        scores = {
            "n_test": len(labels),
            "ap": ap,
            "prevalence": prevalence,
            "n_positives": {name: int(n) for name, n in zip(table.class_names, positives, strict=True)},
            "n_positive_patients": n_patients,
            "few_patients": few,
            "map_tail_supported": mean_over(ap, others),
            "prevalence_tail_supported": mean_over(comparable, others),
            **_means("map", ap, groups),
            **intervals({f"map_{group}": replicates[:, i] for i, group in enumerate(groups)}),
            **_class_intervals(resampled, table.class_names),
            **beside,
            **intervals(top1),
            **held_out,
            **held_out_intervals(held_out, of_pairs),
            "n_bootstrap": len(replicates),
            "patients_known": table.patients_known,  # else single images were resampled
            **_means("prevalence", comparable, groups),
            "selection": trained.record["selection"],
        }
        write_strict_json(work.out / "scores.json", scores)
        work.progress(3, 3, "scored")

    def open(self, folder: Path) -> dict[str, Any]:
        """Return the scores.

        `map_tail_low` to `map_tail_high` is the 95 % interval over resampled test patients. `few_patients` holds the
        tail classes with positives of fewer than `min_patients` test patients, and how many; `map_tail_supported` is
        the tail mAP without them, None if no class is left. `ap_low` and `ap_high` are intervals of single classes.
        `auroc`, `f1`, `threshold` and `calibration_error` are by class, and all but the threshold have means, such as
        `auroc_tail`. If every image has one class, `accuracy_tail` is the top-1 accuracy on the images of tail classes,
        with `accuracy_tail_low` and `accuracy_tail_high`. If pairs of classes are held out, `held_out_pairs` has the
        scores on each, `held_out_ap_tail` and `seen_ap_tail` are means over the tail classes of the pairs, and
        `held_out` has their intervals; see `bench.evaluation.held_out`.
        """
        return read_json_or_raise(folder / "scores.json")

    def replicates(self, folder: Path) -> dict[str, Float32]:
        """Return `map_head`, `map_tail`, … of each resample of the test patients, `float32 [B]`.

        The accuracies and the scores on held-out pairs are there too if the cell has them. A value is NaN if no class
        of the group has a positive in test.

        Row b is the same resample for every method of the split.
        """
        values = np.load(folder / "bootstrap.npy")
        found = {f"map_{group}": values[:, i] for i, group in enumerate(self.group_names)}
        more = {file.stem.removeprefix(_RESAMPLED): file for file in sorted(folder.glob(f"{_RESAMPLED}*.npy"))}
        return found | {name: np.load(file) for name, file in more.items()}


def _beside_precision(
    table: ImageTable, groups: Groups, logits: Float32, labels: Float32, val_logits: Float32, val_labels: Float32
) -> dict[str, Any]:
    """Return the scores that stand beside average precision, by class and as means."""
    p = probabilities(logits)
    thresholds = best_thresholds(probabilities(val_logits), val_labels)
    found: dict[str, Any] = {"threshold": dict(zip(table.class_names, thresholds, strict=True))}
    scores = {
        "auroc": auroc(logits, labels),
        "f1": f1(p, labels, thresholds),
        "calibration_error": calibration_error(p, labels),
    }
    for name, values in scores.items():
        by_class = dict(zip(table.class_names, values, strict=True))
        found |= {name: by_class, **_means(name, by_class, groups)}
    found["balanced_accuracy"] = balanced_accuracy(logits, labels)
    columns = [[table.class_names.index(name) for name in names] for names in groups.values()]
    top1 = accuracy(logits, labels, columns) or ()
    return found | {f"accuracy_{group}": value for group, value in zip(groups, top1, strict=False)}


def _means(prefix: str, values: Mapping[str, float | None], groups: Groups) -> dict[str, float | None]:
    """Return `<prefix>_<group>` for each group: means in which all classes have equal weight."""
    return {f"{prefix}_{group}": mean_over(values, names) for group, names in groups.items()}


def _class_intervals(resampled: npt.NDArray[np.float64], names: Sequence[str]) -> dict[str, dict[str, float | None]]:
    """Return `ap_low` and `ap_high` by class: 95 % percentile intervals over the resamples."""
    low, high = np.quantile(resampled, INTERVAL, axis=0) if len(resampled) > 1 else np.full((2, len(names)), np.nan)
    bounds = {"ap_low": low, "ap_high": high}
    return {
        key: {n: None if np.isnan(v) else float(v) for n, v in zip(names, values, strict=True)}
        for key, values in bounds.items()
    }
