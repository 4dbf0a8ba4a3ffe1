"""The table as data and as text: means, holes, published numbers, layout, escapes."""

from __future__ import annotations

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

from bench.results.cells import CellResult
from bench.results.table import table as for_machines
from bench.store.store import Store
from reports.paper_table import csv_table, latex, markdown, parts_of
from reports.published import published
from reports.table_rows import MISSING, no_skill, number, table_rows
from reports.text import tex
from tests.unit.reports import report_fixtures as fixtures


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
    assert [r.method for r in table_rows(results)] == [m.label for m in fixtures.METHODS]


def test_medium_classes_have_a_column_where_there_are_any(seeded):
    matrix, results, _ = seeded
    assert "medium" not in markdown(parts_of(matrix, results, None)) + csv_table(parts_of(matrix, results, None))
    more = {"map_medium": 0.345, "prevalence_medium": 0.111, "auroc_medium": 0.777, "auroc_tail": 0.5}
    parts = parts_of(matrix, [replace(r, scores=r.scores | more) for r in results], None)
    headings = parts[0].headings
    place = headings.index("mAP medium ↑")
    assert (headings[place - 1], headings[place + 1]) == ("mAP head ↑", "mAP tail ↑")
    assert (parts[0].lines[0][place], parts[0].lines[-1][place]) == ("0.345 ± 0.000", "0.111")
    assert "AUROC medium" in markdown(parts)
    assert next(csv.DictReader(io.StringIO(csv_table(parts))))["map_medium"].startswith("0.345")
    assert "mAP medium" in latex(parts)


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


def test_no_skill_is_the_prevalence(seeded):
    found = no_skill(seeded[1])
    assert (found["map_head"], found["map_tail"]) == (pytest.approx(0.3), pytest.approx(0.05))
    assert set(no_skill([]).values()) == {None}


@pytest.mark.parametrize(
    ("value", "sd", "text"),
    [
        (0.6184, None, "0.618"),
        (0.6184, 0.01, "0.618 ± 0.010"),
        (-0.6184, 0.01, "−0.618 ± 0.010"),
        (None, None, MISSING),
        (float("nan"), None, MISSING),
    ],
)
def test_number(value, sd, text):
    assert number(value, 3, sd) == text


def test_a_minus_is_a_minus_sign_for_people_and_a_hyphen_for_machines(seeded):
    matrix, results, _ = seeded
    below = [replace(r, fidelity=r.fidelity | {"kid_tail": -0.0123, "kid_tail_floor": -0.0045}) for r in results]
    parts = parts_of(matrix, below, None)
    shown = markdown(parts)
    assert {"−0.0123 ± 0.0000", "−0.0045"} <= {cell.strip() for cell in shown.replace("\n", "|").split("|")}
    assert "$-$0.0123" in latex(parts)
    assert "-0.0123" not in shown + latex(parts)
    rows = csv.DictReader(io.StringIO(csv_table(parts)))
    assert {row["kid_tail"] for row in rows} == {"-0.0123", ""}
    assert {row["kid_tail"] for row in for_machines(below)} == {-0.0123, None}


def test_csv_reads_back_in_full_precision(seeded):
    matrix, results, store = seeded
    rows = {r["method"]: r for r in csv.DictReader(io.StringIO(csv_table(parts_of(matrix, results, store))))}
    want = next(r for r in table_rows(results) if r.method == "smote")
    assert float(rows["smote"]["map_tail"]) == want.values["map_tail"]
    assert float(rows["smote"]["poster_fid_tail"]) == 171.864
    assert rows["baseline"]["fid_tail"] == ""
    assert rows["declines"]["hole"].startswith("skipped")


def test_markdown_has_the_same_number_of_cells_in_every_line_of_the_table(seeded):
    text = markdown(parts_of(*seeded))
    for table, n_lines in zip(text.split("### Beside FID"), (2 + 5 + 1, 2 + 3), strict=True):
        lines = [line for line in table.splitlines() if line.startswith("|")]
        assert len(lines) == n_lines
        assert len({line.count("|") - line.count("\\|") for line in lines}) == 1


def test_latex_escapes_what_data_bring_and_balances(seeded):
    text = latex(parts_of(*seeded))
    assert r"\toprule" in text
    assert r"best\_val\_map\_all" in text
    assert r"\textless{}script\textgreater{}" in text
    assert text.count(r"\begin{") == text.count(r"\end{")
    assert text.replace(r"\{", "").replace(r"\}", "").count("{") == text.replace(r"\{", "").replace(r"\}", "").count(
        "}"
    )


def test_poster_columns_are_dropped_where_no_row_has_a_published_number(seeded):
    matrix, results, store = seeded
    kept = [r for r in results if r.cell.label == "declines"]
    (part,) = parts_of(matrix, kept, store)
    assert part.layout.theirs == ()
    assert not [h for h in part.headings if "poster" in h]
    assert {len(cells) for cells in part.lines} == {len(part.headings)}
    assert not [note for note in part.notes if "poster" in note.lower()]
    assert "multicolumn" not in latex([part])
    (whole,) = parts_of(*seeded)
    assert [h for h in whole.headings if "poster" in h]


def test_rows_say_their_seeds_only_where_there_are_several(seeded):
    matrix, results, store = seeded
    (part,) = parts_of(matrix, results, store)
    assert part.headings[:2] == ["method", "seeds"]
    assert part.lines[0][:2] == ["baseline", "3"]
    assert "seeds" not in replace(part, narrow=True).headings
    one = fixtures.make_matrix()
    (part,) = parts_of(one, [CellResult(c, "missing") for c in one.cells], None)
    assert "seeds" not in part.headings


def test_notes_say_what_is_paired_and_fid_at_the_floors_n(seeded):
    matrix, results, store = seeded
    fewer = []
    for r in results:
        classes = {c: v | {"n_floor": 1} for c, v in r.fidelity["per_class"].items()}
        fewer.append(replace(r, fidelity={**r.fidelity, "per_class": classes, "fid_tail_equal_n": 44.0}))
    before, after = (" ".join(parts_of(matrix, found, store)[0].notes) for found in (results, fewer))
    assert "order of the real images" in before
    assert "the batches differ" in before
    assert "FID of as many synthetic images" not in before
    assert "smote, ours@0, ours@5 44 (floor 8.5)" in after


def test_tail_classes_that_the_mean_fid_is_without_are_named(seeded):
    matrix, results, store = seeded
    name = fixtures.TAIL[0]
    lacking = []
    for r in results:
        classes = {c: v | ({"fid": None} if c == name else {}) for c, v in r.fidelity["per_class"].items()}
        lacking.append(replace(r, fidelity={**r.fidelity, "per_class": classes}))
    before, after = (" ".join(parts_of(matrix, found, store)[0].notes) for found in (results, lacking))
    assert "not in these means" not in before
    assert f"Classes of fewer than two images on a side are not in these means: {name}." in after


def test_a_long_list_of_fids_at_the_floors_n_is_cut_and_whole_in_the_csv(seeded):
    matrix, results, store = seeded
    source, many = next(r for r in results if r.cell.label == "smote" and r.cell.seed == 0), []
    for i in range(11):
        classes = {c: v | {"n_floor": 1} for c, v in source.fidelity["per_class"].items()}
        cell = replace(source.cell, row=replace(source.cell.row, label=f"row {i}"))
        many.append(
            replace(source, cell=cell, fidelity={**source.fidelity, "per_class": classes, "fid_tail_equal_n": 50.0 + i})
        )
    (part,) = parts_of(matrix, many, store)
    note = next(n for n in part.notes if "FID of as many synthetic images" in n)
    assert note.endswith("row 6 56 (floor 8.5); row 7 57 (floor 8.5); … and 3 more in table.csv.")
    rows = csv.DictReader(io.StringIO(csv_table([part])))
    assert [float(r["fid_tail_equal_n"]) for r in rows] == [50.0 + i for i in range(11)]


def with_recipe(matrix, label, **changes):
    cells = [
        replace(c, row=replace(c.row, classifier=c.row.classifier.model_copy(update=changes)))
        if c.label == label
        else c
        for c in matrix.cells
    ]
    return replace(matrix, cells=tuple(cells))


def test_rows_with_a_classifier_of_their_own_are_named(seeded):
    from reports.footnotes import left_open

    matrix, results, store = seeded
    (plain,) = parts_of(matrix, results, store)
    assert "At a seed every row has the same split, the same initialisation" in " ".join(plain.notes)
    assert "trains with" not in " ".join(plain.notes)
    other = with_recipe(with_recipe(matrix, "ours@5", synthetic_weight=0.5), "ours@0", synthetic_weight=0.5)
    other = with_recipe(other, "smote", steps=20, batch_size=16)
    (part,) = parts_of(other, results, store)
    text = " ".join(part.notes)
    assert "rows ours@0, ours@5 train with synthetic_weight 0.5 (the matrix: 1.0)" in text
    assert "ow smote trains with steps 20 (the matrix: 10), batch_size 16 (the matrix: 32)" in text
    assert "every row has the same split, the same initialisation" not in text
    assert "rows with the same classifier settings also the same initialisation" in text
    assert "drawn by class" not in text
    (drawn,) = parts_of(with_recipe(matrix, "smote", sampler="square_root"), results, store)
    assert "Where images are drawn by class (sampler, " in " ".join(drawn.notes)
    recipe = dict(left_open(other, results, None))["Classifier recipe"]
    assert recipe.startswith(dict(left_open(matrix, results, None))["Classifier recipe"])
    assert recipe.endswith(" (row smote: steps 20, batch size 16; rows ours@0, ours@5: synthetic weight 0.5)")


def test_settings_that_rows_differ_in_are_both_named(seeded):
    from reports.footnotes import left_open

    matrix, results, _ = seeded
    cells = [
        replace(c, row=replace(c.row, method=c.method.model_copy(update={"labels": "area"})))
        if c.label == "ours@5"
        else c
        for c in matrix.cells
    ]
    said = dict(left_open(replace(matrix, cells=tuple(cells)), results, None))
    assert said["Labels of a fused image"] == "own or area"


def test_the_diffusion_model_is_named_only_where_a_row_takes_something_from_it():
    from bench.matrix.build import build_matrix

    def notes(*methods: object) -> str:
        raw = {
            "name": "m",
            "datasets": [{"kind": "phantom", "n_images": 200, "image_px": 64, "prevalence_floor": 0.1}],
            "augment": {"per_class": 3, "counts": {"Atelectasis": 2}} if "counts" in methods else {"per_class": 3},
            "methods": ["baseline", *(m for m in methods if m != "counts")],
            "classifier": {"steps": 1, "batch_size": 2},
        }
        matrix = build_matrix(raw, "m")
        return " ".join(parts_of(matrix, [CellResult(c, "missing") for c in matrix.cells], None)[0].notes)

    assert "Diffusion model" not in notes("duplicate")
    for row in ("roentgen@75", "cutpaste"):  # drawn with it, and made from maps over its latents
        assert "Diffusion model" in notes(row)
    assert "for each tail class, but for Atelectasis 2" in notes("duplicate", "counts")


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["best_val_map_all"], "The checkpoint was chosen on the validation images by best_val_map_all."),
        (
            ["last"],
            "The checkpoint is that of the last step (`selection: last`); none was chosen on the validation images.",
        ),
        (
            ["best_val_map_tail", "last"],
            "The checkpoint was chosen on the validation images by best_val_map_tail; with `selection: last` it is that "
            "of the last step.",
        ),
        ([None], "The checkpoint was chosen on the validation images by a rule that is not recorded."),
    ],
)
def test_the_notes_say_how_the_checkpoint_was_chosen_if_it_was(seeded, rules, said):
    matrix, results, store = seeded
    told = [replace(r, scores=r.scores | {"selection": rules[i % len(rules)]}) for i, r in enumerate(results)]
    assert said in " ".join(parts_of(matrix, told, store)[0].notes)


def test_quotes_of_the_notes_are_quotes_in_latex():
    assert tex("“No skill” is") == "``No skill'' is"
