"""Tail classes of few test patients, the floor's spread and the paper's numbers: what is told, and where."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from bench.cli.show_table import with_notes, without_notes
from bench.matrix.matrix import Matrix
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.paper_table import csv_table, latex, markdown, parts_of
from reports.report import write_report
from tests.unit.reports import report_fixtures as fixtures
from tests.unit.reports.test_report import parse

Filled = tuple[Matrix, list[CellResult], Store]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    store = Store(tmp_path_factory.mktemp("store"))
    matrix = fixtures.make_matrix(methods=fixtures.METHODS[:3])
    return matrix, fixtures.fill(matrix, store), store


def few(results: list[CellResult], **classes: int) -> list[CellResult]:
    """Return results in which the named classes rest on so many test patients."""
    more = {"few_patients": classes, "map_tail_supported": 0.4321, "prevalence_tail_supported": 0.0567}
    return [replace(r, scores={**(r.scores or {}), **more}) for r in results]


def printed(what: object) -> str:
    text = io.StringIO()
    Console(file=text, width=200).print(what)
    return text.getvalue()


def test_a_class_of_one_test_patient_is_marked_in_every_table_with_the_mean_without_it(
    filled: Filled, tmp_path: Path
) -> None:
    matrix, results, store = filled
    thin = few(results, Fracture=1)
    note = "† Tail mAP rests on a class of 1 test patient: Fracture."
    heading, value = "mAP tail without Fracture", f"{(results[0].scores or {})['map_tail']:.3f} †"
    (part,) = parts_of(matrix, thin, store)
    assert part.headings[5:7] == ["mAP tail ↑", f"{heading} ↑"]
    assert part.lines[0][5:7] == [value, "0.432"]
    assert part.lines[-1][6] == "0.057"  # the level without skill, of the same classes
    assert part.notes[0].startswith(note)
    assert all(said.endswith(" †") for said in part.verdicts.values())
    assert part.verdicts
    write_report(matrix, thin, store, tmp_path / "report")
    page = " ".join("".join(parse(tmp_path / "report" / "report.html").text).split())
    terminal = printed(with_notes(matrix, thin, store)), printed(without_notes(matrix, thin))
    for text in (markdown([part]), page, *terminal):
        assert note in text
        assert value in text
    for text in terminal:
        said = "The mean without this class: baseline 0.432, smote 0.432, ours@0 0.432."
        assert said in " ".join(text.split())
    assert "textdagger" in latex([part])
    (row, *_) = csv.DictReader(io.StringIO(csv_table([part])))
    assert row["map_tail_supported"] == "0.4321"


def test_several_classes_are_named_with_their_patients(filled: Filled) -> None:
    matrix, results, store = filled
    (part,) = parts_of(matrix, few(results, **{"Fracture": 1, "50 % | x_y": 2}), store)
    assert part.headings[6] == "mAP tail without 2 classes ↑"
    assert "rests on 2 classes of few test patients: Fracture (1), 50 % | x_y (2)" in part.notes[0]


def test_nothing_is_marked_where_all_classes_have_enough(filled: Filled) -> None:
    matrix, results, store = filled
    (part,) = parts_of(matrix, few(results), store)
    assert not any("†" in text for line in part.lines for text in line)
    assert not any("without" in heading for heading in part.headings)
    assert "†" not in markdown([part])


def test_a_class_whose_real_images_are_of_one_patient_is_told_with_its_weight(filled: Filled) -> None:
    matrix, results, store = filled
    shares = {"Fracture": 0.67, "Enlarged Cardiomediastinum": 0.1}
    fid = {"Fracture": 44.0, "Enlarged Cardiomediastinum": 36.0, "50 % | x_y": 20.0}
    skewed = []
    for r in results:
        of = (r.fidelity or {})["per_class"]
        told = {n: {**c, "largest_patient": shares.get(n, 0.2), "fid": c["fid"] and fid[n]} for n, c in of.items()}
        skewed.append(replace(r, fidelity={**(r.fidelity or {}), "per_class": told}))
    (part,) = parts_of(matrix, skewed, store)
    (note,) = (note for note in part.notes if "single patient" in note)
    assert note.endswith("Fracture: 67 % of 11, and 44 % of the tail FID.")


def test_a_head_class_that_images_were_made_for_has_no_part_in_the_tail_fid(filled: Filled) -> None:
    matrix, results, store = filled
    more = {name: {"fid": 100.0, "n_real": 11, "largest_patient": 0.9} for name in fixtures.HEAD}
    of_one = []
    for r in results:
        of = {
            n: {**c, "fid": c["fid"] and 25.0, "largest_patient": 0.5}
            for n, c in (r.fidelity or {})["per_class"].items()
        }
        of_one.append(replace(r, fidelity={**(r.fidelity or {}), "per_class": {**of, **more}}))
    (part,) = parts_of(matrix, of_one, store)
    (note,) = (note for note in part.notes if "single patient" in note)
    assert note.count("33 % of the tail FID") == len(fixtures.TAIL)
    assert not any(name in note for name in fixtures.HEAD)


def test_the_spread_of_the_floor_is_told(filled: Filled, tmp_path: Path) -> None:
    matrix, results, store = filled
    told = [
        replace(
            r,
            fidelity={
                **(r.fidelity or {}),
                "fid_tail_floor_spread": 3.04,
                "floor_draws": 20,
                "per_class": {n: {**c, "fid_floor_spread": 1.7} for n, c in (r.fidelity or {})["per_class"].items()},
            },
        )
        for r in results
    ]
    (part,) = parts_of(matrix, told, store)
    said = "The floor is the mean over 20 draws of these other images; a single draw misses it by 3.04 (sd)."
    assert any(said in note for note in part.notes)
    assert "| floor sd (draws) |" in markdown([part])
    write_report(matrix, told, store, tmp_path / "report")
    assert "8.5 ± 1.7" in " ".join("".join(parse(tmp_path / "report" / "report.html").text).split())


@pytest.mark.parametrize(("said", "own"), [(None, False), (True, True), (False, False)])
def test_the_papers_numbers_stand_beside_ones_own_data_only_if_asked_for(
    filled: Filled, monkeypatch: pytest.MonkeyPatch, said: bool | None, own: bool
) -> None:
    matrix, results, store = filled
    monkeypatch.setattr(fixtures.Blobs, "beside_published", False)
    asked = replace(matrix, settings=matrix.settings.model_copy(update={"published": said}))
    (part,) = parts_of(asked, results, store)
    assert any("poster" in heading for heading in part.headings) == own
    assert ("poster" in markdown([part])) == own
    assert bool(part.chosen) == own
