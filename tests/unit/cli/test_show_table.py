"""What is printed of a matrix: the table, one line a row, and the commands that come next; all else in the notes."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console, RenderableType

from bench.cli.options import DEFAULT_STORE, Request
from bench.cli.show_table import LONGEST, next_steps, print_table, short_verdicts, with_notes, without_notes
from bench.matrix.matrix import Matrix
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.differences import EFFECT_COLUMNS, MAIN, Effect
from reports.report_folder import folder_for
from reports.statistics import over_seeds
from tests.unit.reports import report_fixtures as fixtures

REQUEST = Request("toy-report", None, DEFAULT_STORE)
COLUMN = next(column for column in EFFECT_COLUMNS if column.key == MAIN)
Seeded = tuple[Matrix, list[CellResult], Store]


@pytest.fixture(scope="module")
def seeded(tmp_path_factory: pytest.TempPathFactory) -> Seeded:
    """A matrix of five methods and three seeds, its results and its store."""
    store = Store(tmp_path_factory.mktemp("store"))
    matrix = fixtures.make_matrix(seeds=(0, 1, 2))
    return matrix, fixtures.fill(matrix, store), store


@pytest.fixture(autouse=True)
def no_store_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BENCH_STORE", raising=False)


def rendered(what: RenderableType, width: int = 160) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(what)
    return text.getvalue()


def effect(row: str, control: str, *differences: float) -> Effect:
    return Effect(
        "d", row, control, False, COLUMN, tuple(range(len(differences))), differences, over_seeds(differences)
    )


def test_the_notes_hold_everything(seeded: Seeded) -> None:
    text = rendered(with_notes(*seeded))
    for piece in (
        "toy-report: blobs",
        "Chosen where the paper is silent",
        "ours@5",
        "130.110",
        "no skill",
        "0.050",
        "120 / 48 / 72",
        "toy-8d-native",
        "95 % CI",
    ):
        assert piece in text
    assert "! declines: skipped" in text


def test_without_them_there_are_the_table_its_holes_and_a_short_line_a_row(seeded: Seeded) -> None:
    matrix, results, store = seeded
    text, whole = rendered(without_notes(matrix, results)).splitlines(), rendered(with_notes(*seeded)).splitlines()
    below = next(i for i, line in enumerate(text) if line.startswith("! declines: skipped"))
    assert text[: below + 1] == whole[: below + 1]
    compared = {e.row for e in fixtures_effects(results)}
    lines = text[below + 1 :]
    assert {line.split(":")[0] for line in lines} == {f"> {row}" for row in compared}
    assert max(map(len, lines)) <= LONGEST


def fixtures_effects(results: list[CellResult]) -> list[Effect]:
    from reports.differences import effects

    return effects(results, None, [COLUMN])


def test_the_table_fits_80_columns(seeded: Seeded) -> None:
    matrix, results, _ = seeded
    table = rendered(without_notes(matrix, results), width=80).splitlines()
    assert max(map(len, table)) <= 80
    assert any(line.split()[:1] == ["ours@5"] for line in table), "names are not cut"


def test_of_nothing_yet_run_every_row_is_a_hole(tmp_path: Path) -> None:
    matrix = fixtures.make_matrix()
    results = [CellResult(c, "missing") for c in matrix.cells]
    for text in (rendered(without_notes(matrix, results)), rendered(with_notes(matrix, results, Store(tmp_path)))):
        assert "! smote: not run yet" in text
        assert "> " not in text
    steps = next_steps(REQUEST, matrix, results, Store(tmp_path))
    assert steps == ["compute the rest: bench run toy-report", "notes: bench table toy-report --notes"]


@pytest.mark.parametrize(
    ("differences", "said"),
    [
        ((0.020, 0.021, 0.022, 0.019, 0.020, 0.021), "higher than"),
        ((-0.020, -0.021, -0.022, -0.019, -0.020, -0.021), "lower than"),
        ((0.020, 0.021, 0.022), "perhaps higher than"),
        ((-0.020, -0.021, -0.022), "perhaps lower than"),
        ((0.02, -0.02, 0.01, -0.01), "not shown to differ from"),
        ((0.02, 0.02, 0.02), "not yet comparable with"),
    ],
)
def test_every_verdict_has_its_words(differences: tuple[float, ...], said: str) -> None:
    assert short_verdicts([effect("x", "base", *differences)]) == [f"x: tail mAP {said} base"]


def test_controls_with_the_same_verdict_share_its_words() -> None:
    up, unclear = (0.020, 0.021, 0.022), (0.02, -0.02, 0.01)
    both = short_verdicts([effect("x", "baseline", *up), effect("x", "duplicate", *up)])
    assert both == ["x: tail mAP perhaps higher than baseline and duplicate"]
    apart = short_verdicts([effect("x", "baseline", *up), effect("x", "duplicate", *unclear)])
    assert apart == ["x: tail mAP perhaps higher than baseline; not shown to differ from duplicate"]


def test_with_too_few_seeds_one_sentence_speaks_of_all_rows() -> None:
    assert short_verdicts([]) == []
    one = short_verdicts([effect("x", "base", 0.1), effect("y", "base", -0.1)])
    assert one == ["One seed cannot rank these rows: training them again could change their order."]
    two = short_verdicts([effect("x", "base", 0.1, 0.2), effect("y", "base", -0.1)])
    assert two == ["2 seeds cannot rank these rows: training them again could change their order."]
    some = short_verdicts([effect("x", "base", 0.1, 0.2, 0.4), effect("y", "base", -0.1)])
    assert some == ["x: tail mAP perhaps higher than base", "y: tail mAP not yet comparable with base"]


def test_a_line_is_never_longer_than_it_may_be() -> None:
    (line,) = short_verdicts([effect("x" * 300, "base", 0.1, 0.2, 0.4)])
    assert len(f"> {line}") == LONGEST
    assert line.endswith("…")


def test_the_next_steps_are_the_report_and_more_seeds(seeded: Seeded) -> None:
    matrix, results, store = seeded
    assert next_steps(REQUEST, matrix, results, store) == [
        "report: bench report toy-report",
        "more seeds: bench run toy-report --set 'seeds=[0,1,2,3,4,5]'",
        "notes: bench table toy-report --notes",
    ]
    assert next_steps(REQUEST, matrix, results, store, notes=True)[-1].startswith("more seeds: ")
    request = Request("toy-report", ["seeds=[0, 1, 2]", "name=toy-report"], Path("/runs"))
    assert next_steps(request, matrix, results, store)[1] == (
        "more seeds: bench run toy-report --set name=toy-report --set 'seeds=[0,1,2,3,4,5]' --store /runs"
    )


@pytest.mark.parametrize(
    ("seeds", "longer"),
    [((0,), "[0,1,2]"), ((7,), "[7,0,1]"), ((1, 0), "[1,0,2]"), ((0, 1, 2, 3), "[0,1,2,3,4,5]"), (range(6), None)],
)
def test_seeds_that_are_there_stay_and_six_are_enough(seeded: Seeded, seeds: tuple[int, ...], longer: str) -> None:
    matrix, results, store = seeded
    other = replace(matrix, settings=matrix.settings.model_copy(update={"seeds": list(seeds)}))
    steps = next_steps(REQUEST, other, results, store)
    assert [step for step in steps if step.startswith("more seeds")] == (
        [f"more seeds: bench run toy-report --set 'seeds={longer}'"] if longer else []
    )


def test_what_failed_comes_first(seeded: Seeded) -> None:
    matrix, results, store = seeded
    failed = [replace(results[0], state="failed"), *results[1:]]
    assert next_steps(REQUEST, matrix, failed, store) == [
        "try again: bench run toy-report --retry-failed",
        "report: bench report toy-report",
        "notes: bench table toy-report --notes",
    ]


def test_a_page_is_named_with_its_age_if_it_is_of_these_cells(seeded: Seeded) -> None:
    matrix, results, store = seeded
    page = store.root / "reports" / matrix.name / "report.html"
    with folder_for(page.parent, replace(matrix, cells=matrix.cells[1:]), share=False) as folder:
        (folder / page.name).touch()
    shown = DEFAULT_STORE / "reports" / matrix.name / "report.html"
    command = "bench report toy-report"
    (other, *_) = next_steps(REQUEST, matrix, results, store)
    assert other == f"report (the one in {shown} is of other rows, seeds, settings or code): {command}"
    with folder_for(page.parent, matrix, share=False) as folder:
        (folder / page.name).touch()
    (fresh, *_) = next_steps(REQUEST, matrix, results, store)
    assert fresh == f"report: {shown} (to write it again: {command})"
    os.utime(page, (0, 0))
    for stage in results[0].cell.targets:
        store.folder(stage).mkdir(parents=True, exist_ok=True)
        (store.folder(stage) / "manifest.json").touch()
    (old, *_) = next_steps(REQUEST, matrix, results, store)
    assert old == f"report (the one in {shown} is older than these results): {command}"


def test_commands_are_never_wrapped(seeded: Seeded) -> None:
    matrix, results, store = seeded
    text = io.StringIO()
    request = Request("toy-report", ["x=" + "long " * 30], DEFAULT_STORE)
    print_table(request, matrix, results, store, Console(file=text, width=80))
    assert text.getvalue().splitlines()[-1] == f"notes: {request.command('table', '--notes')}"
