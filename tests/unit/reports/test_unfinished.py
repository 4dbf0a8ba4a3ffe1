"""A report during a run: all of its numbers are of the same cells, those whose figures the table shows."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench.matrix.matrix import Matrix
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.beside_map import metrics_tables
from reports.figures.style import LIGHT, Drawing, Omitted
from reports.page import page
from reports.paper_table import Part, csv_table, latex, markdown, parts_of
from reports.redaction import export
from reports.report import figures_of
from tests.unit.reports import report_fixtures as fixtures

Unfinished = tuple[Matrix, list[CellResult], list[CellResult], Store]


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Unfinished:
    """A matrix, its cells of which three are measured in part, the same cells with nothing of these three, its store."""
    store, matrix = Store(tmp_path_factory.mktemp("store")), fixtures.make_matrix(seeds=(0, 1, 2))
    results = [with_diagnostics(r) for r in fixtures.with_nearest(fixtures.fill(matrix, store), store)]
    so_far: dict[str, dict[str, Any]] = {
        "blobs/smote/s1": {"scores": None, "history": []},
        "blobs/ours@5/s2": {"scores": None},
        "blobs/baseline/s0": {"fidelity": None},
    }
    assert so_far.keys() <= {r.cell.name for r in results}
    partly = [replace(r, state="running", **so_far[r.cell.name]) if r.cell.name in so_far else r for r in results]
    without = [CellResult(r.cell, "running") if r.cell.name in so_far else r for r in results]
    return matrix, partly, without, store


def with_diagnostics(result: CellResult) -> CellResult:
    """Return a cell with other numbers at each seed, and a floor of fewer images with FID as it is."""
    fidelity = result.fidelity or {}
    classes = {name: c | {"n_floor": 2} for name, c in fidelity["per_class"].items()}
    figures = {**fidelity, "per_class": classes, "fid_tail_equal_n": fidelity["fid_tail"]}
    diagnostics = {"blur": 0.1 * result.cell.seed} if result.cell.label == "ours@5" else None
    return replace(result, fidelity=figures, diagnostics=diagnostics)


def test_figures_that_are_alike_have_the_same_mean(unfinished: Unfinished) -> None:
    matrix, partly, _, store = unfinished
    rows = {row["method"]: row for row in csv.DictReader(io.StringIO(csv_table(parts_of(matrix, partly, store))))}
    assert rows["smote"]["n_seeds"] == "2"
    assert rows["smote"]["fid_tail_equal_n"] == rows["smote"]["fid_tail"]


def test_a_cell_that_is_measured_in_part_changes_no_number_and_is_named(unfinished: Unfinished) -> None:
    matrix, partly, without, store = unfinished
    (part, same), texts = (parts_of(matrix, found, store)[0] for found in (partly, without)), []
    for found, results in ((part, partly), (same, without)):
        whole = page(export(matrix, results, store, False), store, [found], {found.label: []}, "")
        texts.append([markdown([found]), csv_table([found]), latex([found]), whole])
    assert texts[0] == texts[1]
    for text in (texts[0][0], texts[0][3]):
        assert "2 of 3 seeds done; running" in text
        assert "skipped: needs" in text
    assert metrics_tables(partly, ["map_all", "blur"]) == metrics_tables(without, ["map_all", "blur"])


def test_a_cell_that_is_measured_in_part_is_in_no_figure(unfinished: Unfinished) -> None:
    matrix, partly, without, store = unfinished
    shown, same = (drawn(parts_of(matrix, found, store)[0], store) for found in (partly, without))
    assert shown == same
    assert len(shown) >= 5
    assert not any("declines" in words for words, _ in shown)


def drawn(part: Part, store: Store) -> list[tuple[str, list[float]]]:
    """Return the words of every figure of numbers, and the heights of what is drawn in it."""
    found = []
    for item in figures_of(part, store, with_pictures=False):
        if isinstance(item, Drawing):
            figure = item.draw(LIGHT)
            axes = figure.axes
            legend = [text.get_text() for one in figure.legends for text in one.get_texts()]
            heights = [y for ax in axes for line in ax.get_lines() for y in np.ravel(line.get_ydata())]
            heights += [float(bar.get_height()) for ax in axes for bar in ax.patches if hasattr(bar, "get_height")]
            found.append((f"{item.caption} {item.alt} {legend}", [round(float(y), 9) for y in np.nan_to_num(heights)]))
    return found


def test_with_nothing_finished_every_figure_says_so(unfinished: Unfinished) -> None:
    matrix, partly, _, store = unfinished
    nothing = [replace(r, state="running", scores=None, skip=None) for r in partly]
    (part,) = parts_of(matrix, nothing, store)
    reasons = {f.title: f.reason for f in figures_of(part, store, with_pictures=False) if isinstance(f, Omitted)}
    assert reasons["Training curves"] == "no cell has finished"
    assert reasons["Average precision against class frequency"] == "no finished scores"
    assert reasons["Label fidelity"] == "no cell has finished"
