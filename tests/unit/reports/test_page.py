"""The page: the table and how to read it come first, the notes are folded, and wide tables are divided."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from bench.matrix.matrix import Matrix
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.beside_fid import TextTable
from reports.page import blocks, blocks_of, page
from reports.paper_table import Part, parts_of
from reports.redaction import export
from reports.setting_facts import setting_facts
from tests.unit.reports import report_fixtures as fixtures

Filled = tuple[Matrix, list[CellResult], Store]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    """A matrix of five methods and three seeds, its results and its store."""
    store, matrix = Store(tmp_path_factory.mktemp("store")), fixtures.make_matrix(seeds=(0, 1, 2))
    return matrix, fixtures.with_nearest(fixtures.fill(matrix, store), store), store


def one_seed(filled: Filled) -> Filled:
    matrix, results, store = filled
    matrix = replace(matrix, settings=matrix.settings.model_copy(update={"seeds": [0]}))
    return matrix, [r for r in results if r.cell.seed == 0], store


def written(matrix: Matrix, results: list[CellResult], store: Store) -> tuple[str, Part]:
    """Return the page without figures, and its part."""
    (part,) = parts_of(matrix, results, store)
    return page(export(matrix, results, store, False), store, [part], {part.label: []}, "seeds: [0]"), part


def unfolded(text: str) -> str:
    """Return what a reader sees before opening anything."""
    return re.sub(r"<details>.*?</details>", "", text, flags=re.DOTALL)


@pytest.mark.parametrize("n_seeds", [1, 3])
def test_the_table_and_its_verdicts_come_before_all_else(filled: Filled, n_seeds: int) -> None:
    text, _ = written(*(filled if n_seeds == 3 else one_seed(filled)))
    verdicts = '<dl class="verdicts">' if n_seeds == 3 else '<p class="verdict">One seed cannot rank these rows'
    pieces = ("<h1>", "<h2>", '<table class="headline">', verdicts, '<dl class="facts">', "<details>", "<nav")
    places = [text.index(piece) for piece in pieces]
    assert places == sorted(places)
    assert '<table class="dense">' not in text[: text.index("<nav")]


def test_every_compared_row_has_one_line(filled: Filled) -> None:
    text, part = written(*filled)
    (lines,) = re.findall(r'<dl class="verdicts">(.*?)</dl>', text, flags=re.DOTALL)
    assert re.findall("<dt>(.*?)</dt>", lines) == list(part.verdicts)
    assert len(re.findall("<dd>tail mAP .* baseline</dd>", lines)) == len(part.verdicts)


def test_every_note_is_on_the_page_and_folded(filled: Filled) -> None:
    from markupsafe import escape

    text, part = written(*filled)
    notes = [*part.notes, *part.verdict_notes, *part.verdicts.values()]
    assert len(notes) > 10
    for note in notes:
        assert str(escape(note)) in text
    seen = unfolded(text[: text.index("<nav")])
    for note in notes:
        assert str(escape(note)) not in seen


def test_what_is_compared_is_seen_without_unfolding(filled: Filled) -> None:
    text, part = written(*filled)
    facts = dict(setting_facts(part))
    assert facts == {
        "Compared": "5 rows. Each row trains a densenet121 on the same real images and on the images that its method makes.",
        "Images": "120 train, 48 val and 72 test images of 32 px, split by patient; 10 synthetic images for each of the 3 "
        "tail classes.",
        "Seeds": "0, 1 and 2. The table shows the mean ± standard deviation over them.",
        "FID and KID": "Extractor toy-8d-native, between 11 real and 10 synthetic images of each tail class.",
        "Control": "baseline: the other rows are compared with it at the same seed.",
    }
    for fact in facts.values():
        assert fact in unfolded(text)
    assert dict(setting_facts(written(*one_seed(filled))[1]))["Seeds"].startswith("Seed 0 alone")


def test_the_facts_say_what_the_matrix_asks_for_beside_the_tail(filled: Filled) -> None:
    matrix, results, store = filled
    plan = matrix.settings.augment.model_copy(update={"counts": {"Fracture": 500, "Lung Opacity": 20}})
    asked = replace(matrix, settings=matrix.settings.model_copy(update={"augment": plan}))
    made = [replace(r.cell, augmented=r.cell.augmented.model_copy(update={"plan": plan})) for r in results]
    told = [replace(r, cell=cell) for r, cell in zip(results, made, strict=True)]
    (part,) = parts_of(asked, told, store)
    facts, phrase = dict(setting_facts(part)), "but for Fracture 500, Lung Opacity 20."
    assert facts["Images"].endswith(f"; 10 synthetic images for each of the 3 tail classes, {phrase}")
    assert facts["FID and KID"].endswith("synthetic images of each class that images were made for.")
    (empty,) = parts_of(asked, [CellResult(r.cell, "missing") for r in told], None)
    assert dict(setting_facts(empty))["Images"] == f"10 synthetic images for each tail class, {phrase}"


def test_before_anything_has_finished_the_facts_are_those_of_the_matrix() -> None:
    matrix = fixtures.make_matrix()
    (part,) = parts_of(matrix, [CellResult(c, "missing") for c in matrix.cells], None)
    facts = dict(setting_facts(part))
    assert list(facts) == ["Compared", "Images", "Seeds", "Control"]
    assert facts["Images"] == "10 synthetic images for each tail class."
    assert facts["Control"] == "baseline, with which no row can be compared yet."


@pytest.mark.parametrize(
    ("n", "lengths"), [(0, []), (1, [1]), (8, [8]), (9, [4, 5]), (16, [8, 8]), (17, [5, 6, 6]), (30, [7, 8, 7, 8])]
)
def test_blocks_are_few_and_of_about_the_same_length(n: int, lengths: list[int]) -> None:
    found = blocks(n, 8)
    assert [i for block in found for i in block] == list(range(n))
    assert [len(block) for block in found] == lengths


def test_a_wide_table_keeps_its_cells_and_has_its_notes_once() -> None:
    table = TextTable("x", ["row", *map(str, range(10))], [["a", *map(str, range(10, 20))]], ["note"])
    first, second = blocks_of(table)
    assert first.headings[0] == second.headings[0] == "row"
    assert [*first.headings[1:], *second.headings[1:]] == table.headings[1:]
    assert [*first.lines[0][1:], *second.lines[0][1:]] == table.lines[0][1:]
    assert (first.notes, second.notes) == ([], ["note"])
    assert blocks_of(None) == []
