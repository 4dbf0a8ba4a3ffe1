"""The table as data and as text: means, holes, published numbers, paired differences, escapes."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from bench.store import Store
from reports.paper_table import csv_table, latex, markdown, terminal_table
from reports.published import published
from reports.rows import MISSING, no_skill, number, paired_differences, table_rows
from tests.unit import report_fixtures as fixtures


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """A matrix of five methods and three seeds, its results and its store."""
    store = Store(tmp_path_factory.mktemp("store"))
    matrix = fixtures.make_matrix(seeds=(0, 1, 2))
    return matrix, fixtures.fill(matrix, store), store


def test_row_means_and_sds_are_those_of_the_cells(seeded):
    _, results, _ = seeded
    rows = {r.method: r for r in table_rows(results)}
    values = [r.scores["map_tail"] for r in results if r.cell.method.label == "ours@5"]
    assert rows["ours@5"].values["map_tail"] == pytest.approx(np.mean(values))
    assert rows["ours@5"].sds["map_tail"] == pytest.approx(np.std(values, ddof=1))
    assert rows["ours@5"].n_seeds == 3


def test_rows_keep_the_order_of_the_matrix(seeded):
    matrix, results, _ = seeded
    assert [r.method for r in table_rows(results)] == matrix.settings.methods


def test_a_skipped_method_shows_its_reason_and_no_numbers(seeded):
    row = next(r for r in table_rows(seeded[1]) if r.method == "declines")
    assert set(row.values.values()) == {None}
    assert "colour images" in row.hole


def test_an_unfinished_row_says_how_many_seeds_it_has(seeded):
    _, results, _ = seeded
    failed = [
        replace(r, state="failed", scores=None, fidelity=None, failure={"error": "ValueError: no"})
        if r.cell.name.endswith("smote/s2")
        else r
        for r in results
    ]
    row = next(r for r in table_rows(failed) if r.method == "smote")
    assert (row.n_seeds, row.n_planned) == (2, 3)
    assert row.hole == "2 of 3 seeds done; failed: ValueError: no"
    assert row.values["map_tail"] is not None


def test_published_numbers_are_the_posters():
    assert published().value("ours@5", "fid_tail") == 130.110
    assert published().value("baseline", "fid_tail") is None
    assert published().value("nothing like it", "map_tail") is None


def test_paired_differences_equal_a_loop_over_seeds(seeded):
    _, results, _ = seeded
    score = {(r.cell.method.label, r.cell.seed): r.scores["map_tail"] for r in results}
    deltas = [score["smote", s] - score["baseline", s] for s in (0, 1, 2)]
    found = next(d for d in paired_differences(results) if (d.method, d.column) == ("smote", "map_tail"))
    assert (found.control, found.n, found.n_above) == ("baseline", 3, sum(d > 0 for d in deltas))
    assert found.mean == pytest.approx(np.mean(deltas))
    assert found.sd == pytest.approx(np.std(deltas, ddof=1))


def test_no_paired_differences_from_one_seed_or_for_a_skipped_method(seeded):
    _, results, _ = seeded
    assert not paired_differences([r for r in results if r.cell.seed == 0])
    assert "declines" not in {d.method for d in paired_differences(results)}


def test_no_skill_is_the_prevalence(seeded):
    assert no_skill(seeded[1]) == {"map_head": pytest.approx(0.3), "map_tail": pytest.approx(0.05)}
    assert no_skill([]) == {"map_head": None, "map_tail": None}


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [(0.6184, None, "0.618"), (0.6184, 0.01, "0.618 ± 0.010"), (None, None, MISSING), (float("nan"), None, MISSING)],
)
def test_number(value, sd, text):
    assert number(value, 3, sd) == text


def test_csv_reads_back_in_full_precision(seeded):
    _, results, _ = seeded
    rows = {r["method"]: r for r in csv.DictReader(io.StringIO(csv_table(results)))}
    want = next(r for r in table_rows(results) if r.method == "smote")
    assert float(rows["smote"]["map_tail"]) == want.values["map_tail"]
    assert float(rows["smote"]["poster_fid_tail"]) == 171.864
    assert rows["baseline"]["fid_tail"] == ""
    assert rows["declines"]["hole"].startswith("skipped")


def facts_of(seeded):
    from reports.facts import dataset_facts

    matrix, _, store = seeded
    return {"blobs": dataset_facts(matrix.cells[0], store)}


def test_markdown_has_the_same_number_of_cells_in_every_line_of_the_table(seeded):
    matrix, results, _ = seeded
    lines = [line for line in markdown(matrix, results, facts_of(seeded)).splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 5 + 1
    assert len({line.count("|") - line.count("\\|") for line in lines}) == 1


def test_latex_escapes_what_data_bring_and_balances(seeded):
    matrix, results, _ = seeded
    text = latex(matrix, results, facts_of(seeded))
    assert r"\toprule" in text
    assert r"best\_val\_map\_all" in text
    assert r"\textless{}script\textgreater{}" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.replace(r"\{", "").replace(r"\}", "").count("{") == text.replace(r"\{", "").replace(r"\}", "").count(
        "}"
    )


def test_terminal_table_holds_ours_the_posters_and_the_notes(seeded):
    from rich.console import Console

    matrix, results, store = seeded
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(terminal_table(matrix, results, store))
    text = console.export_text()
    for piece in (
        "toy-report: blobs",
        "Chosen where the paper is silent",
        "ours@5",
        "130.110",
        "no skill",
        "0.050",
        "120 / 48 / 72",
        "toy-8d-native",
    ):
        assert piece in text
    assert "! declines: skipped" in text


def test_terminal_table_of_nothing_yet_run(tmp_path):
    from rich.console import Console

    from bench.results import CellResult

    matrix = fixtures.make_matrix()
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(terminal_table(matrix, [CellResult(c, "missing") for c in matrix.cells], Store(tmp_path)))
    assert "! smote: not run yet" in console.export_text()
