"""A stage written as JSON is the same stage when it is read, and says so when the code has changed meanwhile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from bench.errors import StageError
from bench.matrix.load import load_matrix
from bench.pipeline.stage import walk
from bench.pretrain.request import pretraining
from bench.run.slurm.recipe import read_recipe, write_recipe
from tests.reliability.toys import Toy


@pytest.mark.parametrize("name", ["toy", "paper"])
def test_every_stage_of_a_matrix_comes_back_with_its_key(tmp_path: Path, name: str) -> None:
    rows = "path,subject_id,a,b\n" + "".join(f"{i}.png,{i},{i % 2},{int(i > 99)}\n" for i in range(200))
    (tmp_path / "some.csv").write_text(rows, encoding="utf-8")
    for i in range(200):
        Image.new("L", (2, 2)).save(tmp_path / f"{i}.png")
    folder = f"{{kind: folder, csv: {tmp_path / 'some.csv'}, root: {tmp_path}, n_tail: 1}}"
    overrides = [f"datasets=[{folder}]", "diffusion={folder: tiny}"] if name == "paper" else []
    stages = walk([s for c in load_matrix(name, overrides).cells for s in c.targets])
    assert len({s.stage_name() for s in stages}) > 5
    for stage in stages:
        write_recipe(tmp_path / "recipe.json", stage)
        found = read_recipe(tmp_path / "recipe.json", stage.key)
        assert found == stage
        assert found.key == stage.key
        assert type(found) is type(stage)


@pytest.mark.parametrize("what", ["oracle", "diffusion"])
def test_a_pretraining_comes_back_too(tmp_path: Path, what: str) -> None:
    for stage in walk([pretraining(what, None, ())]):
        write_recipe(tmp_path / "recipe.json", stage)
        assert read_recipe(tmp_path / "recipe.json", stage.key) == stage


def test_settings_that_are_no_part_of_the_key_come_too(tmp_path: Path) -> None:
    write_recipe(tmp_path / "r.json", Toy(value=1, log="somewhere", seconds=0.5))
    found = read_recipe(tmp_path / "r.json", Toy(value=1).key)
    assert (found.log, found.seconds) == ("somewhere", 0.5)  # type: ignore[attr-defined]


def test_a_shared_input_is_written_once(tmp_path: Path) -> None:
    shared = Toy(value=1)
    top = Toy(value=9, inputs_=(Toy(value=2, inputs_=(shared,)), Toy(value=3, inputs_=(shared,))))
    write_recipe(tmp_path / "r.json", top)
    assert len(json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["stages"]) == 4
    found = read_recipe(tmp_path / "r.json", top.key)
    left, right = found.inputs()
    assert left.inputs()[0] is right.inputs()[0]


def test_code_that_changed_since_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_recipe(path, Toy(value=1))
    with pytest.raises(StageError, match="the code has changed since this job was submitted"):
        read_recipe(path, Toy(value=2).key)
    text = path.read_text(encoding="utf-8")
    for gone in (text.replace("toys:Toy", "toys:Gone"), text.replace('"value"', '"worth"')):
        path.write_text(gone, encoding="utf-8")
        with pytest.raises(StageError, match="the code has changed since this job was submitted"):
            read_recipe(path, Toy(value=1).key)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(StageError, match="cannot be read"):
        read_recipe(path, Toy(value=1).key)


def test_nothing_but_settings_is_built(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    write_recipe(path, Toy(value=1))
    path.write_text(
        path.read_text(encoding="utf-8").replace("tests.reliability.toys:Toy", "subprocess:Popen"), encoding="utf-8"
    )
    with pytest.raises(StageError, match="is neither a stage nor settings"):
        read_recipe(path, Toy(value=1).key)
