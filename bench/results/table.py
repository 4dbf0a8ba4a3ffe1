"""The paper's table as data: means over seeds of the finished cells of each row."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import Any

from bench.results.cells import CellResult, numbers

# The columns of the paper's table, and what a reader needs beside them: the number of synthetic images, FID at equal
# numbers of images, the FID between two sets of real images, below which no method can be expected to come, its spread
# over draws of these images, and the tail mAP without classes of few test patients.
TABLE_COLUMNS = (
    "fid_tail",
    "kid_tail",
    "fid_tail_equal_n",
    "fid_tail_floor",
    "fid_tail_floor_spread",
    "map_head",
    "map_tail",
    "map_tail_supported",
    "map_all",
    "label_fidelity_tail",
    "n_synthetic",
)


def table(results: list[CellResult], more: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return one row for each data set and method: mean and sd of `TABLE_COLUMNS` over seeds, numbers or None.

    `more` names further figures of scores, fidelity and diagnostics that get columns.

    Keys: `dataset`, `method`, `n_seeds`, `seeds`, `state` (also `skipped`), `reason`, `fid_metric`, `n_test`, each
    column, and its `<column>_sd` (None for fewer than two seeds). A seed counts if its figures are there, even if its
    diagnostics failed; `state` and `reason` say so.
    """
    rows = []
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for r in results:
        groups.setdefault((r.cell.dataset.label, r.cell.label), []).append(r)
    for (dataset, method), members in groups.items():
        done = [m for m in members if m.counted]
        open_ends = sorted((m for m in members if m.state != "done"), key=lambda m: m.measured)
        row: dict[str, Any] = {
            "dataset": dataset,
            "method": method,
            "n_seeds": len(done),
            "seeds": [m.cell.seed for m in done],
            "state": open_ends[0].state if open_ends else "done" if done else "skipped",
            "reason": next((m.reason for m in [*open_ends, *members] if m.reason), None),
            "fid_metric": next((m.fidelity["metric_id"] for m in done if m.fidelity), None),
            "n_test": next((m.scores.get("n_test") for m in done if m.scores), None),
        }
        for column in dict.fromkeys((*TABLE_COLUMNS, *more)):
            values = numbers(done, column)
            row[column] = fmean(values) if values else None
            row[f"{column}_sd"] = stdev(values) if len(values) > 1 else None
        rows.append(row)
    return rows
