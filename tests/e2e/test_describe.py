"""`bench describe`: what a data set holds, before and after it is computed; of credentialed data only aggregates."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.cxr_lt_trees import HEAD, Tree, mimic_tree, nih_tree
from tests.e2e.driver import Bench

SMALL = {
    "methods": ["baseline"],
    "classifier": {"architecture": "resnet18", "steps": 2, "batch_size": 8, "n_validations": 1},
    "split": {"min_positives": 1},
}


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """A tree of the 26 classes that no test changes, with laterals, one picture missing."""
    made = mimic_tree(tmp_path_factory.mktemp("mimic"), release="1.1.0-26", size=(80, 96))
    (made.root / "files" / next(r for r in made.rows if r["ViewPosition"] == "PA")["rest"]).unlink()
    return made


def matrix(folder: Path, *datasets: dict) -> Path:
    path = folder / "lt.yaml"
    path.write_text(yaml.safe_dump({"name": "lt", "datasets": list(datasets), **SMALL}), encoding="utf-8")
    return path


def mimic(tree: Tree, **settings: object) -> dict:
    return {"kind": "mimic-cxr-lt", **tree.settings(release="1.1.0-26", image_px=32, missing="leave_out", **settings)}


def test_a_kind_of_data_set_is_described_without_a_matrix(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    sets = [x for k, v in mimic(tree).items() if k != "kind" for x in ("--set", f"{k}={v}")]
    said = bench("describe", "mimic-cxr-lt", *sets, "--store", tmp_path / "store", "--json")
    assert said.code == 0, said.err
    other = bench("describe", matrix(tmp_path, mimic(tree)), "--store", tmp_path / "store", "--json")
    assert json.loads(said.out) == json.loads(other.out)
    typo = bench("describe", "mimic-cxr-lt", "--set", "rooot=x")
    assert (typo.code, typo.err.count("\n")) == (2, 1)
    assert "mimic-cxr-lt.rooot" in typo.err
    assert "or a kind of data set: " in bench("describe", "mimic-cxr-l").err
    assert "--dataset other: is an option for a matrix" in bench("describe", "phantom", "--dataset", "other").err


def test_counts_are_those_of_the_label_files(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    said = bench("describe", matrix(tmp_path, mimic(tree)), "--store", tmp_path / "store", "--json")
    assert said.code == 0, said.err
    found = json.loads(said.out)
    frontal = [r for r in tree.rows if r["ViewPosition"] != "LATERAL"]
    assert found["images"] == len(frontal)
    assert found["patients"] == 60
    assert found["split"] == "official"
    for part in ("train", "val", "test"):
        mine = [r for r in frontal if r["part"] == part]
        assert found["parts"][part] == {"images": len(mine), "patients": len({r["subject_id"] for r in mine})}
        counts = {c["name"]: c[part] for c in found["classes"]}
        assert counts == {name: sum(r[name] for r in mine) for name in counts}
        of = {c["name"]: c["patients"][part] for c in found["classes"]}
        assert of == {name: len({r["subject_id"] for r in mine if r[name]}) for name in of}
    assert {c["name"] for c in found["classes"] if c["group"] == "head"} == set(HEAD)
    names = [c["name"] for c in found["classes"]]
    both = np.array([[sum(r[a] and r[b] for r in frontal) for b in names] for a in names])
    np.testing.assert_array_equal(found["cooccurrence"], both)
    assert found["pictures"]["missing"] == 1
    assert (found["pictures"]["width_px"], found["pictures"]["height_px"]) == ([80] * 3, [96] * 3)
    assert not (tmp_path / "store").exists()


def test_no_id_and_no_path_is_told(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    path = matrix(tmp_path, mimic(tree))
    told = "".join(
        said.out + said.err
        for said in (bench("describe", path, *options) for options in ((), ("--json",), ("--out", tmp_path / "x.png")))
    )
    assert "Fracture" in told
    secret = {str(r[c]) for r in tree.rows for c in ("subject_id", "study_id", "dicom_id")} | {str(tree.root)}
    assert not [s for s in secret if s in told]
    assert not re.search(r"p1\d/|s5\d{7}", told)


def test_a_run_gives_the_table_and_the_description_then_is_of_it(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    path, store = matrix(tmp_path, mimic(tree)), tmp_path / "store"
    ran = bench("run", path, "--store", store, "--wandb", "off", "--jobs", 1, "--quiet")
    assert ran.code == 0, ran.err
    noted = bench("table", path, "--notes", "--store", store).out
    assert "Support Devices" in noted, "the notes say which classes were chosen"
    found = json.loads(bench("describe", path, "--store", store, "--json").out)
    assert found["table"] == "computed"
    assert found["left_out"]["missing_pictures"] == 1
    assert found["images"] == found["left_out"]["images"] == 119
    assert found["left_out"]["rows_in_other_views"] == 120


def test_the_figure_is_a_picture(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "classes.png"
    said = bench("describe", matrix(tmp_path, mimic(tree)), "--store", tmp_path / "store", "--out", out)
    assert said.code == 0, said.err
    assert "Pneumomediastinum" in said.out
    with Image.open(out) as picture:
        assert min(picture.size) > 400
        assert len(np.unique(np.asarray(picture.convert("L")))) > 20


def test_a_split_that_a_run_would_refuse_is_described(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    path = matrix(tmp_path, mimic(tree))
    options = ("--set", "split.min_positives=1000", "--store", tmp_path / "store")
    assert bench("run", path, *options).code == 2
    said = bench("describe", path, *options)
    assert said.code == 0
    assert "refused by a run: split: class" in said.out


def test_one_of_several(bench: Bench, tree: Tree, tmp_path: Path) -> None:
    other = nih_tree(tmp_path / "nih", n_patients=10)
    path = matrix(tmp_path, mimic(tree, name="theirs"), {"kind": "nih-cxr-lt", **other.settings()})
    said = bench("describe", path, "--dataset", "nih-cxr-lt", "--store", tmp_path / "store", "--json")
    assert json.loads(said.out)["kind"] == "nih-cxr-lt"
    said = bench("describe", path)
    assert (said.code, said.err) == (2, "error: matrix lt: 2 data sets; give --dataset theirs or nih-cxr-lt\n")
    assert "no data set 'their'; did you mean 'theirs'?" in bench("describe", path, "--dataset", "their").err


def test_a_data_set_without_a_source_is_computed(bench: Bench, tmp_path: Path) -> None:
    said = bench("describe", "toy", "--store", tmp_path / "store", "--json", "--quiet")
    found = json.loads(said.out)
    assert (found["images"], found["split"]) == (240, "by patient, stratified")
    assert sum(part["images"] for part in found["parts"].values()) == 240
    assert found["pictures"] is None


@pytest.mark.parametrize(
    ("settings", "options", "said"),
    [
        ({"labels": "nowhere"}, (), "nowhere: no such folder; check the setting 'labels'"),
        ({}, ("--out", "figure.pdf"), "--out figure.pdf: want the name of a PNG file"),
        ({"release": "1.1.0-27"}, (), "lt.yaml.datasets.0.release: want '1.1.0-19', '1.1.0-26' or '2.0.0-40'"),
    ],
)
def test_what_cannot_be_described(
    bench: Bench, tree: Tree, tmp_path: Path, settings: dict, options: tuple, said: str
) -> None:
    ended = bench("describe", matrix(tmp_path, mimic(tree) | settings), "--store", tmp_path / "store", *options)
    assert ended.code == 2
    assert ended.err.count("\n") == 1
    assert said in ended.err
    assert not (tmp_path / "store").exists()
