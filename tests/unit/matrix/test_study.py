"""Studies: what lies on which line, refusals of paths that lead nowhere, the figure's numbers, and the shipped studies."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bench.data.kinds.phantom import HEAD, TAIL, Phantom, facts, render
from bench.data.kinds.phantom.labels import official_split, patient_of
from bench.data.kinds.phantom.settings import PhantomSetSettings
from bench.data.split import Split, SplitSettings
from bench.errors import ConfigError
from bench.evaluation.fidelity import Fidelity
from bench.evaluation.measures import FidelitySettings
from bench.matrix.build import build_matrix
from bench.matrix.load import load_matrix
from bench.matrix.matrix import Matrix
from bench.matrix.study import Study, settings_of
from bench.plugins.registry import parse_dataset
from bench.results.cells import CellResult
from bench.store.store import Store
from reports.figures.nearest import nearest_images
from reports.figures.study import study_figures
from reports.figures.style import LIGHT, Drawing, Looks, Omitted
from reports.study_series import series, unknown_columns
from tests.unit.classifier.classifier_fixtures import cell as toy_cell

ROWS: list[Any] = [
    "baseline",
    "duplicate",
    *({"row": f"ours, G{g}", "method": "ours@5", "settings": {"codec": {"generations": g}}} for g in (5, 1, 2)),
]
STUDY = {"x": "method.codec.generations", "line": "method", "columns": ["map_tail", "fid_tail", "blur"]}


def matrix(study: dict[str, Any] | None = None, rows: list[Any] | None = None, **changes: Any) -> Matrix:
    raw = {
        "name": "s",
        "datasets": [{"kind": "phantom", "n_images": 80}],
        "methods": rows or ROWS,
        "classifier": {"steps": 10},
        "seeds": [0, 1],
        "study": STUDY if study is None else study,
    }
    return build_matrix(raw | changes, "s.yaml")


def result(cell: Any, **changes: Any) -> CellResult:
    """Return a finished cell whose tail mAP is its generations plus a tenth of its seed."""
    generations = settings_of(cell).get("method.codec.generations", 20)
    given: dict[str, Any] = {
        "state": "done",
        "scores": {"map_tail": float(generations) + cell.seed / 10, "ap": {"Fracture": 0.1}},
        "fidelity": {"fid_tail": None if cell.label == "baseline" else 7.0, "metric_id": "x"},
        "diagnostics": {"blur": 0.5} if cell.label.startswith("ours") else None,
    }
    return CellResult(cell=cell, **(given | changes))


def test_rows_lie_on_the_line_by_their_setting_and_rows_without_it_are_levels() -> None:
    m = matrix()
    found = series(m.settings.study, [result(c) for c in m.cells])
    assert found.order == [1, 2, 5]
    assert found.numeric
    assert list(found.lines) == ["ours@5"]
    assert {(p.x, p.seed): p.values["map_tail"] for p in found.lines["ours@5"]} == pytest.approx(
        {(g, s): g + s / 10 for g in (1, 2, 5) for s in (0, 1)}
    )
    assert {p.values["blur"] for p in found.lines["ours@5"]} == {0.5}
    assert {label: [p.values["fid_tail"] for p in points] for label, points in found.levels.items()} == {
        "baseline": [None, None],
        "duplicate": [7.0, 7.0],
    }


def test_words_keep_the_matrix_order_and_named_levels_leave_the_axis() -> None:
    policies = ("union", "area", "teacher")
    rows = [{"row": f"smote, {policy}", "method": "smote", "settings": {"labels": policy}} for policy in policies]
    study = {"x": "method.labels", "line": "method", "columns": ["map_tail"], "levels": ["baseline", "duplicate"]}
    m = matrix(study, ["baseline", "duplicate", *rows])
    found = series(m.settings.study, [result(c) for c in m.cells])
    assert found.order == ["union", "area", "teacher"]
    assert not found.numeric
    assert list(found.lines) == ["smote"]
    assert list(found.levels) == ["baseline", "duplicate"]


def test_cells_that_have_no_figures_are_left_out() -> None:
    m = matrix()
    results = [result(c, state="missing", scores=None) if c.seed else result(c) for c in m.cells]
    results[-2] = result(m.cells[-2], skip="no anchors")  # G2, seed 0
    found = series(m.settings.study, results)
    assert [(p.x, p.seed) for p in found.lines["ours@5"]] == [(5, 0), (1, 0)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": "method.codec.generation"}, "study.x: no cell has a setting 'method.codec.generation'; did you mean 'method.codec.generations'?"),
        ({"x": "generations"}, "study.x: no cell has a setting 'generations'"),
        ({"line": "dataset.n_imags"}, "study.line: no cell has a setting 'dataset.n_imags'; did you mean 'dataset.n_images'?"),
        ({"levels": ["duplicat"]}, "study.levels: no row 'duplicat'; did you mean 'duplicate'? (rows: baseline, duplicate, ours, G1"),
        ({"x": "dataset.n_images"}, "both lie at dataset.n_images = 80 of line 'ours@5'"),
        ({"x": "method.labels", "line": "method"}, "both lie at method.labels = union of line 'ours@5'"),
        ({"columns": []}, "study.columns"),
        ({"y": "map_tail"}, "study.y"),
    ],
)  # fmt: skip
def test_a_fault_in_a_study_is_one_line(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        matrix(STUDY | changes)
    assert said in str(error.value)
    assert str(error.value).startswith("s.yaml")
    assert "\n" not in str(error.value)


def test_a_column_that_no_cell_has_is_named_with_the_nearest() -> None:
    m = matrix(STUDY | {"columns": ["map_tial", "blur"]})
    results = [result(c) for c in m.cells]
    assert unknown_columns(m.settings.study, results) == [
        "no finished cell has a number 'map_tial'; did you mean 'map_tail'?"
    ]
    only = matrix(STUDY | {"columns": ["map_tial"]})
    (drawn,) = study_figures(only.settings.study, [result(c) for c in only.cells])
    assert isinstance(drawn, Omitted)
    assert "did you mean 'map_tail'?" in drawn.reason


def test_a_column_may_be_a_figure_on_held_out_pairs() -> None:
    m = matrix(STUDY | {"columns": ["held_out_gap_tail"]})
    results = [result(c, scores={"map_tail": 0.5, "held_out": {"gap_tail": 0.25 + c.seed}}) for c in m.cells]
    assert unknown_columns(m.settings.study, results) == []
    assert {p.values["held_out_gap_tail"] for p in series(m.settings.study, results).lines["ours@5"]} == {0.25, 1.25}
    (drawn,) = study_figures(m.settings.study, results)
    assert isinstance(drawn, Drawing)


@pytest.mark.parametrize("x", ["method.denoise_steps", "dataset.n_images"])
def test_where_data_sets_share_a_figure_a_row_has_a_level_on_each(x: str) -> None:
    sizes = {"one": 80, "two": 120}
    m = matrix(
        {"x": x, "line": "dataset", "columns": ["map_tail"], "pool": True, "levels": ["baseline"]},
        ["baseline", "ours@5"],
        datasets=[{"kind": "phantom", "name": name, "n_images": n} for name, n in sizes.items()],
    )
    results = [result(c, scores={"map_tail": sizes[c.dataset.label] + c.seed / 10}) for c in m.cells]
    found = series(m.settings.study, results)
    assert {name: [p.values["map_tail"] for p in points] for name, points in found.levels.items()} == {
        "baseline on one": [80.0, 80.1],
        "baseline on two": [120.0, 120.1],
    }
    (drawn,) = study_figures(m.settings.study, results)
    assert isinstance(drawn, Drawing)
    assert "The horizontal lines are baseline on one, baseline on two," in drawn.caption
    alone = [r for r in results if r.cell.dataset.label == "one"]
    assert list(series(m.settings.study, alone).levels) == ["baseline"]


def test_cells_of_one_seed_at_one_place_of_the_record_are_refused_and_not_called_seeds() -> None:
    m = matrix({"x": "record.n_real", "line": "method.labels", "columns": ["map_tail"]})
    (drawn,) = study_figures(m.settings.study, [result(c, classifier={"n_real": 40}) for c in m.cells])
    assert isinstance(drawn, Omitted)
    said = "phantom/baseline/s0 and phantom/duplicate/s0 both lie at record.n_real = 40 of line 'own'"
    assert said in drawn.reason
    apart = [result(c, classifier={"n_real": i}) for i, c in enumerate(m.cells)]
    (drawn,) = study_figures(m.settings.study, apart)
    assert isinstance(drawn, Drawing)
    assert "n = 1 a place" in drawn.caption


def test_rows_without_the_setting_of_the_line_are_lines_of_their_own() -> None:
    m = matrix(
        {"x": "augmented.plan.per_class", "line": "method.codec.generations", "columns": ["map_tail"]}, [*ROWS, "smote"]
    )
    assert {"baseline", "duplicate", "smote"} < set(series(m.settings.study, [result(c) for c in m.cells]).lines)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"x": "record.n_reel"}, "study.x: no finished cell has 'record.n_reel'; did you mean 'record.n_real'?"),
        ({"x": "row", "line": "record.n_reel"}, "study.line: no finished cell has 'record.n_reel'; did you mean"),
    ],
)
def test_a_record_that_no_finished_cell_has_is_named_with_the_nearest(changes: dict[str, Any], said: str) -> None:
    m = matrix({"line": "row", "columns": ["map_tail"]} | changes)
    (drawn,) = study_figures(m.settings.study, [result(c, classifier={"n_real": 40}) for c in m.cells])
    assert isinstance(drawn, Omitted)
    assert said in drawn.reason
    none = [result(c, state="missing", scores=None) for c in m.cells]
    (drawn,) = study_figures(m.settings.study, none)
    assert isinstance(drawn, Omitted)
    assert drawn.reason == "no cell of a line has finished"


def test_two_data_sets_have_a_figure_each_with_their_own_cells() -> None:
    kinds = [{"kind": "phantom", "name": name, "n_images": 80} for name in ("one", "two")]
    m = matrix(STUDY | {"columns": ["map_tail"]}, datasets=kinds)
    shift = {"one": 0.0, "two": 100.0}
    results = []
    for c in m.cells:
        made = result(c)
        results.append(result(c, scores={"map_tail": made.scores["map_tail"] + shift[c.dataset.label]}))
    drawings = study_figures(m.settings.study, results)
    assert [d.name for d in drawings] == ["one-study", "two-study"]
    for drawing, more in zip(drawings, shift.values(), strict=True):
        (ax,) = drawing.draw(LIGHT).axes
        means = [
            np.atleast_1d(line.get_ydata()) for line in ax.get_lines() if len(np.atleast_1d(line.get_xdata())) == 3
        ]
        assert any(np.allclose(y, np.array([1.05, 2.05, 5.05]) + more) for y in means)
        assert "n = 2 a place" in drawing.caption


def test_the_record_of_the_training_may_lie_on_the_axis() -> None:
    sizes = {"small": 80, "large": 160}
    m = matrix(
        {"x": "record.n_real", "columns": ["map_tail"], "pool": True},
        ["baseline", "smote"],
        datasets=[{"kind": "phantom", "name": name, "n_images": n} for name, n in sizes.items()],
    )
    results = [result(c, classifier={"n_real": sizes[c.dataset.label] // 2}) for c in m.cells]
    found = series(m.settings.study, results)
    assert found.order == [40, 80]
    assert {name: len(points) for name, points in found.lines.items()} == {"baseline": 4, "smote": 4}
    assert len(study_figures(m.settings.study, results)) == 1
    assert len(study_figures(m.settings.study.model_copy(update={"pool": False}), results)) == 2


@pytest.mark.parametrize("band", ["sd", "ci"])
def test_the_figure_shows_every_seed_the_means_and_the_band(band: str) -> None:
    m = matrix(STUDY | {"band": band}, seeds=[0, 1, 2])
    (drawing,) = study_figures(m.settings.study, [result(c) for c in m.cells])
    assert isinstance(drawing, Drawing)
    figure = drawing.draw(LIGHT)
    assert [ax.get_title() for ax in figure.axes] == ["tail mAP ↑", "tail FID ↓", "blur"]
    ax = figure.axes[0]
    drawn = [(np.atleast_1d(line.get_xdata()), np.atleast_1d(line.get_ydata())) for line in ax.get_lines()]
    assert any(len(x) == 3 and np.allclose(x, [1, 2, 5]) and np.allclose(y, [1.1, 2.1, 5.1]) for x, y in drawn)
    dots = [y for x, y in drawn if len(x) == 3 and np.allclose(x, 5)]
    assert np.allclose(sorted(dots[0]), [5.0, 5.1, 5.2])
    assert sum(np.allclose(y, 20.1) for _, y in drawn) == 2  # the levels of baseline and duplicate
    (fill,) = ax.collections
    half = {"sd": 0.1, "ci": 4.302653 * 0.1 / np.sqrt(3)}[band]  # Student's t at 0.975 with 2 degrees of freedom
    at_five = [y for x, y in fill.get_paths()[0].vertices if x == 5]
    assert [min(at_five), max(at_five)] == pytest.approx([5.1 - half, 5.1 + half], rel=1e-5)
    assert "n = 3" in drawing.caption


def test_one_seed_is_drawn_without_a_spread() -> None:
    m = matrix(seeds=[0])
    (drawing,) = study_figures(m.settings.study, [result(c) for c in m.cells])
    assert "no spread is known" in drawing.caption
    drawing.draw(LIGHT)


def test_the_figure_of_nearest_images_shows_distances_over_the_held_out_median(tmp_path: Path) -> None:
    store = Store(tmp_path)
    results = []
    for label, per_class in (("twins", 6), ("none", 0)):
        made = toy_cell(per_class=per_class)
        stage = Fidelity(split=made.split, train=made.train, augmented=made.augmented, settings=FidelitySettings())
        cell = SimpleNamespace(label=label, fidelity=stage, dataset=made.split.dataset)
        results.append(CellResult(cell=cell, state="done", fidelity=store.get(stage)))  # type: ignore[arg-type]
    looks = Looks(["twins", "none"])
    assert isinstance(nearest_images(results[1:], store, looks), Omitted)
    drawing = nearest_images(results, store, looks)
    assert isinstance(drawing, Drawing)
    (ax,) = drawing.draw(LIGHT).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["held-out real", "twins"]
    raw = np.load(store.folder(results[0].cell.fidelity) / "nearest_without_parents.npy")
    held_out = np.load(store.folder(results[0].cell.fidelity) / "nearest_held_out.npy")
    drawn = [np.sort(line.get_xdata()) for line in ax.get_lines()]
    for expected in (raw / np.median(held_out), held_out / np.median(held_out)):
        assert any(len(x) == len(expected) and np.allclose(x, np.sort(expected)) for x in drawn)
    assert any(text.get_text().startswith("100 % /") for text in ax.texts)


@pytest.mark.parametrize("name", ["labels", "generations", "size", "imbalance"])
def test_shipped_studies_load_and_say_how_to_run_them(name: str) -> None:
    m = load_matrix(name)
    study = m.settings.study
    assert isinstance(study, Study)
    assert len(m.settings.seeds) >= 3
    found = series(study, [CellResult(cell=c, state="done", classifier={"n_real": 5}) for c in m.cells])
    assert len(found.lines) + len(found.levels) >= 3
    assert {"baseline", "duplicate"} <= {c.label for c in m.cells}
    header = (Path("bench/matrix/shipped") / f"{name}.yaml").read_text(encoding="utf-8")
    assert header.startswith(f"# bench run {name}\n")
    assert "estimate" in header


def test_label_policies_share_images_and_differ_in_training() -> None:
    cells = [c for c in load_matrix("labels").cells if c.seed == 0]
    for method in ("smote", "roentgen@75", "ours@5", "duplicate"):
        rows = [c for c in cells if c.method.label == method]
        assert len(rows) >= 4
        assert len({c.augmented.key for c in rows}) == 1
        assert len({c.classifier.key for c in rows}) == len(rows)


def test_held_out_phantoms_are_the_same_whatever_the_size_and_the_tail_of_train() -> None:
    kinds = [PhantomSetSettings(held_out=80, tail_factor=f, seed=5, prevalence_floor=0.05) for f in (1.0, 4.0)]
    for i in range(0, 80, 7):
        one, other = (facts(kind, i) for kind in kinds)
        assert np.array_equal(one.observed_labels, other.observed_labels)
        assert np.array_equal(render(kinds[0], i).image, render(kinds[1], i).image)
    natural, lifted = (np.array([facts(kind, i).true_labels for i in range(80, 3080)]) for kind in kinds)
    head, tail = slice(0, len(HEAD)), slice(len(HEAD), None)
    assert len(TAIL) == natural.shape[1] - len(HEAD)
    assert np.array_equal(natural[:, head], lifted[:, head])
    np.testing.assert_allclose(
        lifted[:, tail].mean(0), 4 * np.maximum(kinds[0].prevalences[len(HEAD) :], 0.05), atol=0.04
    )
    assert (lifted[:, tail].mean(0) > 2.5 * natural[:, tail].mean(0)).all()


def test_the_official_split_cuts_no_patient_and_smaller_sets_are_part_of_larger_ones() -> None:
    settings = PhantomSetSettings(held_out=400)
    small, large = official_split(settings, 500), official_split(settings, 900)
    assert np.array_equal(small, large[:500])
    assert [int((large == part).sum()) for part in range(3)] == [500, 160, 240]
    patients = np.array([patient_of(settings, i) for i in range(900)])
    assert all(len(set(large[patients == p])) == 1 for p in np.unique(patients))
    assert official_split(PhantomSetSettings(), 500) is None
    with pytest.raises(ValueError, match="held_out = 400 of n_images = 400 leaves nothing to train on"):
        official_split(settings, 400)


def test_data_sets_of_two_sizes_are_split_alike(tmp_path: Path) -> None:
    store = Store(tmp_path)
    small, large = (Phantom(n_images=n, held_out=80, image_px=16, prevalence_floor=0.2) for n in (120, 200))
    parts = [store.get(Split(dataset=d, settings=SplitSettings(min_positives=1))) for d in (small, large)]
    for part in ("val", "test"):
        assert np.array_equal(parts[0][part], parts[1][part])
    assert [len(parts[1][part]) for part in ("train", "val", "test")] == [120, 32, 48]
    assert set(parts[0]["train"]) < set(parts[1]["train"])


def test_a_tail_that_would_be_the_rule_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tail_factor 5.0 gives a tail class a prevalence of 0.57, over 0.5"):
        PhantomSetSettings(tail_factor=5)


def test_a_data_set_with_nothing_to_train_on_is_refused_before_it_is_drawn() -> None:
    with pytest.raises(ConfigError, match=r"^d: held_out = 40 of n_images = 40 leaves nothing to train on"):
        parse_dataset({"kind": "phantom", "n_images": 40, "held_out": 40}, "d")
