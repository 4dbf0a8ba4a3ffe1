"""What the field reads beside mAP: AUROC, F1, calibration error and accuracy on test, as tables of rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from bench.errors import ConfigError, listed, nearest
from bench.results.cells import CellResult, number_names, numbers
from reports.beside_fid import DISTANCES, MANIFOLD, TextTable, beside_fid
from reports.beside_pairs import HELD_OUT, HELD_OUT_NOTES, HELD_OUT_OF_ALL, pair_tables
from reports.differences import EFFECT_COLUMNS
from reports.run_facts import by_dataset, by_method, span
from reports.table_rows import COLUMNS, MEDIUM, Column, mean_sd, places_for

_SCORES = (
    Column("auroc_head", "AUROC head", 1, 3),
    Column("auroc_medium", "AUROC medium", 1, 3),
    Column("auroc_tail", "AUROC tail", 1, 3),
    Column("f1_head", "F1 head", 1, 3),
    Column("f1_medium", "F1 medium", 1, 3),
    Column("f1_tail", "F1 tail", 1, 3),
    Column("calibration_error_head", "calibration error head", -1, 3),
    Column("calibration_error_medium", "calibration error medium", -1, 3),
    Column("calibration_error_tail", "calibration error tail", -1, 3),
)
ACCURACY = (
    Column("accuracy_all", "top-1 accuracy all", 1, 3),
    Column("accuracy_head", "top-1 accuracy head", 1, 3),
    Column("accuracy_medium", "top-1 accuracy medium", 1, 3),
    Column("accuracy_tail", "top-1 accuracy tail", 1, 3),
    Column("balanced_accuracy", "balanced accuracy", 1, 3),
)
_NEED_ONE_CLASS = {"accuracy", *(c.key for c in ACCURACY)}
_OF_ALL = (
    Column("auroc_all", "AUROC all", 1, 3),
    Column("f1_all", "F1 all", 1, 3),
    Column("calibration_error_all", "calibration error all", -1, 3),
    Column("map_all", "mAP all", 1, 3),
)
_GROUPS = ("head", "medium", "tail", "all")
_NOTES = (
    "AUROC and F1 are means over classes. F1 is at thresholds that were chosen on val, one for each class. A class "
    "without positives (or, for AUROC, without negatives) is left out.",
    "The calibration error is the mean distance between the predicted probability and the share of positives, in 15 "
    "bins, as a mean over classes. Training with weights for rare classes raises probabilities on purpose, and with "
    "them this error.",
)
_NOT_ONE_CLASS = (
    "accuracy is for data in which every test image has exactly one class, and here some have several, none or an "
    "unknown label"
)
_ACCURACY_NOTES = (
    "Every image has exactly one class. Top-1 accuracy is the share of images whose highest score is that of their "
    "class: of all images, and of those whose class is in the head, medium or tail group. Balanced accuracy is the "
    "mean of this share over classes. The other tables are means over classes, each against all others.",
)


def beside_tables(results: Sequence[CellResult]) -> list[TextTable]:
    """Return the tables that stand below the main one: what to read beside mAP, and what to read beside FID.

    `results` are counted cells, see `CellResult.counted`.
    """
    scored = _table("Beside mAP", _SCORES, results, list(_NOTES))
    held_out = _table("Held-out pairs", HELD_OUT, results, list(HELD_OUT_NOTES))
    accuracy = _table("Accuracy", ACCURACY, results, list(_ACCURACY_NOTES))
    return [table for table in (scored, accuracy, held_out, *pair_tables(results), *beside_fid(results)) if table]


def metrics_tables(results: Sequence[CellResult], names: Iterable[str]) -> dict[str, TextTable]:
    """Return a table of named figures for each data set; its notes name the figures that the data set lacks.

    Raises:
        ConfigError: for a figure that no finished cell has.
    """
    columns = [column_named(key, results) for key in metric_keys(results, names)]
    found = {}
    for label, every in by_dataset(results).items():
        members = [r for r in every if r.counted]
        lacking = [c.key for c in columns if not numbers(members, c.key)]
        notes = [f"no finished cell of {label} has {', '.join(lacking)}"] if lacking else []
        if _NEED_ONE_CLASS.intersection(lacking) and _not_one_class(number_names(members)):
            notes.append(_NOT_ONE_CLASS)
        found[label] = _table("Figures", columns, members, notes) or TextTable("Figures", ["method"], [], notes)
    return found


def metric_keys(results: Sequence[CellResult], names: Iterable[str]) -> list[str]:
    """Return the figures that are named, each once; `auroc` stands for `auroc_head`, `auroc_tail` and so on.

    Raises:
        ConfigError: for a figure that no finished cell has.
    """
    there, found = number_names(results), list[str]()
    for name in names:
        groups = [key for group in _GROUPS if (key := f"{name}_{group}") in there]
        found += groups or [column_named(name, results).key]
    return list(dict.fromkeys(found))


def column_named(name: str, results: Sequence[CellResult]) -> Column:
    """Return the column of a figure of the cells' scores, fidelity or diagnostics.

    Raises:
        ConfigError: for a figure that no finished cell has.
    """
    names = number_names(results)
    if name in _NEED_ONE_CLASS and _not_one_class(names):
        raise ConfigError(f"column '{name}': {_NOT_ONE_CLASS}; read mAP or AUROC instead")
    scored = (*COLUMNS, MEDIUM, *_SCORES, *ACCURACY, *_OF_ALL, *HELD_OUT, *HELD_OUT_OF_ALL)
    known = {c.key: c for c in (*DISTANCES, *MANIFOLD, *scored, *EFFECT_COLUMNS)}
    if name in known and (name in names or name not in _NEED_ONE_CLASS):
        return known[name]
    if name not in names:
        have = f"have: {listed(names)}" if names else "nothing is finished yet"
        raise ConfigError(f"column '{name}': no finished cell has it{nearest(name, names)} ({have})")
    return Column(name, name.replace("_", " "))


def _not_one_class(figures: Sequence[str]) -> bool:
    """Return whether some test images of scored cells that have these figures do not have exactly one class."""
    return "map_all" in figures and "balanced_accuracy" not in figures


def _table(title: str, wanted: Sequence[Column], results: Sequence[CellResult], notes: list[str]) -> TextTable | None:
    """Return a line for each row with scores, mean ± sd over seeds, without columns that no row has."""
    rows = by_method(r for r in results if r.scores)
    values = {(row, c.key): numbers(found, c.key) for row, found in rows.items() for c in wanted}
    columns = [c for c in wanted if any(values[row, c.key] for row in rows)]
    if not columns:
        return None
    places = {
        c.key: places_for(v for row in rows for v in values[row, c.key]) if c.decimals is None else c.decimals
        for c in columns
    }
    lines = [
        [
            row,
            span(n for r in found if (n := (r.scores or {}).get("n_test"))),
            *(mean_sd(values[row, c.key], places[c.key], c.spread) for c in columns),
        ]
        for row, found in rows.items()
    ]
    return TextTable(title, ["method", "n test", *(c.titled for c in columns)], lines, notes)
