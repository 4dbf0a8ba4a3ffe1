"""A legend names exactly what is drawn: a row without marks is not in it, and no mark is without its name."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

from bench.matrix.study import Study
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.differences import EFFECT_COLUMNS, Effect
from reports.figures import charts
from reports.figures.effects import forest
from reports.figures.nearest import nearest_images
from reports.figures.study import study_figures
from reports.figures.style import LIGHT, Drawing, Looks, Omitted, legend_below, settings
from reports.run_facts import DatasetFacts, dataset_facts
from reports.statistics import over_seeds
from tests.unit.reports import report_fixtures as fixtures

LABELS = [m.label for m in fixtures.METHODS]  # `baseline` makes no images, `declines` skips the data set
LOOKS = Looks(LABELS)
Filled = tuple[list[CellResult], DatasetFacts, Store]


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Filled:
    store, matrix = Store(tmp_path_factory.mktemp("store")), fixtures.make_matrix(seeds=(0, 1, 2))
    results = [r for r in fixtures.with_nearest(fixtures.fill(matrix, store), store) if r.counted]
    facts = dataset_facts(matrix.cells[0], store)
    assert facts is not None
    return results, facts, store


def drawn(item: Drawing | Omitted) -> Figure:
    assert isinstance(item, Drawing)
    figure = item.draw(LIGHT)
    figure.canvas.draw()
    return figure


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for one in figure.legends for text in one.get_texts()]


def rows_drawn(figure: Figure) -> set[str]:
    """The rows whose colour some mark with a finite value has, in any panel."""
    by_colour = {to_hex(colour): label for label, colour in LOOKS.colour.items()}
    return {by_colour[colour] for colour in colours_drawn(figure) if colour in by_colour}


def colours_drawn(figure: Figure) -> Iterator[str]:
    for ax in figure.axes:
        for line in ax.get_lines():
            if np.isfinite(np.asarray(line.get_ydata(), dtype=float)).any():
                yield to_hex(line.get_color())
        for bar in ax.patches:
            if np.isfinite(bar.get_height()) and bar.get_height() != 0:
                yield to_hex(bar.get_facecolor())


def without(results: list[CellResult], label: str, **numbers: object) -> list[CellResult]:
    """Results in which one row has only these numbers left."""
    return [replace(r, **numbers) if r.cell.label == label else r for r in results]


def test_a_row_that_makes_no_images_has_no_bars_of_label_fidelity_and_no_name_there(filled: Filled) -> None:
    results, facts, _ = filled
    shares = next(r.fidelity["label_fidelity"] for r in results if r.cell.label == "baseline")
    assert shares == dict.fromkeys(fixtures.TAIL)  # as fidelity stores it: every class, without a number
    figure = drawn(charts.label_fidelity(results, facts, LOOKS))
    assert legend(figure) == ["smote", "ours@0", "ours@5"]
    assert rows_drawn(figure) == set(legend(figure))


def test_a_row_without_average_precision_is_not_named(filled: Filled) -> None:
    results, facts, _ = filled
    figure = drawn(charts.ap_by_frequency(results, facts, LOOKS))
    assert legend(figure) == ["baseline", "smote", "ours@0", "ours@5", "no skill (prevalence)"]
    scores = next(r.scores for r in results if r.cell.label == "smote")
    bare = without(results, "smote", scores={**scores, "ap": dict.fromkeys(fixtures.CLASSES)})
    figure = drawn(charts.ap_by_frequency(bare, facts, LOOKS))
    assert legend(figure) == ["baseline", "ours@0", "ours@5", "no skill (prevalence)"]
    assert rows_drawn(figure) == {"baseline", "ours@0", "ours@5"}


def test_every_group_of_classes_has_a_panel_and_the_alt_text_says_which(filled: Filled) -> None:
    results, facts, _ = filled
    grouped = replace(facts, head=fixtures.HEAD[:1], medium=fixtures.HEAD[1:2])
    item = charts.ap_by_frequency(results, grouped, LOOKS)
    panels = [ax.get_xlabel().split()[0] for ax in drawn(item).axes]
    assert panels == ["tail", "medium", "other", "head"]
    said = "Average precision of 6 classes for 4 methods, the rarest class first, with a panel each for the tail, medium, other and head classes."
    assert isinstance(item, Drawing)
    assert item.alt == said
    unseen = replace(facts, train_counts=facts.train_counts | {fixtures.TAIL[0]: 0})  # a class without a train image
    item = charts.ap_by_frequency(results, unseen, LOOKS)
    assert isinstance(item, Drawing)
    assert (
        "5 classes for 4 methods, the rarest class first, with a panel each for the tail and head classes." in item.alt
    )


def test_labels_of_panels_lie_beside_each_other(filled: Filled) -> None:
    results, facts, _ = filled
    grouped = replace(facts, head=fixtures.HEAD[:1], medium=fixtures.HEAD[1:2])
    with matplotlib.rc_context(settings(LIGHT)):
        figure = drawn(charts.ap_by_frequency(results, grouped, LOOKS))
    boxes = [ax.xaxis.label.get_window_extent() for ax in figure.axes]
    assert all(left.x1 <= right.x0 for left, right in itertools.pairwise(boxes))
    assert boxes[0].x0 >= 0
    assert boxes[-1].x1 <= figure.bbox.width


def test_a_row_that_one_panel_alone_has_is_named(filled: Filled) -> None:
    results, facts, _ = filled
    scores = next(r.scores for r in results if r.cell.label == "smote")
    ap = {c: 0.5 if c in fixtures.TAIL else None for c in fixtures.CLASSES}
    figure = drawn(charts.ap_by_frequency(without(results, "smote", scores={**scores, "ap": ap}), facts, LOOKS))
    assert "smote" in legend(figure)


def test_levels_that_are_missing_are_not_named_beside_the_steps(filled: Filled) -> None:
    results, _, _ = filled
    figure = drawn(charts.quality_by_steps(results, LOOKS))
    poster = "poster, other data and extractor"
    assert legend(figure) == [
        "ours@0",
        "ours@5",
        "real images against real images",
        "baseline (adds no images)",
        poster,
    ]
    assert rows_drawn(figure) == {"ours@0", "ours@5", "baseline"}
    no_floor = [replace(r, fidelity={**r.fidelity, "fid_tail_floor": None}) for r in results]
    unscored = without(no_floor, "baseline", scores={"map_tail": None})
    assert legend(drawn(charts.quality_by_steps(unscored, LOOKS))) == ["ours@0", "ours@5", poster]


def test_a_classifier_without_a_curve_is_not_named(filled: Filled) -> None:
    results, _, _ = filled
    assert legend(drawn(charts.training_curves(results, LOOKS))) == ["baseline", "smote", "ours@0", "ours@5"]
    blank = [{"step": 2, "val_map_head": None, "val_map_tail": None}]
    figure = drawn(charts.training_curves(without(results, "baseline", history=blank), LOOKS))
    assert legend(figure) == ["smote", "ours@0", "ours@5"]
    assert rows_drawn(figure) == set(legend(figure))


def test_the_marks_of_the_nearest_images_are_named_where_they_are(filled: Filled) -> None:
    results, _, store = filled
    figure = drawn(nearest_images(results, store, LOOKS))
    marks = ["nearest train image", "nearest one that is not of a parent's patient", "held-out real images, 5 to 95 %"]
    assert legend(figure) == marks
    alone = [r for r in results if r.cell.label == "smote"][:1]
    folder = store.folder(alone[0].cell.fidelity)
    kept = np.load(folder / "nearest_without_parents.npy")
    try:  # every nearest image is no parent
        np.save(folder / "nearest_without_parents.npy", np.load(folder / "nearest_synthetic.npy"))
        assert legend(drawn(nearest_images(alone, store, LOOKS))) == [marks[0], marks[2]]
    finally:
        np.save(folder / "nearest_without_parents.npy", kept)


def test_a_study_names_the_lines_and_levels_that_have_a_value(filled: Filled) -> None:
    results, _, _ = filled
    study = Study(
        x="method.denoise_steps", line="method", columns=["map_tail", "fid_tail"], levels=["baseline", "smote"]
    )
    (item,) = study_figures(study, results)
    assert legend(drawn(item)) == ["ours@0", "ours@5", "baseline (level)", "smote (level)"]
    bare = without(results, "baseline", scores={"map_tail": None})
    (item,) = study_figures(study, bare)
    assert legend(drawn(item)) == ["ours@0", "ours@5", "smote (level)"]  # baseline has no FID, and now no mAP


def test_the_forest_plot_names_its_controls_and_the_fillings_that_occur() -> None:
    column = next(c for c in EFFECT_COLUMNS if c.key == "map_tail")

    def effect(row: str, differences: list[float]) -> Effect:
        seeds = tuple(range(len(differences)))
        return Effect("d", row, "base", False, column, seeds, tuple(differences), over_seeds(differences))

    clear, few = effect("a", [0.10, 0.11, 0.09, 0.10, 0.12, 0.10]), effect("b", [0.10, 0.11, 0.09])
    noise = effect("c", [0.1, -0.1, 0.02, -0.03, 0.05, -0.02])
    full, half, hollow = (legend(drawn(forest([e], "blobs"))) for e in (clear, few, noise))
    assert {names[0] for names in (full, half, hollow)} == {"minus base"}
    assert [len(names) for names in (full, half, hollow)] == [2, 2, 2]
    assert legend(drawn(forest([clear, few, noise], "blobs"))) == ["minus base", full[1], half[1], hollow[1]]


def test_a_figure_with_nothing_to_name_has_no_legend() -> None:
    figure = Figure()
    legend_below(figure, [], [])
    assert figure.legends == []


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (["best_val_map_all"], "overfit, and the checkpoint that is best on val is chosen."),
        (["last"], "overfit, and their last checkpoint is the one that is tested."),
        (["best_val_map_all", "last"], "overfit, and their last checkpoint is tested with `selection: last`."),
    ],
)
def test_the_caption_of_the_curves_says_which_checkpoint_is_tested(filled: Filled, rules: list[str], said: str) -> None:
    results = [replace(r, scores=r.scores | {"selection": rules[i % len(rules)]}) for i, r in enumerate(filled[0])]
    item = charts.training_curves(results, LOOKS)
    assert isinstance(item, Drawing)
    assert item.caption.endswith(said)


def test_steps_of_the_optimiser_are_whole_numbers_however_few_there_are(filled: Filled) -> None:
    history = [{"step": step, "val_map_head": 0.3, "val_map_tail": 0.1} for step in (2, 3, 4)]
    results = [replace(result, history=history) for result in filled[0]]
    figure = drawn(charts.training_curves(results, LOOKS))
    for ax in figure.axes:
        assert all(float(tick).is_integer() for tick in ax.get_xticks())


def test_many_rows_that_differ_in_the_number_alone_are_named_as_one_line(
    filled: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    results, _, _ = filled
    monkeypatch.setattr(charts, "_MOST_MARKERS", 1)
    figure = drawn(charts.quality_by_steps(results, LOOKS))
    assert legend(figure)[0] == "ours@d"
    assert [0, 5] in [list(line.get_xdata()) for line in figure.axes[0].get_lines() if line.get_linestyle() == "-"]
