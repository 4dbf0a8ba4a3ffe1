"""Variants of a method as rows of a matrix: presets, row settings, label policies, what is shared and what is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from bench import registry
from bench.errors import ConfigError
from bench.matrix import build_matrix, load_matrix
from bench.progress import Silent
from bench.record import resolved, write_record
from bench.results import read_cell
from bench.rows import merged
from bench.run import run_matrix
from bench.store import Execution, Store
from methods.baseline import Baseline
from tests.unit.tiny_cells import Copies, tiny


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

    def cell_finished(self, cell: Any, result: Any) -> None:
        return

    def close(self) -> None:
        return


def run(made: Any, store: Store) -> Any:
    execution = Execution(device="cpu")
    return run_matrix(made, store, jobs=1, execution=execution, reporter=Silent(), tracker=Deaf())


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
    assert lighter.against == "copies@1"
    assert plain.against is None
    assert lighter.classifier.settings.synthetic_weight == 0.5
    assert baseline.classifier.settings == plain.classifier.settings


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
        {"row": "quiet", "method": "copies@2", "settings": {"noise": {"level": 0}}},
        {"row": "b", "method": "copies@2", "against": "quiet"},
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
        ([{"method": "copies", "against": "copies@0"}], "methods.0.against: no other row 'copies@0'"),
        ([{"method": "copies", "row": "a/b"}], "methods.0.row: got 'a/b'; want a label without /"),
        ([{"method": "copies", "settings": {"nois": 1}}], "methods.0: copies.nois: unknown setting"),
        ([{"method": "copies", "classifier": {"stps": 1}}], "methods.0.classifier.stps: unknown setting"),
        ([{"method": "copies", "classifier": {"epochs": 1}}], "methods.0.classifier: give epochs or steps, not both"),
        ([{"row": "x"}], "methods.0.method: field required"),
        ([{"method": "copies", "labels": "union"}], "methods.0.labels: unknown setting"),
        ([{"method": "copies", "settings": {"labels": "one"}}], "copies.labels: input should be 'own', 'union'"),
        ([{"method": "copies", "settings": {"labels": "teacher"}}], "row 'copies@0' has labels by 'teacher'"),
        (["copies@1", {"method": "copies@1", "settings": {"gain": 2}}], "the cell phantom/copies@1/s0 is there twice"),
    ],
)
def test_a_fault_in_a_row_is_one_line(rows: list[Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        matrix(*rows)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
