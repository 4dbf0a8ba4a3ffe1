"""Effects: which rows are compared, over what, in which words, and how they are shown."""

from __future__ import annotations

import csv
import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from bench.classifier.recipe import Focal
from bench.errors import ConfigError
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.beside_fid import beside_fid, diagnostics
from reports.differences import EFFECT_COLUMNS, Effect, decimals, effects, notes, p_text, verdicts
from reports.effects import EffectsTable, effects_rows, effects_table, grid, marks
from reports.figures.effects import forest
from reports.figures.style import DARK, LIGHT, Omitted, slug
from reports.page import settled
from reports.paper_table import parts_of
from reports.setting_facts import setting_facts
from reports.statistics import Estimate, holm, over_seeds, over_test_patients
from reports.text import md
from tests.unit.reports import report_fixtures as fixtures


@pytest.fixture(scope="module")
def seeded(tmp_path_factory):
    """A matrix of five methods and five seeds, its results and its store."""
    store = Store(tmp_path_factory.mktemp("store"))
    matrix = fixtures.make_matrix(seeds=(0, 1, 2, 3, 4))
    return matrix, fixtures.fill(matrix, store), store


def deltas(results, row, control, column, seeds=range(5)):
    part = "fidelity" if column.startswith("fid") else "scores"
    score = {(r.cell.label, r.cell.seed): getattr(r, part)[column] for r in results}
    return [score[row, s] - score[control, s] for s in seeds]


def make_effect(differences, column="map_tail", **kwargs):
    chosen = next(c for c in EFFECT_COLUMNS if c.key == column)
    seeds = tuple(range(len(differences)))
    return Effect("d", "row", "base", False, chosen, seeds, tuple(differences), over_seeds(differences), **kwargs)


def test_effects_are_differences_at_the_same_seed(seeded):
    found = next(e for e in effects(seeded[1]) if (e.row, e.column.key) == ("smote", "map_tail"))
    want = deltas(seeded[1], "smote", "baseline", "map_tail")
    assert found.control == "baseline"
    assert found.differences == pytest.approx(want)
    assert found.estimate == over_seeds(found.differences)
    assert (found.as_row()["n"], found.as_row()["n_above"]) == (5, sum(d > 0 for d in want))


def test_seeds_that_one_side_lacks_are_left_out(seeded):
    kept = [r for r in seeded[1] if (r.cell.label, r.cell.seed) != ("baseline", 1)]
    found = next(e for e in effects(kept) if (e.row, e.column.key) == ("smote", "map_tail"))
    assert found.seeds == (0, 2, 3, 4)
    assert found.differences == pytest.approx(deltas(seeded[1], "smote", "baseline", "map_tail", (0, 2, 3, 4)))


def test_skipped_and_failed_rows_have_no_effect(seeded):
    failed = [replace(r, state="failed", scores=None) if r.cell.label == "ours@5" else r for r in seeded[1]]
    assert {e.row for e in effects(failed)} == {"smote", "ours@0"}


def test_rows_that_are_not_compared_are_named_with_the_reason(seeded):
    matrix, results, _ = seeded
    why = {"error": "ValueError: the loss is no number"}
    failed = [replace(r, state="failed", scores=None, failure=why) if r.cell.label == "ours@5" else r for r in results]
    table = effects_table(matrix, failed)
    console = Console(file=io.StringIO(), width=200)
    console.print(table)
    for text in (console.file.getvalue(), table.markdown()):
        assert "ours@5: failed: ValueError: the loss is no number" in text
    assert not effects_table(matrix, seeded[1]).markdown().count("ours@5: ")
    nothing = effects_table(matrix, [CellResult(c, "missing") for c in matrix.cells]).markdown()
    assert "- baseline: not run yet" in nothing


def test_controls_are_compared_once_and_every_row_with_each(seeded):
    renamed = [
        replace(r, cell=replace(r.cell, row=replace(r.cell.row, label="duplicate"))) if r.cell.label == "smote" else r
        for r in seeded[1]
    ]
    pairs = {(e.row, e.control) for e in effects(renamed)}
    others = {(m, c) for m in ("ours@0", "ours@5") for c in ("baseline", "duplicate")}
    assert pairs == others | {("duplicate", "baseline")}
    assert ("ours@5", "duplicate", "fid_tail") in {(e.row, e.control, e.column.key) for e in effects(renamed)}
    assert ("ours@5", "baseline", "fid_tail") not in {(e.row, e.control, e.column.key) for e in effects(renamed)}


def renamed(results, labels, recipes=None, against=None):
    """Return results in which rows have other labels and, by their new labels, other recipes and controls."""
    found = []
    for r in results:
        label = labels.get(r.cell.label, r.cell.label)
        recipe = r.cell.row.classifier.model_copy(update=(recipes or {}).get(label, {}))
        row = replace(r.cell.row, label=label, classifier=recipe, against=(against or {}).get(label, ()))
        found.append(replace(r, cell=replace(r.cell, row=row)))
    return found


def pairs_of(results):
    return {(e.row, e.control) for e in effects(results)}


def test_a_control_under_another_name_is_a_control(seeded):
    two = [r for r in seeded[1] if r.cell.label in ("baseline", "smote")]
    named = renamed(two, {"baseline": "real only", "smote": "duplicate"})
    assert pairs_of(named) == {("duplicate", "real only")}
    (part,) = parts_of(seeded[0], named, None)
    assert dict(setting_facts(part))["Control"] == "real only: the other rows are compared with it at the same seed."
    waiting = [replace(r, state="missing", scores=None, fidelity=None) for r in named]
    (part,) = parts_of(seeded[0], waiting, None)
    said = dict(setting_facts(part))["Control"]
    assert said == "real only and duplicate, with which no row can be compared yet."


def test_of_several_rows_of_a_controls_method_the_one_with_the_common_recipe_is_the_control(seeded):
    first, second, third = (
        [r for r in seeded[1] if r.cell.label == label] for label in ("baseline", "smote", "ours@5")
    )
    again = renamed(first, {"baseline": "real only"})
    focal = {"focal": {"loss": Focal()}}
    rows = [*renamed(first, {"baseline": "focal"}, focal), *again, *second, *third]
    assert pairs_of(rows) == {(row, "real only") for row in ("focal", "smote", "ours@5")}
    held = [*renamed(first, {"baseline": "focal"}, focal, {"focal": ("smote",)}), *second, *third]
    assert pairs_of(held) == {("focal", "smote")}  # a row that names its own controls is none itself
    both = [*first, *renamed(first, {"baseline": "focal"}, focal), *second]
    unfinished = [replace(r, state="missing", scores=None) if r.cell.label == "real only" else r for r in rows]
    assert pairs_of(unfinished) == set()  # no other row steps in for a control that has not finished
    assert pairs_of(both) == {("focal", "baseline"), ("smote", "baseline")}  # the name itself comes first


def test_a_row_that_names_its_controls_is_held_against_those_alone(tmp_path):
    store, matrix = Store(tmp_path), fixtures.make_matrix(seeds=(0, 1, 2), against={"ours@5": ("ours@0", "smote")})
    results = fixtures.fill(matrix, store)
    found = [e for e in effects(results) if e.row == "ours@5"]
    assert {(e.control, e.named) for e in found} == {("ours@0", True), ("smote", True)}
    for control in ("ours@0", "smote"):
        fid = next(e for e in found if e.column.key == "fid_tail" and e.control == control)
        assert fid.differences == pytest.approx(deltas(results, "ours@5", control, "fid_tail", range(3)))
    without = [r for r in results if r.cell.label != "ours@0"]
    assert {e.control for e in effects(without) if e.row == "ours@5"} == {"smote"}


def test_p_is_adjusted_for_all_comparisons_of_the_data_set(seeded):
    found = effects(seeded[1])
    assert {e.n_compared for e in found} == {len(found)}
    assert [e.p_holm for e in found] == pytest.approx(holm([e.estimate.p for e in found]))


def test_rows_with_the_same_images_are_not_tested_on_what_is_of_the_images(seeded):
    first = [
        replace(
            r,
            cell=replace(r.cell, row=replace(r.cell.row, label="smote first", against=("smote", "baseline"))),
            scores=r.scores | {"map_tail": r.scores["map_tail"] + 0.01 * (r.cell.seed + 1)},
        )
        for r in seeded[1]
        if r.cell.label == "smote"
    ]
    found = effects([*seeded[1], *first])
    named = {(e.row, e.control, e.column.key): e for e in found}
    fid, tail = (named["smote first", "smote", column] for column in ("fid_tail", "map_tail"))
    assert (fid.verdict, fid.estimate.p, fid.p_holm, fid.estimate.low) == ("same", None, None, None)
    assert fid.sentence() == "the same images as smote, so the same tail FID (n = 5)"
    assert tail.estimate.p is not None
    tested = [e for e in found if e.estimate.p is not None]
    assert {e.n_compared for e in found} == {len(tested)} == {len([e for e in found if e.verdict != "same"])}
    assert [e.p_holm for e in tested] == pytest.approx(holm([e.estimate.p for e in tested]))
    cells = next(cells for e, cells in grid(found) if (e.row, e.control) == ("smote first", "smote"))
    assert "same images" in cells


def test_one_seed_is_judged_over_test_patients(seeded, monkeypatch):
    matrix, results, _ = seeded
    one = [r for r in results if r.cell.seed == 0]
    rng = np.random.default_rng(0)
    shared = rng.normal(0, 0.05, 400).astype(np.float32)
    own = {r.cell.scores.key: r.scores["map_tail"] + rng.normal(0, 0.001, 400).astype(np.float32) for r in one}

    class Drawn:
        def has(self, stage):
            return True

        def folder(self, stage):
            return stage.key

    monkeypatch.setattr(
        "bench.evaluation.scores.Scores.replicates", lambda _, folder: {"map_tail": shared + own[folder]}
    )
    found = next(e for e in effects(one, Drawn()) if (e.row, e.column.key) == ("smote", "map_tail"))
    (difference,) = deltas(one, "smote", "baseline", "map_tail", (0,))
    assert found.estimate.source == "test_patients"
    # what both rows share goes with the pairing: unpaired, the interval would be 50 times as wide
    assert (found.estimate.low, found.estimate.high) == pytest.approx(
        (difference - 0.003, difference + 0.003), abs=1e-3
    )
    assert "one seed: training noise is not in it" in found.sentence()
    assert any("One seed" in note for note in notes([found]))
    assert next(e for e in effects(one, None) if e.column.key == "map_tail").verdict == "undecided"


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ([0.01, -0.02, 0.015, -0.005, 0.02], "no evidence of a difference from base in tail mAP (+0.004, 95 % CI −"),
        (
            [0.01, 0.012, 0.011, 0.009, 0.01],
            "in these seeds higher than base in tail mAP, chance not ruled out (+0.010",
        ),
        ([-0.01, -0.012, -0.011, -0.009, -0.01, -0.013], "lower than base in tail mAP (−0.011"),
        ([0.01, 0.02], "undecided against base in tail mAP (+0.015, n = 2, p = 0.50, the least that 2 seeds can give"),
        ([0.01], "undecided against base in tail mAP (+0.010, n = 1, 1 seed: an interval takes 3)"),
    ],
)
def test_verdicts_in_words(differences, said):
    assert make_effect(differences).sentence().startswith(said)


def test_five_seeds_that_agree_state_the_least_p():
    said = make_effect([0.01, 0.012, 0.011, 0.009, 0.01]).sentence()
    assert said.endswith("n = 5, p = 0.062, the least that 5 seeds can give)")


@pytest.mark.parametrize(
    ("p", "said"),
    [
        (102 / 2048, "0.0498"),
        (3276 / 65536, "0.04999"),
        (0.05, "0.05"),
        (0.0501, "0.05"),
        (0.0469, "0.047"),
        (0.0625, "0.062"),
        (0.0009, "< 0.001"),
        (0.25, "0.25"),
    ],
)
def test_a_p_below_the_bound_is_not_printed_as_the_bound(p, said):
    assert p_text(p) == said


def test_lower_is_better_where_it_is():
    assert "lower (better) than base in tail FID" in make_effect([-3, -4, -3.5, -3, -4, -4.5], "fid_tail").sentence(1)
    assert verdicts([make_effect([-3, -4, -3.5], "fid_tail")]) == {}


@pytest.mark.parametrize(
    ("differences", "places"), [([12.0, 14.0], 0), ([1.2, 1.4], 1), ([0.02, 0.03], 3), ([0, 0], 3)]
)
def test_decimals_show_two_digits_of_a_distance(differences, places):
    assert decimals([make_effect(differences, "fid_tail")]) == places


def test_tables_hold_every_pair_in_all_forms(seeded):
    from rich.console import Console

    matrix, results, store = seeded
    table = effects_table(matrix, results, store)
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(table)
    text, markdown = console.export_text(), table.markdown()
    for piece in ("smote", "ours@5", "baseline", "0.062 with 5 seeds", "p_holm", "no evidence"):
        assert piece in text
        assert piece.replace("_", "\\_") in markdown
    lines = [line for line in markdown.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    rows = list(csv.DictReader(io.StringIO(table.csv())))
    assert rows == [
        {k: "" if v is None else str(v) for k, v in r.items()} for r in effects_rows(matrix, results, store)
    ]
    want = np.mean(deltas(results, "ours@5", "baseline", "map_head"))
    found = next(r for r in rows if (r["row"], r["column"]) == ("ours@5", "map_head"))
    assert float(found["difference"]) == pytest.approx(want)


def test_other_columns_can_be_asked_for_and_unknown_ones_are_refused(seeded):
    matrix, results, store = seeded
    found = effects_rows(matrix, results, store, ["map_all"])
    assert {r["column"] for r in found} == {"map_all"}
    assert effects_rows(matrix, results, store, ["map_all", "map_all"]) == found
    with pytest.raises(ConfigError, match="column 'map_tial': no finished cell has it; did you mean 'map_tail'"):
        effects_rows(matrix, results, store, ["map_tial"])


def test_nothing_to_compare_is_said(tmp_path):
    from rich.console import Console

    matrix = fixtures.make_matrix()
    table = effects_table(matrix, [CellResult(c, "missing") for c in matrix.cells], Store(tmp_path))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(table)
    assert "There is nothing to compare yet" in console.export_text()
    assert "There is nothing to compare yet" in table.markdown()
    assert table.csv().startswith("dataset,row")
    assert EffectsTable("x", {}).as_rows() == []


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_forest_plot_shows_the_estimates(seeded, theme):
    found = effects(seeded[1])
    figure = forest(found, "blobs").draw(theme)
    figure.canvas.draw()
    assert [ax.get_title() for ax in figure.axes] == ["head mAP", "tail mAP"]
    tail = [e for e in found if e.column.key == "map_tail"]
    bars = [
        line.get_xdata() for line in figure.axes[1].get_lines() if len(line.get_xdata()) == 2 and line.get_zorder() == 2
    ]
    assert np.array(bars) == pytest.approx(np.array([(e.estimate.low, e.estimate.high) for e in tail]))
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["smote", "ours@0", "ours@5"]


def test_forest_plot_needs_seeds_or_a_named_control(seeded):
    one = effects([r for r in seeded[1] if r.cell.seed == 0])
    assert isinstance(forest(one, "blobs"), Omitted)
    assert isinstance(forest([], "blobs"), Omitted)
    named = [replace(e, named=True) for e in one]
    figure = forest(named, "blobs").draw(LIGHT)
    figure.canvas.draw()
    assert figure.axes[0].get_yticklabels()[0].get_text() == "smote"


def test_a_row_without_an_interval_is_drawn_hollow():
    effect = make_effect([0.1, 0.2])
    assert effect.estimate == Estimate(
        pytest.approx(0.15), pytest.approx(0.0707, abs=1e-4), 2, p=0.5, why=effect.estimate.why
    )
    figure = forest([effect], "blobs").draw(LIGHT)
    mark = next(line for line in figure.axes[0].get_lines() if line.get_zorder() == 3)
    assert mark.get_markerfacecolor() == LIGHT.paper


def test_beside_fid_shows_what_rows_have_and_n_on_both_sides(seeded):
    results = [
        replace(r, fidelity={**r.fidelity, "precision_tail": 0.25, "nearest_ratio": 0.5}) if r.cell.seed else r
        for r in seeded[1]
    ]
    distances, manifold = beside_fid(results)
    assert distances.headings == [
        "method",
        "n real",
        "n made",
        "n floor",
        "FID ↓",
        "FID floor",
        "KID ↓",
        "label fidelity ↑",
    ]
    assert manifold.headings[4:] == ["precision ↑", "nearest ratio"]
    for table in (distances, manifold):
        line = next(cells for cells in table.lines if cells[0] == "smote")
        assert line[1:4] == ["11", "10", "10"]
        assert {cells[0] for cells in table.lines} == {"smote", "ours@0", "ours@5"}  # baseline made none, one declined
    assert line[4:] == ["0.25 ± 0.00", "0.50 ± 0.00"]
    assert any("near-copies" in note for note in manifold.notes)
    assert beside_fid([replace(r, fidelity=None) for r in results]) == []


def test_fid_at_the_floors_n_is_shown_where_it_is_another(seeded):
    results = []
    for r in seeded[1]:
        classes = {c: v | {"n_floor": 4} for c, v in r.fidelity["per_class"].items()}
        results.append(replace(r, fidelity={**r.fidelity, "per_class": classes, "fid_tail_equal_n": 44.0}))
    (table,) = beside_fid(results)
    column = table.headings.index("FID at floor n ↓")
    line = next(cells for cells in table.lines if cells[0] == "smote")
    assert (line[3], line[column]) == ("4", "44.0 ± 0.0")


def test_diagnostics_are_shown_under_their_names(seeded):
    results = [
        replace(r, diagnostics={"mean_max_probability": 0.1 * r.cell.seed, "none_yet": None, "n_words": 64})
        if r.cell.label == "ours@5"
        else r
        for r in seeded[1]
    ]
    table = diagnostics(results)
    assert table.headings == ["method", "mean max probability", "n words"]
    assert table.lines == [["ours@5", "0.200 ± 0.158", "64 ± 0"]]
    assert diagnostics(seeded[1]) is None


def test_rows_that_differ_in_a_sign_have_files_of_their_own() -> None:
    names = [slug("phantom", row) for row in ("+ last generation", "− last generation", "last generation")]
    assert len(set(names)) == 3
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyz-") for name in names)


CLEAR = [0.1, 0.11, 0.09, 0.1, 0.12, 0.1]
NOISE = [0.1, -0.1, 0.02, -0.03, 0.05, -0.02]


def test_the_page_names_differences_with_a_small_p_and_those_that_hold_after_holm() -> None:
    (said,) = settled([make_effect(CLEAR), make_effect(NOISE)])
    assert said.startswith("1 of 2 differences in tail mAP has p < 0.05")
    assert "not corrected for their number" in said
    assert ": row higher than base. " in said
    assert said.endswith("What remains after Holm's correction for these 2 comparisons: nothing.")  # 2 x 0.031
    (alone,) = settled([make_effect(CLEAR), make_effect(CLEAR, "map_head")])  # the other column is not of the family
    assert alone.startswith("1 of 1 differences")
    assert alone.endswith("for this comparison: row higher than base.")
    (many,) = settled([make_effect([*CLEAR, 0.1, 0.09]), make_effect(CLEAR)])  # 2 x 0.0078, then 0.031
    assert many.endswith("for these 2 comparisons: row higher than base; row higher than base.")
    assert settled([make_effect([0.1])]) == []


def test_without_a_small_p_the_page_does_not_call_rows_equal() -> None:
    (said,) = settled([make_effect(NOISE)])
    assert said.startswith("0 of 1 differences in tail mAP have p < 0.05")
    assert "does not show that the rows are equal" in said
    (few,) = settled([make_effect(CLEAR[:5])])
    assert "5 seeds or fewer cannot give p < 0.05" in few
    assert "by chance" not in few


@pytest.mark.parametrize("n", [6, 7, 9])
def test_the_number_expected_by_chance_is_what_the_seeds_can_give(n: int) -> None:
    """Of all sign patterns of n differences, the share that the sign-flip test calls significant at 0.05."""
    sizes = np.random.default_rng(n).uniform(0.5, 1.5, n)
    means = np.array(list(itertools.product([-1, 1], repeat=n))) @ sizes / n
    p = np.array([(np.abs(means) >= abs(m) - 1e-12).mean() for m in means])
    values = [*np.random.default_rng(0).normal(size=n)]
    (said,) = settled([make_effect(values)] * 20)
    assert f"(at most {20 * (p < 0.05).mean():.2g} of them are expected by chance alone)" in said


@pytest.mark.parametrize("differences", [CLEAR, CLEAR[:5], CLEAR * 2, NOISE, None])
def test_every_mark_that_is_shown_is_explained(differences: list[float] | None) -> None:
    effect = make_effect(differences or [0.1])
    if differences is None:
        effect = replace(effect, estimate=over_test_patients(0.1, np.linspace(0.05, 0.15, 100)))
    ((_, (cell,)),) = grid([effect])
    shown = [mark for mark in ("(*)", "*") if cell.split("\n")[0].endswith(f" {mark}")]
    assert [line.split(":")[0] for line in marks([effect])] == shown
    assert bool(shown) == (differences is not NOISE)
    table = EffectsTable("x", {"d": [effect]})
    assert all(md(line) in table.markdown() for line in marks([effect]))


def test_one_seed_has_no_p_to_explain_its_mark_by() -> None:
    effect = replace(make_effect([0.1]), estimate=over_test_patients(0.1, np.linspace(0.05, 0.15, 100)))
    assert "p <" not in marks([effect])[0]
    assert "p < 0.05" in marks([make_effect(CLEAR * 2)])[0]
