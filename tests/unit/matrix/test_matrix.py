"""Matrix files: what is right becomes cells, what is wrong becomes one line that names the place and the cure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.config.yaml_file import apply_override, read_yaml
from bench.errors import ConfigError
from bench.matrix.build import build_matrix
from bench.matrix.load import find, load_matrix
from bench.matrix.matrix import Matrix

GOOD: dict[str, Any] = {
    "name": "small",
    "datasets": [{"kind": "phantom", "n_images": 80}],
    "methods": ["baseline", "roentgen@3"],
    "classifier": {"steps": 4},
    "seeds": [0, 1],
}


def load(tmp_path: Path, text: str, *overrides: str) -> Matrix:
    path = tmp_path / "m.yaml"
    path.write_text(text, encoding="utf-8")
    return load_matrix(str(path), overrides)


def fault(tmp_path: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def changed(**changes: Any) -> str:
    return yaml.safe_dump(GOOD | changes)


def test_cells_are_the_product_in_the_order_of_the_file(tmp_path: Path) -> None:
    names = [c.name for c in load(tmp_path, changed()).cells]
    assert names == [f"phantom/{m}/s{s}" for m in ("baseline", "roentgen@3") for s in (0, 1)]


def test_methods_are_paired_by_seed(tmp_path: Path) -> None:
    base0, base1, other0, _ = load(tmp_path, changed()).cells
    assert base0.classifier.seed == other0.classifier.seed != base1.classifier.seed
    assert base0.split == other0.split == base1.split
    assert base0.scores.split == base0.split


def test_a_cell_is_found_by_its_name_or_a_unique_part_of_it(tmp_path: Path) -> None:
    matrix = load(tmp_path, changed())
    assert matrix.cell("phantom/baseline/s1") is matrix.cell("baseline/s1") is matrix.cells[1]
    with pytest.raises(ConfigError, match="'baseline' is in 2 cells: phantom/baseline/s0, phantom/baseline/s1"):
        matrix.cell("baseline")
    with pytest.raises(ConfigError, match=r"no cell 'phantom/basline/s0'; did you mean 'phantom/baseline/s0'\?"):
        matrix.cell("phantom/basline/s0")


def test_shipped_matrices_load(tmp_path: Path) -> None:
    for path in sorted(find("toy").parent.glob("*.yaml")):
        assert load_matrix(path.stem).name == path.stem
        assert path.read_text(encoding="utf-8").startswith(f"# bench run {path.stem}")


def test_medium_classes_change_the_scores_alone(tmp_path: Path) -> None:
    plain, none, some = (load(tmp_path, changed(**given)).cells for given in ({}, {"n_medium": 0}, {"n_medium": 2}))
    assert [c.key for c in plain] == [c.key for c in none]
    for one, other in zip(plain, some, strict=True):
        assert (one.classifier.key, one.fidelity.key) == (other.classifier.key, other.fidelity.key)
        assert one.scores.key != other.scores.key
    said = fault(tmp_path, changed(n_medium=5))
    assert "m.yaml.n_medium: want fewer than the 5 classes of data set 'phantom'" in said


def test_the_same_file_and_a_written_out_default_give_the_same_cells(tmp_path: Path) -> None:
    first = [c.split.key for c in load(tmp_path, changed()).cells]
    assert first == [c.split.key for c in load(tmp_path, changed(split={"seed": 0})).cells]
    assert first != [c.split.key for c in load(tmp_path, changed(split={"seed": 1})).cells]


@pytest.mark.parametrize(
    ("override", "place", "value"),
    [
        ("classifier.steps=7", ("classifier", "steps"), 7),
        ("datasets.0.n_images=90", ("datasets", 0, "n_images"), 90),
        ("methods.1=smote", ("methods", 1), "smote"),
        ("methods=[smote]", ("methods",), ["smote"]),
        ("split.val=1e-1", ("split", "val"), "1e-1"),
        ("description=a=b", ("description",), "a=b"),
        ("settings.ours.codec.generations=3", ("settings", "ours", "codec", "generations"), 3),
        ("classifier.weights=null", ("classifier", "weights"), None),
        ("split={val: 0.3}", ("split",), {"val": 0.3}),
    ],
)
def test_an_override_sets_one_place(override: str, place: tuple[Any, ...], value: object) -> None:
    raw = yaml.safe_load(yaml.safe_dump(GOOD))
    apply_override(raw, override)
    at: Any = raw
    for part in place:
        at = at[part]
    assert at == value


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("classifier.steps", "want key=value"),
        ("=3", "want key=value"),
        ("name.x=3", "nothing to set at 'x': there is 'small', not a mapping"),
        ("seeds.5=3", "nothing to set at '5': there is a list of 2"),
        ("seeds.-1=3", "nothing to set at '-1'"),
        ("seeds.²=3", "nothing to set at '²'"),
        ("datasets.first.n_images=3", "nothing to set at 'first'"),
        ("methods.0.x.y=3", "nothing to set at 'x': there is 'baseline'"),
        ("split=[1", "the value is not YAML"),
        ("split={val: 0.1, val: 0.2}", "the value is not YAML"),
        ("split=" + "[" * 1000, "the value is not YAML"),
        ("classifer.steps=3", "m.yaml.classifer: unknown setting; did you mean 'classifier'?"),
        ("classifier.step=3", "m.yaml.classifier.step: unknown setting; did you mean 'steps'?"),
        ("classifier.steps=none", "m.yaml.classifier.steps: want a whole number"),
        ("split.val=2", "m.yaml.split.val: want less than 1, got 2"),
        ("classifier..steps=3", "--set classifier..steps=3: want key=value"),
        ("methods=baseline", "m.yaml.methods: want a list, e.g. [a, b], got 'baseline'"),
    ],
)
def test_an_override_that_cannot_be_followed_is_one_line(tmp_path: Path, override: str, said: str) -> None:
    assert said in fault(tmp_path, changed(), override)


def test_rows_that_are_chosen_away_take_the_settings_of_the_file_along(tmp_path: Path) -> None:
    text = changed(settings={"roentgen": {"guidance_scale": 2}})
    assert load(tmp_path, text, "methods=[baseline]").settings.settings == {}
    assert load(tmp_path, text, "methods=[baseline]", "methods=[roentgen@3]").settings.settings != {}


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("settings.smote.k_neighbors=3", "m.yaml.settings.smote: no row of `methods` uses it (rows: baseline)"),
        ("settings.roentgen.guidance_scale=3", "m.yaml.settings.roentgen: no row of `methods` uses it"),
        ("study.x_label=steps", "m.yaml.study.x: is not given"),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_an_override_is_not_dropped_with_rows_that_are_chosen_away(
    tmp_path: Path, override: str, said: str, first: bool
) -> None:
    both = [override, "methods=[baseline]"] if first else ["methods=[baseline]", override]
    assert said in fault(tmp_path, changed(settings={"roentgen": {"guidance_scale": 2}}), *both)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"methds": ["x"]}, "m.yaml.methds: unknown setting; did you mean 'methods'? (have: "),
        ({"classifier": {"stepz": 3}}, "m.yaml.classifier.stepz: unknown setting; did you mean 'steps'?"),
        ({"methods": ["baselin"]}, "m.yaml.methods.0: no method 'baselin'; did you mean 'baseline'?"),
        ({"methods": ["roentgen@x"]}, "m.yaml.methods.0: roentgen@x.num_inference_steps: want a whole number, got 'x'"),
        (
            {"datasets": [{"kind": "phantm"}]},
            "m.yaml.datasets.0.kind: no data set kind 'phantm'; did you mean 'phantom'?",
        ),
        ({"datasets": [{"kind": "phantom", "n_image": 9}]}, "m.yaml.datasets.0.n_image: unknown setting; did you mean"),
        ({"datasets": [{"n_images": 9}]}, "m.yaml.datasets.0: want a kind or a mapping with 'kind'"),
        ({"datasets": []}, "m.yaml.datasets: want 1 or more items"),
        ({"methods": []}, "m.yaml.methods: want 1 or more items"),
        ({"seeds": []}, "m.yaml.seeds: want 1 or more items"),
        ({"seeds": 0}, "m.yaml.seeds: want a list, e.g. [a, b], got 0"),
        ({"seeds": ["one"]}, "m.yaml.seeds.0: want a whole number"),
        ({"seeds": [0, 1, 0]}, "the cell phantom/baseline/s0 is there twice"),
        ({"methods": ["roentgen@3", "roentgen@3.0"]}, "the cell phantom/roentgen@3/s0 is there twice"),
        ({"methods": [5]}, "m.yaml.methods.0: want a method's name or a mapping with `method`, got 5"),
        ({"methods": "baseline"}, "m.yaml.methods: want a list, e.g. [a, b]"),
        ({"settings": {"rontgen": {}}}, "m.yaml.settings: no method 'rontgen'; did you mean 'roentgen'?"),
        ({"settings": {"smote": {}}}, "m.yaml.settings.smote: no row of `methods` uses it (rows: baseline, roentgen)"),
        (
            {"settings": {"roentgen": {"guidanc_scale": 1}}},
            "guidanc_scale: unknown setting; did you mean 'guidance_scale'?",
        ),
        ({"settings": {"roentgen": None}}, "m.yaml.settings.roentgen: want a mapping (lines `key: value`)"),
        ({"settings": []}, "m.yaml.settings: want a mapping (lines `key: value`)"),
        (
            {"augment": {"counts": {"Fractur": 3}}},
            "augment.counts: no class 'Fractur' in the data set; did you mean 'Fracture'?",
        ),
        (
            {"augment": {"per_class": -1}},
            "m.yaml.augment.per_class: want 0 or more, got -1",
        ),
        (
            {"augment": {"counts": {"Fracture": -1}}},
            "m.yaml.augment.counts.Fracture: want 0 or more",
        ),
        ({"split": {"val": 0}}, "m.yaml.split.val: want more than 0, got 0"),
        ({"split": {"val": 0.6, "test": 0.5}}, "m.yaml.split: val and test leave nothing to train on (0.6 + 0.5)"),
        ({"name": "Not A Name"}, "m.yaml.name: want text that matches"),
        ({"name": None}, "m.yaml.name: want text"),
        ({"classifier": {"steps": 4, "learning_rate": float("nan")}}, "learning_rate: want a finite number"),
        ({1: 2}, "m.yaml"),
    ],
)
def test_a_fault_in_a_file_is_one_line_with_the_place_and_the_nearest_name(
    tmp_path: Path, changes: dict[Any, Any], said: str
) -> None:
    assert said in fault(tmp_path, yaml.safe_dump(GOOD | changes))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: a\nname: b\n", "m.yaml:2: not YAML: key 'name' is given twice"),
        ("classifier:\n  steps: 1\n  steps: 2\n", "m.yaml:3: not YAML: key 'steps' is given twice"),
        ("name: [a\n", "m.yaml:2: not YAML: "),
        ("name:\n\t- a\n", "m.yaml:2: not YAML: found character '\\t'"),
        ("a: 1\n---\nb: 2\n", "not YAML: but found another document"),
        ("name: *nowhere\n", "m.yaml:1: not YAML: found undefined alias"),
        ("name: !!python/object/apply:os.getcwd []\n", "m.yaml:1: not YAML: could not determine a constructor"),
        ("{[1]: 2}\n", "m.yaml:1: not YAML: key [1] is not text; put it in quotes"),
        ("name: \x00\n", "m.yaml: not YAML: unacceptable character"),
        ("[" * 1000, "m.yaml: nested too deeply"),
        ("", "m.yaml: want a mapping of settings (lines `key: value`), got nothing"),
        ("- a\n", "m.yaml: want a mapping of settings (lines `key: value`), got a list"),
        ("just words\n", "m.yaml: want a mapping of settings (lines `key: value`), got a text"),
    ],
)
def test_a_file_that_is_no_mapping_is_one_line_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert said in fault(tmp_path, text)


def test_merged_keys_are_understood(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("a: &a {x: 1, y: 1}\nb: {<<: *a, y: 2}\n", encoding="utf-8")
    assert read_yaml(path)["b"] == {"x": 1, "y": 2}


def test_files_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_bytes(b"name: \xff\xfe")
    with pytest.raises(ConfigError, match=r"m\.yaml: not UTF-8 text \(byte 6\)"):
        load_matrix(str(path))
    path.write_bytes(b"#" * (1 << 20) + b"##")
    with pytest.raises(ConfigError, match=r"at most 1 MiB"):
        load_matrix(str(path))
    with pytest.raises(ConfigError, match="is a folder; give a YAML file"):
        load_matrix(str(tmp_path))
    for name in ("toi", str(tmp_path / "none.yaml")):
        with pytest.raises(ConfigError, match="no such file and no shipped matrix of that name"):
            load_matrix(name)
    with pytest.raises(ConfigError, match=r"did you mean 'toy'\?"):
        load_matrix("toi")


def test_settings_survive_a_round_trip_through_a_file(tmp_path: Path) -> None:
    matrix = load(tmp_path, changed())
    again = build_matrix(matrix.settings.model_dump(mode="json"), "again")
    assert again.settings == matrix.settings
    assert [c.split.key for c in again.cells] == [c.split.key for c in matrix.cells]
