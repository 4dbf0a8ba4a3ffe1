"""What goes wrong while computing: memory that is not there, a loss that is no number."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.e2e.driver import Bench, Said
from tests.e2e.faulty import Case, failed_line


def test_out_of_memory_fails_the_cell_and_the_next_run_tries_again(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> np.ndarray:
        raise MemoryError("cannot allocate 99 GB")

    options = ["run", Case("").matrix(tmp_path), "--store", tmp_path / "store", "--wandb", "off", "--jobs", 1]
    with monkeypatch.context() as patch:
        patch.setattr("bench.data.kinds.folder.read_image", full)
        line = failed_line(bench(*options, "--quiet"))
    assert line == "failed: folder/baseline/s0: MemoryError: cannot allocate 99 GB"
    said = bench(*options, "--quiet", "--json")  # without --retry-failed
    assert said.code == 0, said.err
    assert numbers(said)[0]["state"] == "done"


def numbers(said: Said) -> list[dict[str, Any]]:
    """Return the rows of a table in strict JSON."""

    def refuse(text: str) -> float:
        raise AssertionError(f"{text} in the table")

    rows: list[dict[str, Any]] = json.loads(said.out, parse_constant=refuse)
    return rows


def broken_weights(path: Path) -> str:
    import torch
    import torchvision

    state = torchvision.models.resnet18(weights=None).state_dict()
    state["conv1.weight"].fill_(np.nan)
    torch.save(state, path)
    return str(path)


@pytest.mark.parametrize("how", ["steps", "last step", "weights"])
def test_a_loss_that_is_no_number_names_the_step_and_what_to_try(bench: Bench, tmp_path: Path, how: str) -> None:
    recipe: dict[str, Any] = {"steps": 6, "architecture": "resnet18", "n_validations": 1, "batch_size": 8}
    if how == "weights":
        recipe |= {"weights": broken_weights(tmp_path / "w.pth")}
        told = r"the loss is nan at step 1 of 6 .*; this is before the first update: check classifier.weights"
    elif how == "steps":
        recipe |= {"learning_rate": 1e9}
        told = r"the loss is (nan|inf) at step [23] of 6 \(learning_rate 1e\+09, batch_size 8\); lower classifier.learning_rate"
    else:
        recipe |= {"learning_rate": 1e9, "steps": 1}
        told = r"the loss on val is (nan|inf) at step 1 of 1 .*; lower classifier.learning_rate"
    matrix = Case("", more={"classifier": recipe}).matrix(tmp_path)
    options = ["run", matrix, "--store", tmp_path / "store", "--wandb", "off", "--jobs", 1, "--quiet", "--json"]
    said = bench(*options)
    assert re.fullmatch(rf"failed: folder/baseline/s0: StageError: classifier: {told}.*", failed_line(said))
    row = numbers(said)[0]
    assert (row["state"], row["map_all"]) == ("failed", None)
    again = bench(*options)  # the same line, and no second training
    assert failed_line(again) == failed_line(said)
    assert json.loads(next(tmp_path.glob("store/classifier/*.failed.json")).read_text())["attempt"] == 1
