"""The models in the package know phantoms alone: over other images they are refused, with what to write instead."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.diffusion.model import SHIPPED
from bench.errors import ConfigError
from bench.matrix.inputs import check_before_computing, check_weights, plan
from bench.matrix.load import load_matrix
from tests.pictures import write_png

CLASSIFIER = "fidelity: {extractor: {kind: classifier}}\n"


@pytest.fixture(autouse=True)
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand beside 24 pictures of twelve patients and their CSV."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    lines = ["path,patient,Mass,Hernia,Edema"]
    for i in range(24):
        write_png(tmp_path / f"{i}.png", rng.integers(0, 255, (32, 32), dtype=np.uint8))
        lines.append(f"{i}.png,p{i // 2},{i % 2},{int(i % 3 == 0)},{int(i % 5 == 0)}")
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")


def matrix(methods: str, *more: str) -> str:
    """Write a matrix over the pictures and return its name."""
    Path("mine.yaml").write_text(
        f"name: mine\ndatasets: [{{kind: folder, csv: labels.csv, patient_column: patient, image_px: 32}}]\n"
        f"split: {{min_positives: 1, val: 0.3, test: 0.3}}\nmethods: {methods}\nclassifier: {{steps: 1}}\n{''.join(more)}"
    )
    return "mine.yaml"


def refused(name: str) -> str:
    """Return the error of a run, after a look that a dry run and the doctor say the same."""
    with pytest.raises(ConfigError) as caught:
        check_weights(load_matrix(name), name)
    said = str(caught.value)
    assert "\n" not in said
    assert said.removeprefix(f"{name}: ") in [f"{check.what}: {check.said}" for check in plan(name).missing]
    return said


@pytest.mark.parametrize("more", ["", "fidelity: {extractor: {kind: oracle}}\n", "fidelity: {reference: val}\n"])
def test_the_phantoms_oracle_does_not_measure_other_images(more: str) -> None:
    said = refused(matrix("[baseline, duplicate]", more))
    assert said.startswith("mine.yaml: fidelity.extractor: the oracle")
    assert "data set 'folder' has other images; write `fidelity: {extractor: {kind: classifier}}`" in said


def test_images_that_are_too_small_for_the_network_are_told_before_they_are_made() -> None:
    name = matrix("[baseline, {row: large, method: baseline, classifier: {image_px: 64}}]")
    text = Path(name).read_text().replace("image_px: 32", "image_px: 24")
    Path(name).write_text(text)
    said = refused(name)
    assert said == (
        "mine.yaml: classifier.image_px: images of data set 'folder' are 24 px, densenet121 needs 32 or more; "
        "set classifier.image_px=32 to enlarge them"
    )
    Path(name).write_text(text.replace("steps: 1", "steps: 1, image_px: 32"))
    assert plan(name).missing == ()


@pytest.mark.parametrize("row", ["roentgen@3", "{method: smote, settings: {space: latent}}", "ours@1"])
@pytest.mark.parametrize("more", ["", "diffusion: {guidance_scale: 3}\n"])
def test_the_phantoms_diffusion_model_does_not_draw_other_images(row: str, more: str) -> None:
    said = refused(matrix(f"[baseline, {row}]", CLASSIFIER, more))
    assert said.startswith("mine.yaml: diffusion: row '")
    assert "`bench pretrain diffusion MATRIX --out FOLDER`" in said
    assert "write `diffusion: {folder: FOLDER}`" in said


@pytest.mark.parametrize("named", ["folder: tiny", "preset: tiny", f"folder: '{SHIPPED}'"])
def test_who_names_it_gets_it(named: str) -> None:
    name = matrix("[baseline, roentgen@3]", CLASSIFIER, f"diffusion: {{{named}}}\n")
    check_weights(load_matrix(name), name)
    assert plan(name).missing == ()


def test_a_baseline_alone_is_measured_against_nothing_and_needs_neither() -> None:
    name = matrix("[baseline]")
    check_weights(load_matrix(name), name)
    assert plan(name).missing == ()


def test_a_row_that_needs_no_diffusion_model_needs_none_named() -> None:
    name = matrix("[baseline, duplicate, {method: smote, settings: {space: pixel}}]", CLASSIFIER)
    check_weights(load_matrix(name), name)


def test_the_phantom_has_both() -> None:
    check_weights(load_matrix("toy"), "toy.yaml")
    assert plan("toy").missing == ()


def test_words_that_the_model_does_not_know_are_told_before_the_run_and_stop_nothing() -> None:
    name = matrix("[baseline, roentgen@3]", CLASSIFIER, f"diffusion: {{folder: '{SHIPPED}'}}\n")
    (note,) = check_before_computing(load_matrix(name), name)
    assert note.startswith(
        "prompts for folder: the tokenizer of the model breaks words into letters: edema, hernia, mass;"
    )
    (told,) = [check for check in plan(name).inputs if check.warns]
    assert (told.ok, f"{told.what}: {told.said}") == (True, note)


def test_the_phantoms_own_words_are_not_looked_at_anew() -> None:
    assert check_before_computing(load_matrix("toy"), "toy.yaml") == []


def test_a_damaged_tokenizer_is_told_before_the_run() -> None:
    shutil.copytree(SHIPPED, "model")
    Path("model/tokenizer/tokenizer.json").write_text("{")
    name = matrix("[baseline, roentgen@3]", CLASSIFIER, "diffusion: {folder: model}\n")
    with pytest.raises(ConfigError, match=r"mine.yaml: diffusion.folder: .*tokenizer cannot be read"):
        check_before_computing(load_matrix(name), name)
