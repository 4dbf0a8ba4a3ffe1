"""Requests that cannot be met: one line, exit code 2, no traceback, nothing written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.errors import ConfigError
from tests.e2e.driver import Bench, Said

GOOD: dict[str, Any] = {
    "name": "small",
    "datasets": [{"kind": "phantom", "n_images": 80, "image_px": 32, "prevalence_floor": 0.1}],
    "split": {"min_positives": 1},
    "methods": ["baseline"],
    "classifier": {"steps": 1, "architecture": "resnet18"},
}


def refused(said: Said, store: Path) -> str:
    """Return the one line of a refusal, after looking at everything else about it."""
    assert said.code == 2, said
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    assert not store.exists()
    return said.err.strip()


FAULTS: dict[str, tuple[dict[Any, Any], str]] = {
    "key": ({"sedes": [1]}, "m.yaml.sedes: unknown setting; did you mean 'seeds'?"),
    "nested key": (
        {"classifier": {"batchsize": 2}},
        "m.yaml.classifier.batchsize: unknown setting; did you mean 'batch_size'?",
    ),
    "method": ({"methods": ["baseline", "smite"]}, "m.yaml.methods.1: no method 'smite'; did you mean 'smote'?"),
    "class": (
        {"augment": {"counts": {"Fractures": 1}}},
        "no class 'Fractures' in the data set; did you mean 'Fracture'?",
    ),
    "data set": (
        {"datasets": ["fantom"]},
        "m.yaml.datasets.0.kind: no data set kind 'fantom'; did you mean 'phantom'?",
    ),
    "type": ({"classifier": {"steps": "few"}}, "m.yaml.classifier.steps: input should be a valid integer"),
    "empty list": ({"methods": []}, "m.yaml.methods: list should have at least 1 item"),
    "twice": ({"methods": ["baseline", "baseline"]}, "the cell phantom/baseline/s0 is there twice"),
    "settings of nothing": ({"settings": {"smote": {}}}, "m.yaml.settings.smote: no row of `methods` uses it"),
    "settings of nobody": ({"settings": {"smot": {}}}, "m.yaml.settings: no method 'smot'; did you mean 'smote'?"),
    "range": ({"split": {"test": 1.5}}, "m.yaml.split.test: input should be less than 1, got 1.5"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", ["run", "table", "status", "report"])
def test_a_faulty_matrix_is_refused_by_every_verb(bench: Bench, tmp_path: Path, fault: str, verb: str) -> None:
    changes, line = FAULTS[fault]
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(GOOD | changes), encoding="utf-8")
    assert line in refused(bench(verb, path, "--store", tmp_path / "store"), tmp_path / "store")


@pytest.mark.parametrize(
    ("args", "line"),
    [
        (["run", "toi"], "matrix 'toi': no such file and no shipped matrix of that name; did you mean 'toy'?"),
        (["run", "toy", "--set", "classifier.steps"], "--set classifier.steps: want key=value"),
        (["run", "toy", "--set", "name.x=1"], "--set name.x=1: nothing to set at 'x'"),
        (["run", "toy", "--jobs", "0"], "--jobs 0: want 1 or more"),
        (["run", "toy", "--device", "gpu"], "--device gpu: want auto, cpu, cuda or mps"),
        (["run", "toy", "--wandb", "of"], "--wandb of: no such mode; did you mean 'off'?"),
        (["explain", "toy", "our@1"], "no cell 'our@1'"),
        (["explain", "toy", "ours"], "'ours' is in 3 cells"),
        (["sweep", "il_sé"], "il_sé"),
    ],
)
def test_a_faulty_request_is_refused(bench: Bench, tmp_path: Path, args: list[str], line: str) -> None:
    assert line in refused(bench(*args, "--store", tmp_path / "store"), tmp_path / "store")


def test_a_store_that_is_a_file_or_below_one_is_refused(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text(yaml.safe_dump(GOOD), encoding="utf-8")
    file = tmp_path / "file"
    file.write_text("mine", encoding="utf-8")
    assert "is a file; give a folder" in refused(bench("run", path, "--store", file), tmp_path / "store")
    said = refused(bench("run", path, "--store", file / "below", "--jobs", 1), tmp_path / "store")
    assert "cannot be written: Not a directory; choose another with --store" in said.splitlines()[-1]
    assert file.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize("args", [["rn", "toy"], ["run"], ["run", "toy", "--jobs", "many"], ["run", "toy", "--bogus"]])
def test_a_command_that_does_not_exist_shows_its_usage(bench: Bench, args: list[str]) -> None:
    said = bench(*args)
    assert said.code == 2
    assert said.out == ""
    assert "Traceback" not in said.err


def test_debug_gives_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from bench.cli import main

    monkeypatch.setattr("sys.argv", ["bench", "--debug", "table", "toi"])
    with pytest.raises(ConfigError, match="did you mean 'toy'"):
        main()


def test_data_that_cannot_be_used_fails_its_cells_and_says_so_everywhere(bench: Bench, tmp_path: Path) -> None:
    path, store = tmp_path / "m.yaml", tmp_path / "store"
    path.write_text(yaml.safe_dump(GOOD | {"split": {"min_positives": 70}}), encoding="utf-8")
    options = ["--store", store]
    said = bench("run", path, *options, "--jobs", 1, "--wandb", "off", "--quiet", "--json")
    assert said.code == 1
    assert "failed: phantom/baseline/s0: DataError: split: class " in said.err
    assert "split.min_positives asks for 70" in said.err
    assert "1 of 1 cells failed" in said.err
    assert "Traceback" not in said.err
    rows = yaml.safe_load(said.out)
    assert (rows[0]["state"], rows[0]["map_all"]) == ("failed", None)
    assert "min_positives" in rows[0]["reason"]
    assert '"state": "failed"' in bench("status", path, *options, "--json").out
    assert '"action": "stop"' in bench("explain", path, "baseline", *options, "--json").out
    for verb in (["table", path], ["status", path], ["explain", path, "baseline"], ["ls"]):
        assert bench(*verb, *options).code == 0
