"""Words that a model's tokenizer breaks into letters, and prompts that are longer than it takes, told before a run."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from bench.diffusion.model import SHIPPED, DiffusionModel
from bench.diffusion.prompts import PromptTemplate
from bench.diffusion.words import notes_on_prompts
from bench.errors import ConfigError
from tests.unit.diffusion.diffusion_folders import build_folder, edit


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of 77 tokens whose tokenizer knows Effusion, Effusion, Fracture and Nodule."""
    return build_folder(tmp_path_factory.mktemp("sd") / "sd15", "sd15")


def notes(
    folder: Path, classes: tuple[str, ...], labels: list[list[float]] | None = None, **prompt: object
) -> list[str]:
    model = DiffusionModel(folder=str(folder), prompt=PromptTemplate.model_validate(prompt))
    return list(notes_on_prompts(model, classes, None if labels is None else np.array(labels, np.float32)))


def test_words_that_the_model_knows_need_no_note(folder: Path) -> None:
    assert notes(folder, ("Effusion", "Fracture")) == []
    assert notes(folder, ("Effusion", "Fracture"), [[1, 0], [float("nan"), 1], [0, 0]]) == []
    assert notes(SHIPPED, ("Pleural Effusion", "Support Devices")) == []


def test_words_that_are_broken_into_letters_are_named(folder: Path) -> None:
    (said,) = notes(folder, ("Fracture", "Pneumothorax", "Hernia"))
    assert "breaks words into letters: hernia, pneumothorax;" in said
    (said,) = notes(folder, ("Fracture", "Hernia"), words={"Hernia": "fracture"}, template="zebra {findings}")
    assert "into letters: zebra;" in said


def test_prompts_that_are_too_long_are_counted_and_what_is_lost_is_said(folder: Path) -> None:
    classes, long = ("Effusion", "Fracture"), {"Fracture": "fracture " * 80}
    (said,) = notes(folder, classes, [[1, 0], [0, 1], [1, 1], [0, float("nan")]], words=long)
    assert said.startswith("2 of 4 images have a prompt longer than the 77 tokens")
    # 77 tokens hold two signs; the prompt of both classes has 5 others before the 80 words, so that 70 of 80 are read.
    assert f"the longest loses '{' '.join(['fracture'] * 10)}'" in said
    (said,) = notes(folder, classes, words=long)
    assert said.startswith("1 of 2 classes have a prompt longer")


def test_the_length_is_the_text_encoders_where_the_tokenizer_names_none(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "sd")
    edit(other / "tokenizer/tokenizer_config.json", model_max_length=None)
    assert "than the 77 tokens" in notes(other, ("Fracture",), words={"Fracture": "fracture " * 80})[0]


def test_a_tokenizer_that_cannot_be_read_is_one_line(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "sd")
    (other / "tokenizer/tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer cannot be read, download it again \(") as caught:
        notes(other, ("Fracture",))
    assert "\n" not in str(caught.value)
