"""The page of a sweep: every trial, the front, the figures that can be drawn, and nothing that runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from reports.beside_fid import TextTable
from reports.figures.search import Search, Trial
from reports.sweep_page import write_sweep_page

OBJECTIVES = {"val_map_tail": "maximize", "fid_tail": "minimize"}
TRIALS = (
    Trial(0, "done", {"val_map_tail": 0.2, "fid_tail": 90.0}, {"rate": 0.01, "by": "cam"}, 30.0),
    Trial(1, "pruned", {"fid_tail": 300.0}, {"rate": 0.5, "by": "<b>code</b>"}, 5.0),
    Trial(2, "done", {"val_map_tail": 0.3, "fid_tail": 80.0}, {"rate": 0.1, "by": "<b>code</b>"}, 40.0),
    Trial(3, "failed", {}, {"rate": 0.2, "by": "cam"}, 1.0),
)
SEARCH = Search("study", OBJECTIVES, TRIALS, 2, (2,), {}, frozenset({"rate"}))


def written(search: Search, out: Path, confirmation: TextTable | None = None) -> str:
    files = write_sweep_page(search, "what it asks", confirmation, ["A sentence."], out)
    assert all(file.is_file() for file in files)
    return files[0].read_text(encoding="utf-8")


def test_the_page_holds_every_trial_and_escapes_its_words(tmp_path: Path) -> None:
    confirmation = TextTable("Confirmation", ["row", "mean"], [["baseline", "0.1234"]], [])
    text = written(SEARCH, tmp_path, confirmation)
    for words in ("4 trials: 2 done, 1 pruned, 1 failed.", "Trial 2 has the highest val_map_tail, 0.3000", "0.1234"):
        assert words in text
    assert "The trials took 1 min 16 s in all" in text
    assert "<b>code" not in text
    assert "<script" not in text
    assert sorted(p.name for p in (tmp_path / "figures").glob("*.pdf")) == ["history.pdf", "pareto.pdf", "slices.pdf"]
    assert "Which settings decide: there are too few finished trials" in text


def test_importances_are_drawn_where_they_are_known(tmp_path: Path) -> None:
    found = {metric: {"rate": 0.7, "by": 0.3} for metric in OBJECTIVES}
    text = written(Search("study", OBJECTIVES, TRIALS, 2, (2,), found), tmp_path)
    assert (tmp_path / "figures" / "importances.pdf").is_file()
    assert "val_map_tail: rate 0.70, by 0.30" in text


@pytest.mark.parametrize("trials", [(), TRIALS[3:]])
def test_a_sweep_without_a_finished_trial_has_a_page(tmp_path: Path, trials: tuple[Trial, ...]) -> None:
    text = written(Search("study", OBJECTIVES, trials, None, ()), tmp_path)
    assert "no trial has finished" in text
