"""What paths in a matrix are relative to: the folder of its file; those of `--set` and of shipped ones, where we are."""

import os
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.data.kinds.folder import FolderDataset
from bench.errors import ConfigError, DataError
from bench.matrix.inputs import plan
from bench.matrix.load import find_dataset, load_matrix
from bench.matrix.resolved import resolved
from bench.paths import as_on_disk
from bench.run.slurm.recipe import read_recipe, write_recipe
from sweeps.settings import load_sweep
from tests.pictures import write_png

N = 24


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Return a folder with pictures, a list and a matrix in `my data [1]`; the working folder is another one."""
    data = tmp_path / "my data [1]"
    data.mkdir()
    for i in range(N):
        write_png(data / f"{i}.png", np.random.default_rng(i).integers(0, 256, (16, 16), dtype=np.uint8))
    rows = [f"{i}.png,p{i // 2},{i % 2},{int(i % 3 == 0)}" for i in range(N)]
    (data / "labels.csv").write_text("\n".join(["path,who,a,b", *rows]), encoding="utf-8")
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    return data


def write(folder: Path, name="mine.yaml", dataset=None, **more) -> str:
    raw = {
        "name": "mine",
        "datasets": [
            {"kind": "folder", "csv": "labels.csv", "patient_column": "who", "image_px": 32} | (dataset or {})
        ],
        "split": {"min_positives": 1},
        "methods": ["baseline"],
        "classifier": {"steps": 1, "architecture": "resnet18"},
    }
    (folder / name).write_text(yaml.safe_dump(raw | more), encoding="utf-8")
    return str(folder / name)


def csv_of(matrix) -> str:
    return matrix.cells[0].dataset.csv


def test_paths_in_a_file_are_relative_to_it(place):
    assert csv_of(load_matrix(write(place))) == str(place / "labels.csv")
    assert csv_of(load_matrix("../my data [1]/mine.yaml")) == f"{os.getcwd()}/../my data [1]/labels.csv"
    assert load_matrix("../my data [1]/mine.yaml").cells[0].key == load_matrix(write(place)).cells[0].key
    found, _ = find_dataset(write(place, dataset={"root": "."}), (), None)
    assert found.folder == place


def test_paths_of_set_are_relative_to_the_working_folder(place):
    path = write(place, dataset={"csv": "gone.csv"})
    (place.parent / "else" / "mine.csv").write_bytes((place / "labels.csv").read_bytes())
    root = f"datasets.0.root={place}"
    for csv in (
        "datasets.0.csv=mine.csv",
        "datasets=[{kind: folder, csv: mine.csv, patient_column: who, image_px: 16}]",
    ):
        assert csv_of(load_matrix(path, [csv, root])) == str(Path.cwd() / "mine.csv")
    found, _ = find_dataset("folder", ["csv=mine.csv", f"root={place}"], None)
    assert found.csv == str(Path.cwd() / "mine.csv")


def test_an_override_leaves_the_paths_of_the_file_alone(place):
    path = write(place)
    assert csv_of(load_matrix(path, ["datasets.0.image_px=8", f"datasets.0.root={place}"])) == str(place / "labels.csv")


def test_absolute_paths_home_and_names_stay(place, monkeypatch):
    monkeypatch.setenv("HOME", str(place))
    path = write(place, dataset={"csv": "~/labels.csv"}, diffusion={"folder": "tiny"})
    matrix = load_matrix(path)
    assert csv_of(matrix) == "~/labels.csv"
    assert matrix.settings.diffusion.folder == "tiny"


def test_every_path_of_a_matrix_is_found_wherever_it_stands(place):
    """The settings of the matrix, of a method, of a row and of extractors, and not only those of data sets."""
    path = write(
        place,
        methods=["baseline", {"method": "baseline", "row": "warm", "classifier": {"weights": "w/row.pth"}}],
        classifier={"steps": 1, "architecture": "resnet18", "weights": "w/all.pth"},
        diffusion={"folder": "models/sd"},
        fidelity={"extractor": {"kind": "xrv", "weights": "w/xrv.pth"}},
    )
    settings = plan(path).matrix.settings
    assert settings.classifier.weights == str(place / "w/all.pth")
    assert settings.methods[1].classifier["weights"] == str(place / "w/row.pth")
    assert settings.diffusion.folder == str(place / "models/sd")
    assert settings.fidelity.extractor.weights == str(place / "w/xrv.pth")


def test_a_message_says_relative_to_what(place):
    path = write(place, dataset={"csv": "gone.csv"})
    with pytest.raises(DataError, match=r"gone.csv: cannot be read .*; check the setting 'csv', which is relative to "):
        load_matrix(path).cells[0].dataset.content()
    wrong = {c.what: c.said for c in plan(write(place, dataset={"root": "gone"})).missing}
    assert wrong["folder, pictures"].endswith("check the setting 'root', which is relative to the folder of mine.yaml")
    wrong = {c.what: c.said for c in plan(write(place), ["classifier.weights=gone.pth"]).missing}
    assert "which is relative to the working folder" in wrong["classifier.weights"]


def test_a_file_that_is_in_the_working_folder_instead_is_told(place):
    (Path.cwd() / "here.csv").touch()
    with pytest.raises(
        DataError, match=r"relative to the folder of mine.yaml and not to the working folder, where it is"
    ):
        load_matrix(write(place, dataset={"csv": "here.csv"})).cells[0].dataset.content()


def test_jobs_and_written_matrices_have_absolute_paths(place, tmp_path):
    matrix = load_matrix("../my data [1]/" + Path(write(place)).name)
    cell = matrix.cells[0]
    write_recipe(tmp_path / "recipe.json", cell.dataset)
    os.chdir(tmp_path)
    assert read_recipe(tmp_path / "recipe.json", cell.dataset.key).folder.samefile(place)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(resolved(matrix.settings, matrix.cells)), encoding="utf-8")
    assert load_matrix(str(tmp_path / "again.yaml")).cells[0].key == cell.key


def test_a_sweep_finds_the_data_of_its_base(place):
    write(place)
    raw = {
        "name": "s",
        "base": "mine.yaml",
        "set": {"datasets.0.root": ".", "fidelity.extractor": {"kind": "classifier"}},
        "method": "baseline",
        "search": {"classifier.learning_rate": {"type": "float", "low": 1.0e-4, "high": 1.0e-2, "log": True}},
        "objectives": [{"metric": "val_map_tail", "direction": "maximize"}],
        "sampler": {"name": "RandomSampler", "seed": 0},
        "n_trials": 1,
    }
    (place / "sweep.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    found = load_sweep(str(place / "sweep.yaml")).base["datasets"][0]
    assert (found["csv"], found["root"]) == (str(place / "labels.csv"), str(place))


def test_a_folder_whose_name_is_no_utf8_is_refused_by_name(place):
    odd = os.fsdecode(bytes(place.parent) + b"/caf\xe9")
    os.rename(place, odd)
    path = write(Path(odd))
    with pytest.raises(ConfigError, match=r"the folder of mine.yaml: the name 'caf\\xe9' is not UTF-8; rename it"):
        load_matrix(path)


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("written", ["NFC", "NFD"])
def test_paths_are_found_in_either_normal_form(place, on_disk, written):
    def called(form: str) -> str:
        return unicodedata.normalize(form, "épanchement")

    (place / called(on_disk)).mkdir()
    os.rename(place / "0.png", place / called(on_disk) / f"{called(on_disk)}.png")
    text = (place / "labels.csv").read_text(encoding="utf-8").replace("0.png", "", 1)
    (place / f"{called(on_disk)}.csv").write_text(
        text.replace("\n,p0", f"\n{called(written)}/{called(written)}.png,p0"), encoding="utf-8"
    )
    matrix = load_matrix(write(place, dataset={"csv": f"{called(written)}.csv"}))
    assert Path(csv_of(matrix)).is_file()
    dataset = FolderDataset(csv=csv_of(matrix), patient_column="who")
    assert len(dataset.content()["digest"]) == 32


def test_a_path_that_is_there_is_never_exchanged(tmp_path):
    forms = [unicodedata.normalize(form, "é") for form in ("NFC", "NFD")]
    for form in forms:
        (tmp_path / form).touch()
    assert [as_on_disk(str(tmp_path / form)) for form in forms] == [str(tmp_path / form) for form in forms]
    assert as_on_disk(str(tmp_path / "ü")) == str(tmp_path / "ü")
