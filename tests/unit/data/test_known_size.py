"""The size of a data set is read once: stages in other processes get it with the data set."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from bench.data.kinds.phantom import Phantom
from tests.unit.data.test_folder import folder

LINES = [f"{i}.png,{i % 2},{i % 3 == 0:d},0" for i in range(6)]


def test_a_copy_in_another_process_knows_the_size_without_the_labels(tmp_path: Path) -> None:
    found = folder(tmp_path, LINES)
    assert len(found.key) == 32  # which reads the labels
    there = pickle.loads(pickle.dumps(found))
    for file in found.files:
        file.unlink()
    assert (there.size(), there.key) == (6, found.key)


def test_a_changed_copy_has_a_size_of_its_own() -> None:
    phantom = Phantom(n_images=20)
    assert phantom.size() == 20
    assert phantom.model_copy(update={"n_images": 30}).size() == 30


def test_a_phantom_without_an_official_split_does_not_say_that_no_image_is_train() -> None:
    assert Phantom(n_images=80).known_size().n_train is None
    assert Phantom(n_images=80, held_out=40).known_size().n_train == 40


@pytest.mark.parametrize("n", [3, 6])
def test_the_size_is_that_of_the_file(tmp_path: Path, n: int) -> None:
    assert folder(tmp_path, LINES[:n]).size() == n
