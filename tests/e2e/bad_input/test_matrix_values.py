"""Values of a matrix file that cannot be: each is one line with the file, the field, what was got and what is allowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bad_input.matrices import changed, write
from tests.e2e.driver import Bench, refused

NAN, INF = float("nan"), float("inf")
STEPS, RATE, WEIGHTS = "classifier/steps", "classifier/learning_rate", "classifier/positive_weights"
PHANTOM = "datasets/0"

# what is changed, and how the line goes on after `error: m.yaml`
CASES: dict[str, tuple[dict[str, Any], str]] = {
    # names of settings, at every level
    "key": ({"sedes": [1]}, ".sedes: unknown setting; did you mean 'seeds'? (have: "),
    "nested key": ({"classifier/batchsize": 2}, ".classifier.batchsize: unknown setting; did you mean 'batch_size'?"),
    "key of a data set": ({f"{PHANTOM}/n_image": 3}, ".datasets.0.n_image: unknown setting; did you mean 'n_images'?"),
    "key of a row": ({"methods": [{"methd": "smote"}]}, ".methods.0.methd: unknown setting; did you mean 'method'?"),
    "key of a row's settings": (
        {"methods": [{"method": "ours@1", "settings": {"codec": {"generation": 3}}}]},
        ".methods.0: ours@1.codec.generation: unknown setting; did you mean 'generations'?",
    ),
    "key of a row's recipe": (
        {"methods": [{"method": "baseline", "classifier": {"stepps": 3}}]},
        ".methods.0.classifier.stepps: unknown setting; did you mean 'steps'?",
    ),
    "key of a method's settings": (
        {"methods": ["smote"], "settings": {"smote": {"k_neighbor": 1}}},
        ".methods.0: smote.k_neighbor: unknown setting; did you mean 'k_neighbors'?",
    ),
    "key of an extractor": (
        {"fidelity/extractor": {"kind": "oracle", "foldr": "x"}},
        ".fidelity.extractor.foldr: unknown setting; did you mean 'folder'?",
    ),
    "nothing given": ({"name": None, "classifier": None}, ".name: want text"),
    # kinds of values
    "text for a number": ({STEPS: "few"}, ".classifier.steps: want a whole number, got 'few'"),
    "true for a number": ({STEPS: True}, ".classifier.steps: want a number, got true"),
    "true for a rate": ({RATE: True}, ".classifier.learning_rate: want a number, got true"),
    "true among seeds": ({"seeds": [0, True]}, ".seeds.1: want a number, got true"),
    "true for a count": ({"augment/counts": {"Fracture": True}}, ".augment.counts.Fracture: want a number, got true"),
    "a fraction": ({STEPS: 2.5}, ".classifier.steps: want a whole number, got 2.5"),
    "negative": ({STEPS: -1}, ".classifier.steps: want 1 or more, got -1"),
    "zero": ({STEPS: 0}, ".classifier.steps: want 1 or more, got 0"),
    "one too few": ({"classifier/batch_size": 1}, ".classifier.batch_size: want 2 or more, got 1"),
    "not a number": ({RATE: NAN}, ".classifier.learning_rate: want a finite number, got nan"),
    "infinite": ({RATE: -INF}, ".classifier.learning_rate: want a finite number, got -inf"),
    "beyond counting": ({STEPS: 10**400}, ".classifier.steps: want a number between -2^63 and 2^63, got 1000"),
    "number for a yes": ({WEIGHTS: 2}, ".classifier.positive_weights: want true or false, got 2"),
    "one for a yes": ({WEIGHTS: 1.0}, ".classifier.positive_weights: want true or false, got 1.0"),
    "number for text": ({"name": 3}, ".name: want text (a number or a yes in quotes), got 3"),
    "list for text": ({"description": ["a"]}, ".description: want text (a number or a yes in quotes), got ['a']"),
    "list for a mapping": ({"classifier": [1]}, ".classifier: want a mapping (lines `key: value`), got [1]"),
    "text for a mapping": ({"diffusion": "tiny"}, ".diffusion: want a mapping (lines `key: value`), got 'tiny'"),
    "nothing for a mapping": ({"split": None}, ".split: want a mapping (lines `key: value`), got nothing"),
    "mapping for a list": ({"methods": {"smote": 1}}, ".methods: want a list, e.g. [a, b], got {'smote': 1}"),
    "text for a list": ({"methods": "smote"}, ".methods: want a list, e.g. [a, b], got 'smote'"),
    "number for a list": ({"seeds": 3}, ".seeds: want a list, e.g. [a, b], got 3"),
    "long text": ({STEPS: "x" * 5000}, ".classifier.steps: want a whole number, got 'xxx"),
    # numbers out of range, numbers that exclude each other
    "range": ({"split/test": 1.5}, ".split.test: want less than 1, got 1.5"),
    "nothing left": ({"split": {"val": 0.6, "test": 0.6}}, ".split: val and test leave nothing to train on (0.6 + 0.6)"),
    "two lengths": ({"classifier/epochs": 3}, ".classifier: give epochs or steps, not both (epochs 3, steps 1)"),
    "two lengths in a row": (
        {"methods": [{"method": "baseline", "classifier": {"epochs": 3}}]},
        ".methods.0.classifier: give epochs or steps, not both",
    ),
    "all memory": ({"augment/per_class": 10**12}, ".augment.per_class: want 1000000 images or fewer, got 1000000000000"),
    # lists
    "no methods": ({"methods": []}, ".methods: want 1 or more items, got []"),
    "no data sets": ({"datasets": []}, ".datasets: want 1 or more items, got []"),
    "no seeds": ({"seeds": []}, ".seeds: want 1 or more items, got []"),
    "negative seed": ({"seeds": [0, -1]}, ".seeds.1: want 0 or more, got -1"),
    "huge seed": ({"seeds": [2**70]}, ".seeds.0: want a number between -2^63 and 2^63, got 1180591620717411303424"),
    "seed in words": ({"seeds": ["one"]}, ".seeds.0: want a whole number, got 'one'"),
    "seed and a half": ({"seeds": [0.5]}, ".seeds.0: want a whole number, got 0.5"),
    "a seed twice": ({"seeds": [0, 1, 0]}, ": the cell phantom/baseline/s0 is there twice; give each data set, method"),
    "a row twice": ({"methods": ["baseline", "baseline"]}, ": the cell phantom/baseline/s0 is there twice"),
    "a label twice": (
        {"methods": [{"row": "x", "method": "smote"}, {"row": "x", "method": "duplicate"}]},
        ": the cell phantom/x/s0 is there twice",
    ),
    "a data set twice": ({"datasets": ["phantom", "phantom"]}, ": datasets 0 and 1 are both called 'phantom'; give one"),
    # names that become folders
    "name with a slash": ({"name": "a/b"}, ".name: want text that matches ^[a-z0-9][a-z0-9_-]*$, got 'a/b'"),
    "name upwards": ({"name": ".."}, ".name: want text that matches ^[a-z0-9][a-z0-9_-]*$, got '..'"),
    "empty name": ({"name": ""}, ".name: want text that matches ^[a-z0-9][a-z0-9_-]*$, got ''"),
    "name with a line break": ({"name": "a\n"}, r".name: want text that matches ^[a-z0-9][a-z0-9_-]*$, got 'a\n'"),
    "very long name": ({"name": "a" * 300}, ".name: want 100 or fewer characters, got 'aaa"),
    "very long name of a data set": ({f"{PHANTOM}/name": "a" * 300}, ": the cell aaa"),
    "data set upwards": ({f"{PHANTOM}/name": "../x"}, ".datasets.0.name: want text that matches"),
    "row with a slash": ({"methods": [{"row": "a/b", "method": "smote"}]}, ".methods.0.row: got 'a/b'; want a label of 1"),
    "row upwards": ({"methods": [{"row": "..", "method": "smote"}]}, ".methods.0.row: got '..'; want a label of 1"),
    "very long row": ({"methods": [{"row": "a" * 300, "method": "smote"}]}, ".methods.0.row: got 'aaa"),
    # rows
    "method": ({"methods": ["baseline", "smite"]}, ".methods.1: no method 'smite'; did you mean 'smote'?"),
    "no method's name": ({"methods": [""]}, ".methods.0: no method '' (have: baseline, "),
    "row of nothing": ({"methods": [None]}, ".methods.0: want a method's name or a mapping with `method`, got nothing"),
    "row of a yes": ({"methods": [True]}, ".methods.0: want a method's name or a mapping with `method`, got true"),
    "row without a method": ({"methods": [{"row": "x"}]}, ".methods.0.method: is not given; it has no default"),
    "value in words": ({"methods": ["ours@many"]}, ".methods.0: ours@many.denoise_steps: want a whole number, got 'many'"),
    "value and a half": ({"methods": ["ours@1.5"]}, ".methods.0: ours@1.5.denoise_steps: want a whole number, got 1.5"),
    "value of nothing": ({"methods": ["ours@"]}, ".methods.0: ours@.denoise_steps: want a whole number, got ''"),
    "value of yes": ({"methods": ["ours@true"]}, ".methods.0: ours@true.denoise_steps: want a number, got true"),
    "value twice": ({"methods": ["ours@1@2"]}, ".methods.0: ours@1@2.denoise_steps: want a whole number, got '1@2'"),
    "negative value": ({"methods": ["ours@-1"]}, ".methods.0: ours@-1.denoise_steps: want 0 or more, got -1"),
    "value beyond the schedule": (
        {"methods": ["ours@1000"]},
        ".methods.0: ours@1000: denoise_steps: 1000 is more than num_inference_steps = 75",
    ),
    "value that nobody takes": ({"methods": ["smote@3"]}, ".methods.0: 'smote@3': method 'smote' takes no '@' value"),
    "value in two places": (
        {"methods": [{"method": "ours@1", "settings": {"denoise_steps": 2}}]},
        ".methods.0.settings.denoise_steps: 'ours@1' gives it already; give it once",
    ),
    "preset": (
        {"methods": [{"method": "ours@1", "preset": "relased"}]},
        ".methods.0.preset: no preset 'relased'; did you mean 'released'? (have: corrected, local, prompted, released)",
    ),
    "preset of a method without": ({"methods": [{"method": "smote", "preset": "x"}]}, ".methods.0.preset: no preset 'x' ('smote' has none)"),
    "against nobody": (
        {"methods": ["baseline", {"row": "x", "method": "duplicate", "against": "basline"}]},
        ".methods.1.against: no other row 'basline'; did you mean 'baseline'?",
    ),
    "against itself": (
        {"methods": ["baseline", {"row": "x", "method": "duplicate", "against": "x"}]},
        ".methods.1.against: no other row 'x' (rows: baseline)",
    ),
    "label of another method": (
        {"methods": [{"row": "smote", "method": "duplicate"}]},
        ".methods.0.row: 'smote' is the name of another method than duplicate; choose another label",
    ),
    "settings of a row that is not there": ({"settings": {"smote": {}}}, ".settings.smote: no row of `methods` uses it"),
    "settings of nobody": ({"settings": {"smot": {}}}, ".settings: no method 'smot'; did you mean 'smote'?"),
    "settings in a list": ({"settings": {"baseline": [1]}}, ".settings.baseline: want a mapping"),
    "settings of the wrong depth": (
        {"methods": [{"method": "ours@1", "settings": {"codec": 3}}]},
        ".methods.0: ours@1.codec: want a mapping (lines `key: value`), got 3",
    ),
    "word that is none of them": (
        {"classifier/architecture": "resnet19"},
        "'convnext_tiny' or 'efficientnet_b0', got 'resnet19'; did you mean 'resnet18'?",
    ),
    "label policy": (
        {"methods": [{"method": "smote", "settings": {"labels": "teachr"}}]},
        "or 'teacher', got 'teachr'; did you mean 'teacher'?",
    ),
    "teacher without a baseline": (
        {"methods": [{"method": "smote", "settings": {"labels": "teacher"}}]},
        ": row 'smote' has labels by 'teacher', the classifier of the row that adds no images; add such a row to `methods`",
    ),
    "features of no baseline": (
        {"methods": ["smote"], "fidelity/extractor": {"kind": "classifier"}},
        ": fidelity.extractor is of kind 'classifier', the classifier of the row that adds no images; add such a row",
    ),
    # data sets
    "data set": ({"datasets": ["fantom"]}, ".datasets.0.kind: no data set kind 'fantom'; did you mean 'phantom'? (have: "),
    "data set of a number": ({"datasets": [3]}, ".datasets.0: want a kind or a mapping with 'kind', got 3"),
    "data set without a kind": ({"datasets": [{"n_images": 3}]}, ".datasets.0: want a kind or a mapping with 'kind', got"),
    "data set with a list of kinds": ({"datasets": [{"kind": ["phantom"]}]}, ".datasets.0.kind: want text, got ['phantom']"),
    "data set with words for numbers": ({f"{PHANTOM}/n_images": "many"}, ".datasets.0.n_images: want a whole number"),
    "too many images": ({f"{PHANTOM}/n_images": 10**9}, ".datasets.0.n_images: want 1000000 or less, got 1000000000"),
    "too few prevalences": ({f"{PHANTOM}/prevalences": [0.1]}, ".datasets.0.prevalences: want 10 or more items, got [0.1]"),
    "images that the VAE cannot halve": (
        {f"{PHANTOM}/image_px": 34, "methods": ["roentgen@3"]},
        ": data set 'phantom': image_px: want a multiple of 4, which row 'roentgen@3' needs",
    ),
    "latents that the VAE cannot make": (
        {f"{PHANTOM}/image_px": 33, "methods": ["baseline", "ours@1"]},
        ", got 33; choose 32 or 36",
    ),
    "classifier of codes that is too deep": (
        {f"{PHANTOM}/image_px": 64, "methods": ["ours@1"], "settings/ours": {"codec": {"classifier": "vgg11"}}},
        ": row 'ours@1' on data set 'phantom': codec.classifier: 'vgg11' halves the side five times and the latent has",
    ),
    "class": (
        {"augment/counts": {"Fractures": 1}},
        ".augment.counts: no class 'Fractures' in the data set; did you mean 'Fracture'?",
    ),
    "negative count": ({"augment/counts": {"Fracture": -1}}, ".augment.counts.Fracture: want 0 or more, got -1"),
    "kind of extractor": (
        {"fidelity/extractor": {"kind": "incepton"}},
        ".fidelity.extractor: no kind 'incepton'; did you mean 'inception'? (have: classifier, inception, oracle, xrv)",
    ),
    "extractor without a kind": ({"fidelity/extractor": {}}, ".fidelity.extractor: want a mapping with 'kind', got {}"),
    # studies
    "axis of a study": ({"study": {"x": "method.k", "columns": ["map_tail"]}}, ".study.x: no cell has a setting 'method.k'"),
    "columns of a study": ({"study": {"x": "row", "columns": []}}, ".study.columns: want 1 or more items, got []"),
    "level of a study": (
        {"study": {"x": "row", "columns": ["map_tail"], "levels": ["baselin"]}},
        ".study.levels: no row 'baselin'; did you mean 'baseline'?",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_faulty_value_is_refused(bench: Bench, tmp_path: Path, case: str) -> None:
    changes, said = CASES[case]
    path = write(tmp_path, changed(changes))
    line = refused(bench, "run", path, "--store", tmp_path / "store", "--jobs", 1, "--wandb", "off", folder=tmp_path)
    assert line.startswith("m.yaml")
    assert said in line


@pytest.mark.parametrize("verb", ["table", "status", "report", "effects", "explain"])
def test_every_verb_that_reads_a_matrix_refuses_it(bench: Bench, tmp_path: Path, verb: str) -> None:
    path = write(tmp_path, changed({"sedes": [1]}))
    cell = ["baseline"] if verb == "explain" else []
    line = refused(bench, verb, path, *cell, "--store", tmp_path / "store", folder=tmp_path)
    assert line.startswith("m.yaml.sedes: unknown setting")


@pytest.mark.parametrize(
    ("changes", "path", "value"),
    [
        ({RATE: "1e-3"}, "classifier.learning_rate", 1e-3),  # to YAML 1.1 a text
        ({STEPS: 2.0}, "classifier.steps", 2),
        ({STEPS: "3"}, "classifier.steps", 3),
    ],
)
def test_a_number_that_is_only_written_oddly_is_taken(
    tmp_path: Path, changes: dict[str, Any], path: str, value: float
) -> None:
    from bench.matrix.load import load_matrix

    at: Any = load_matrix(str(write(tmp_path, changed(changes)))).settings
    for part in path.split("."):
        at = getattr(at, part)
    assert at == value
