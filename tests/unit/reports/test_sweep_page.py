"""The page of a sweep: every trial, the front, the figures that can be drawn, and nothing that runs."""

from __future__ import annotations

from pathlib import Path

import pytest
from matplotlib import rc_context

from reports.beside_fid import TextTable
from reports.figures.search import Search, Trial, search_figures
from reports.figures.style import LIGHT, Drawing, save, settings
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


def slices_of(by: dict[int, str]) -> Drawing:
    done = tuple(Trial(n, "done", TRIALS[n].values, TRIALS[n].params | {"by": by[n]}, 1.0) for n in by)
    search = Search("study", OBJECTIVES, done, 2, (2,), {}, frozenset({"rate"}))
    return next(d for d in search_figures(search) if isinstance(d, Drawing) and d.name == "slices")


def test_a_word_with_dollar_signs_is_no_formula_and_powers_of_ten_are_plain_numbers(tmp_path: Path) -> None:
    by = {0: r"cost $\frac$", 2: "a $b_c$"}
    slices = slices_of(by)
    with rc_context(settings(LIGHT)):
        figure = slices.draw(LIGHT)
        figure.savefig(tmp_path / "slices.png")
    rate, words = figure.axes
    assert [label.get_text() for label in words.get_xticklabels()] == sorted(by.values())
    assert {"0.01", "0.1"} <= {label.get_text() for label in rate.get_xticklabels()}


def test_long_words_leave_room_for_the_panels(tmp_path: Path) -> None:
    figure = slices_of({0: "a very long choice of many words", 2: "another one that is as long as that"}).draw(LIGHT)
    figure.savefig(tmp_path / "slices.png")
    words = figure.axes[1]
    assert words.get_position().height > 0.4
    for tick, label in zip(words.get_xticks(), words.get_xticklabels(), strict=True):
        (x, _), box = words.transData.transform((tick, 0)), label.get_window_extent()
        assert abs(x - box.x1) < 0.15 * box.width + 10  # the end of a word is at its tick


def test_letters_that_the_font_lacks_are_told_once_in_the_caption(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    saved = save(slices_of({0: "长尾", 2: "尾"}), tmp_path)
    assert saved.drawing.caption.endswith("lacks: 尾长.")
    assert [str(w.message) for w in recwarn if "Glyph" in str(w.message)] == []
    assert "lacks" not in save(slices_of({0: "Pneumothorax ñ", 2: "é"}), tmp_path).drawing.caption
