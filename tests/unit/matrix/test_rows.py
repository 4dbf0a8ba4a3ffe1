"""Variants of a method as rows of a matrix: presets, row settings, label policies, what is shared and what is not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench.errors import BenchError, ConfigError
from bench.matrix.build import build_matrix
from bench.matrix.load import load_matrix
from bench.matrix.resolved import resolved
from bench.matrix.rows import merged
from bench.pipeline.stage import Stage, Work
from bench.plugins import registry
from bench.results.cells import CellResult, frame, read_cell, read_matrix
from bench.results.record import write_record
from bench.run.inline import Inline
from bench.run.progress import Silent
from bench.run.run_matrix import run_matrix
from bench.store.store import Store
from bench.store.work import Execution
from methods.baseline import Baseline
from tests.tiny_cells import Copies, tiny


class Presets(Copies):
    """Copies with presets."""

    presets = {"loud": {"noise": {"level": 40}, "shift": 2}}


@pytest.fixture(autouse=True)
def methods(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "methods", lambda: {"baseline": Baseline, "copies": Presets})


def matrix(*rows: Any, **changes: Any) -> Any:
    return build_matrix(tiny(methods=list(rows), **changes), "m.yaml")


class Deaf:
    """A tracker that keeps nothing."""

    def begun(self, cells: Any) -> None:
        return

    def cell_ended(self, cell: Any) -> None:
        return

    def close(self) -> None:
        return


def run(made: Any, store: Store) -> Any:
    execution = Execution(device="cpu")
    run_matrix(made, store, executor=Inline(), execution=execution, reporter=Silent(), tracker=Deaf())
    return read_matrix(made, store)


def test_a_rows_own_settings_are_over_its_preset_and_that_over_the_matrix() -> None:
    rows = [
        "copies@1",
        {"row": "loud", "method": "copies", "preset": "loud"},
        {"row": "less loud", "method": "copies@3", "preset": "loud", "settings": {"noise": {"kind": "none"}}},
    ]
    got = [(c.label, c.method.shift, c.method.noise.level, c.method.noise.kind) for c in matrix(*rows).cells]
    assert got == [("copies@1", 1, 4, "grey"), ("loud", 2, 40, "grey"), ("less loud", 3, 40, "none")]


def test_layers_are_merged_key_by_key_and_left_as_they_were() -> None:
    below, above = {"a": {"x": 1, "y": 2}, "b": [1]}, {"a": {"y": 3}, "b": [2], "c": {"z": 0}}
    assert merged(below, above) == {"a": {"x": 1, "y": 3}, "b": [2], "c": {"z": 0}}
    assert below == {"a": {"x": 1, "y": 2}, "b": [1]}


def test_label_policies_and_training_recipes_share_the_images() -> None:
    made = matrix(
        "baseline",
        "copies@1",
        {"row": "taught", "method": "copies@1", "settings": {"labels": "teacher"}},
        {"row": "lighter", "method": "copies@1", "classifier": {"synthetic_weight": 0.5}, "against": "copies@1"},
    )
    baseline, plain, taught, lighter = made.cells
    assert plain.augmented.key == taught.augmented.key == lighter.augmented.key
    assert plain.fidelity.key == taught.fidelity.key
    assert len({c.classifier.key for c in made.cells}) == 4
    assert taught.classifier.labelled.teacher.key == baseline.classifier.key
    assert lighter.against == ("copies@1",)
    assert plain.against == ()
    assert lighter.classifier.settings.synthetic_weight == 0.5
    assert baseline.classifier.settings == plain.classifier.settings


def test_the_teacher_is_the_control_row_as_it_is_trained_there() -> None:
    control = {"method": "baseline", "classifier": {"steps": 1}}
    baseline, taught = matrix(control, {"row": "t", "method": "copies@1", "settings": {"labels": "teacher"}}).cells
    assert taught.classifier.labelled.teacher.key == baseline.classifier.key


@pytest.mark.parametrize("first", [True, False])
def test_the_control_is_the_row_with_the_recipe_of_the_matrix_wherever_it_stands(first: bool, tmp_path: Path) -> None:
    """A training recipe is a row without images, too, and its classifier is not the baseline that texts speak of."""
    own, taught = (
        {"row": "focal", "method": "baseline", "classifier": {"loss": "focal"}},
        {"row": "t", "method": "copies@1", "settings": {"labels": "teacher"}},
    )
    rows = [own, "baseline", taught] if first else ["baseline", own, taught]
    made = build_matrix(tiny(methods=rows, fidelity={"extractor": {"kind": "classifier"}}), "m.yaml")
    cells = {cell.label: cell for cell in made.cells}
    assert cells["t"].classifier.labelled.teacher.key == cells["baseline"].classifier.key
    assert {c.fidelity.settings.extractor.classifier.key for c in made.cells} == {cells["baseline"].classifier.key}
    for label in ("t", "focal"):
        folder = write_record(Store(tmp_path), made, cells[label], CellResult(cells[label], "missing"), git=None)
        again = load_matrix(str(folder / "resolved.yaml"))
        assert next(c for c in again.cells if c.label == label).key == cells[label].key


def test_choosing_rows_away_leaves_a_study_that_needed_them(tmp_path: Path) -> None:
    study = {"x": "method.shift", "columns": ["map_tail"], "levels": ["baseline"]}
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(tiny(methods=["baseline", "copies@1"], study=study)))
    assert load_matrix(str(path)).settings.study is not None
    assert [c.label for c in load_matrix(str(path), ["methods=[copies@1]"]).cells] == ["copies@1"]
    assert resolved(load_matrix(str(path)).settings, load_matrix(str(path)).cells)["study"] is not None


def test_taught_labels_are_the_controls_probabilities_of_the_same_seed(tmp_path: Path) -> None:
    made = matrix("baseline", {"row": "taught", "method": "copies@1", "settings": {"labels": "teacher"}})
    store = Store(tmp_path)
    results = run(made, store)
    assert [r.state for r in results] == ["done", "done"]
    baseline, taught = made.cells
    images = store.open(taught.augmented).images
    expected = store.open(baseline.classifier).predict(np.asarray(images))
    np.testing.assert_allclose(store.open(taught.classifier.labelled), expected, atol=1e-6)


def test_a_cells_record_builds_it_again_with_the_control_that_it_needs(tmp_path: Path) -> None:
    made = matrix(
        "baseline",
        {"row": "taught", "method": "copies@1", "settings": {"labels": "teacher"}, "classifier": {"steps": 3}},
        "copies@1",
    )
    store = Store(tmp_path / "store")
    run(made, store)
    for cell in made.cells[1:]:
        folder = write_record(store, made, cell, read_cell(cell, store), git=None)
        again = load_matrix(str(folder / "resolved.yaml"))
        assert again.cells[-1].key == cell.key
        assert again.cells[-1].name == cell.name
        assert read_cell(again.cells[-1], store).state == "done"


def test_all_rows_resolved_build_the_same_matrix() -> None:
    made = matrix(
        "baseline",
        {"row": "decayed", "method": "baseline", "classifier": {"weight_decay": 0.1}},
        {"row": "quiet", "method": "copies@2", "settings": {"noise": {"level": 0}}},
        {"row": "b", "method": "copies@2", "against": "quiet"},
        {"row": "c", "method": "copies@2", "against": ["quiet", "baseline"]},
        classifier={"steps": 2, "synthetic_weight": 0.5},
    )
    text = yaml.safe_dump(resolved(made.settings, made.cells))
    again = build_matrix(yaml.safe_load(text), "m.yaml")
    assert [(c.name, c.key, c.against) for c in again.cells] == [(c.name, c.key, c.against) for c in made.cells]


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"method": "copies", "preset": "lout"}], "methods.0.preset: no preset 'lout'; did you mean 'loud'?"),
        (
            ["copies", {"method": "baseline", "row": "b", "preset": "x"}],
            "methods.1.preset: no preset 'x' ('baseline'",
        ),
        ([{"method": "copies", "against": "copy"}], "methods.0.against: no other row 'copy'"),
        ([{"method": "copies", "against": ["baseline", "copy"]}, "baseline"], "methods.0.against: no other row 'copy'"),
        (
            [{"method": "copies", "against": ["baseline", "baseline"]}, "baseline"],
            "methods.0.against: got a row twice in baseline, baseline; name each once",
        ),
        ([{"method": "copies", "against": 3}], "methods.0.against: want"),
        ([{"method": "copies", "against": 0}], "methods.0.against: want"),
        ([{"method": "copies", "against": "copies@0"}], "methods.0.against: no other row 'copies@0'"),
        ([{"method": "copies", "row": "a/b"}], "methods.0.row: got 'a/b'; want a label of 1 to 100 bytes"),
        ([{"method": "copies", "row": "a\x00b"}], "methods.0.row: got 'a\\x00b'; want a label"),
        ([{"method": "copies", "row": "a\nb"}], "methods.0.row: got 'a\\nb'; want a label"),
        ([{"method": "copies", "row": "\N{BUG}" * 26}], "; want a label of 1 to 100 bytes"),
        (
            [{"method": "copies", "row": "baseline"}],
            "methods.0.row: 'baseline' is the name of another method than copies",
        ),
        (
            [{"method": "copies@2", "row": "copies@1"}],
            "methods.0.row: 'copies@1' reads as another row than copies@2; choose another label",
        ),
        ([{"method": "copies", "row": "copies@1"}], "methods.0.row: 'copies@1' reads as another row than copies@0"),
        ([{"method": "copies@1", "settings": {"shift": 3}}], "settings.shift: 'copies@1' gives it already"),
        (
            [{"method": "copies@1", "against": "copies@1"}, "copies@2"],
            "no other row 'copies@1'; did you mean 'copies@2'?",
        ),
        ([{"method": "copies", "settings": {"nois": 1}}], "methods.0: copies.nois: unknown setting"),
        ([{"method": "copies", "classifier": {"stps": 1}}], "methods.0.classifier.stps: unknown setting"),
        ([{"method": "copies", "classifier": {"epochs": 1}}], "methods.0.classifier: give epochs or steps, not both"),
        (
            ["copies", {"row": "b", "method": "baseline", "classifier": {"synthetic_first": 0.5}}],
            "m.yaml.methods.1.classifier.synthetic_first: baseline makes no synthetic images; leave it out",
        ),
        (
            ["copies", {"method": "baseline", "classifier": {"synthetic_weight": 0.5}}],
            "m.yaml.methods.1.classifier.synthetic_weight: baseline makes no synthetic images; leave it out",
        ),
        *(
            (
                ["baseline", {"row": "soft", "method": "copies"} | own | {"classifier": {"loss": loss}}],
                f"m.yaml.methods.1: row 'soft': classifier.loss: {loss} is defined for labels of 0 and 1, and those of "
                f"copies with labels: {labels} can lie between; use bce or class_balanced, or labels: union",
            )
            for loss, labels in (("focal", "area"), ("asymmetric", "teacher"), ("ldam", "area"))
            for own in [{"settings": {"labels": labels}}]
        ),
        ([{"row": "x"}], "methods.0.method: is not given"),
        ([{"method": "copies", "labels": "union"}], "methods.0.labels: unknown setting"),
        ([{"method": "copies", "settings": {"labels": "one"}}], "copies.labels: want 'own', 'union'"),
        ([{"method": "copies", "settings": {"labels": "teacher"}}], "row 'copies@0' has labels by 'teacher'"),
        (["copies@1", {"method": "copies@1", "settings": {"gain": 2}}], "the cell phantom/copies@1/s0 is there twice"),
    ],
)
def test_a_fault_in_a_row_is_one_line(rows: list[Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        matrix(*rows)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_label_may_say_more_than_the_name_of_its_own_method() -> None:
    labels = ["copies@2", "copies@2 (loud)", "copies", "mine@1"]
    assert [c.label for c in matrix(*({"method": "copies@2", "row": label} for label in labels)).cells] == labels


class Blends(Copies):
    """A method whose own labels can lie between 0 and 1."""

    soft_labels = True


@pytest.mark.parametrize("cls", [Copies, Blends])
def test_losses_for_labels_of_0_and_1_meet_such_labels_alone(
    cls: type[Copies], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "methods", lambda: {"baseline": Baseline, "copies": cls})
    united = {"row": "united", "method": "copies", "settings": {"labels": "union"}}
    own = {"row": "own", "method": "copies", "classifier": {"loss": "bce"}}
    assert len(matrix("baseline", united, own, classifier={"steps": 2, "loss": "focal"}).cells) == 3
    if cls.soft_labels:
        with pytest.raises(ConfigError, match=r"methods\.1: row 'copies@0': classifier\.loss: focal is"):
            matrix("baseline", "copies", classifier={"steps": 2, "loss": "focal"})
    else:
        matrix("baseline", "copies", classifier={"steps": 2, "loss": "focal"})


class Judge(Stage):
    """Diagnostics with what does not belong there: a value per image, a nested one, a text, the name of a score."""

    n: int = 1

    def compute(self, work: Work) -> None:
        figures = {
            "sites": 0.5,
            "nothing": None,
            "map_tail": 7.0,
            "p10/s5.jpg": 0.3,
            "rows": [1],
            "note": "x",
            "ok": True,
        }
        (work.out / "judge.json").write_text(json.dumps(figures))

    def open(self, folder: Path) -> dict[str, Any]:
        return json.loads((folder / "judge.json").read_text())


class Judged(Copies):
    def diagnostics(self, task: Any) -> Stage | None:
        return Judge(n=task.plan.per_class)


def test_diagnostics_are_part_of_the_cell_and_only_figures_are_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "methods", lambda: {"baseline": Baseline, "copies": Judged})
    made, store = matrix("baseline", "copies@1"), Store(tmp_path)
    baseline, judged = run(made, store)
    assert baseline.diagnostics is None
    assert judged.diagnostics == {"sites": 0.5, "nothing": None, "map_tail": 7.0}
    table = frame([baseline, judged]).set_index("method")
    assert table.loc["copies@1", "sites"] == 0.5
    assert table.loc["copies@1", "map_tail"] == judged.scores["map_tail"]


class Shares(Copies):
    """Copies of two parents, the second of them sometimes missing; `wrong` breaks the rules of the extras."""

    wrong: str = ""

    def augment(self, ctx: Any) -> Any:
        for batch in super().augment(ctx):
            n = len(batch.labels)
            first = int(batch.parents[0, 0])
            if not first % 2 and not self.wrong:  # batches differ in how many parents they have
                yield replace(batch, extras={"parent_share": np.ones((n, 1), np.float32)})
                continue
            parents = np.hstack([batch.parents, np.full((n, 1), -1 if self.wrong == "missing" else first)])
            share = np.tile(np.float32([0.25, 0.75]), (n, 1))
            if self.wrong in ("sum", "nan"):
                share[0, 0] = 0.1 if self.wrong == "sum" else np.nan
            extras = {"parent_share": share[:, :1] if self.wrong == "shape" else share}
            if self.wrong == "claimed":
                extras["claimed_class"] = np.zeros(n, np.float32)
            yield replace(batch, parents=parents, extras=extras)


@pytest.mark.parametrize("wrong", ["sum", "nan", "shape", "missing", "claimed"])
def test_evidence_that_breaks_its_rules_is_refused(wrong: str, tmp_path: Path) -> None:
    cell = matrix("baseline", "copies@1").cells[1]
    stage = cell.augmented.model_copy(update={"method": Shares(wrong=wrong)})
    with pytest.raises(BenchError, match="extras"):
        Store(tmp_path).get(stage)


def test_batches_of_one_and_of_two_parents_are_one_set(tmp_path: Path) -> None:
    cell = matrix("baseline", "copies@1", augment={"per_class": 8}).cells[1]
    made = Store(tmp_path).get(cell.augmented.model_copy(update={"method": Shares()}))
    share, there = made.extras["parent_share"], made.parents >= 0
    assert share.shape == made.parents.shape == (40, 2)
    assert {tuple(row) for row in there.tolist()} == {(True, False), (True, True)}
    np.testing.assert_allclose(np.where(there, share, 0).sum(axis=1), 1)
    assert not share[~there].any()
