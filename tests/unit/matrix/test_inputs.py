"""What a matrix needs: planned without it, looked at all at once, never walked over, and never computed without it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.checks import Check
from bench.data import source_checks as sources
from bench.data.kinds.cxr_lt.dataset import NihCxrLt
from bench.data.kinds.folder import FolderDataset
from bench.diffusion.folder import digest
from bench.diffusion.model import SHIPPED
from bench.errors import ConfigError
from bench.matrix.inputs import Planned, check_weights, plan
from bench.matrix.load import load_matrix
from bench.matrix.matrix import Matrix
from bench.matrix.resolved import flat_config
from bench.pipeline.stage import walk
from bench.run.run_matrix import run_stages
from bench.store.store import Store
from bench.store.work import Execution
from reports.footnotes import footnotes
from tests.cxr_lt_trees import FIRST_PATIENT, Tree, mimic_tree, nih_tree
from tests.unit.diffusion.diffusion_folders import build_folder


@pytest.fixture(autouse=True)
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand where nothing is."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tree]:
    folder = tmp_path_factory.mktemp("trees")
    return {"paper": mimic_tree(folder / "mimic"), "paper-nih": nih_tree(folder / "nih", packed=True)}


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("diffusion") / "sd", "sd15")


def over(tree: Tree, **others: object) -> list[str]:
    """Return the overrides that give a paper's matrix a tree and the tiny diffusion model."""
    given = {"datasets.0.labels": tree.labels, "datasets.0.root": tree.root, "datasets.0.limit": "null"}
    given["datasets.0.keep_tail"] = 1
    return [f"{k}={v}" for k, v in (given | {"split.min_positives": 1, "diffusion": "{preset: tiny}"} | others).items()]


def keys(matrix: Matrix, cells: str = "") -> list[str]:
    return [s.key for c in matrix.cells if cells in c.name for s in walk(c.targets)]


def wrong(planned: Planned) -> dict[str, str]:
    return {check.what: check.said for check in planned.missing}


# --- planning


def test_a_matrix_is_planned_where_there_is_neither_data_nor_weights(tmp_path: Path) -> None:
    planned = plan("paper")
    assert len(planned.matrix.cells) == 21
    assert set(wrong(planned)) == {"mimic-cxr-lt, label files", "mimic-cxr-lt, pictures", "diffusion.folder"}
    assert "check the setting 'labels'" in wrong(planned)["mimic-cxr-lt, label files"]
    assert {s.key[0] for c in planned.matrix.cells for s in c.targets} == {"?"}
    assert keys(planned.matrix) == keys(plan("paper").matrix)
    assert keys(planned.matrix) != keys(plan("paper", ["datasets.0.labels=elsewhere"]).matrix)
    assert list(tmp_path.iterdir()) == []


def test_where_nothing_is_missing_keys_are_the_usual_ones(trees: dict[str, Tree]) -> None:
    sets = over(trees["paper"])
    planned, usual = plan("paper", sets), load_matrix("paper", sets)
    assert planned.missing == ()
    assert keys(planned.matrix) == keys(usual)
    assert [c.key for c in planned.matrix.cells] == [c.key for c in usual.cells]


def test_what_does_not_need_the_missing_has_its_usual_key(trees: dict[str, Tree]) -> None:
    planned = plan("paper", over(trees["paper"], diffusion="{folder: weights/mine}"))
    assert list(wrong(planned)) == ["diffusion.folder"]
    assert keys(planned.matrix, "smote") == keys(load_matrix("paper", over(trees["paper"])), "smote")
    assert {c.label for c in planned.matrix.cells if c.augmented.key[0] == "?"} == {
        "roentgen@75",
        "ours@0",
        "ours@1",
        "ours@5",
    }


def test_a_typing_error_is_refused_as_ever() -> None:
    with pytest.raises(ConfigError, match="did you mean 'min_positives'"):
        plan("paper", ["split.min_positive=1"])


def test_outside_of_a_plan_what_is_missing_is_refused_as_ever(trees: dict[str, Tree]) -> None:
    plan("paper")
    with pytest.raises(ConfigError, match="has no model_index"):
        load_matrix("paper", over(trees["paper"], diffusion="{folder: weights/mine}"))


def test_nothing_computes_what_was_planned_without_its_inputs(tmp_path: Path) -> None:
    cell = plan("paper").matrix.cells[0]
    store = Store(tmp_path / "store")
    with pytest.raises(ConfigError, match="was planned without all of its inputs"):
        store.get(cell.split)
    with pytest.raises(ConfigError, match="was planned without all of its inputs"):
        run_stages(cell.targets, store, executor=None, execution=Execution(), reporter=None)  # type: ignore[arg-type]
    assert not store.root.exists()


def test_planning_downloads_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trees: dict[str, Tree]) -> None:
    import torch

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a plan must not download")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", refuse)
    extractor = "{kind: inception, download: %s}"
    sets = over(trees["paper-nih"], **{"fidelity.extractor": extractor % "true"})
    planned = plan("paper-nih", sets)
    assert planned.missing == ()  # a run may go and fetch it
    assert {c.fidelity.key[0] for c in planned.matrix.cells} == {"?"}
    assert "a run downloads it" in {c.what: c.said for c in planned.inputs}["fidelity.extractor.weights"]
    sets = over(trees["paper-nih"], **{"fidelity.extractor": extractor % "false"})
    assert "no Inception weights" in wrong(plan("paper-nih", sets))["fidelity.extractor.weights"]


# --- data


def checks(dataset: Any) -> dict[str, Check]:
    return {check.what: check for check in dataset.sources()}


@pytest.mark.parametrize("name", ["paper", "paper-nih"])
def test_a_tree_that_is_whole(trees: dict[str, Tree], name: str) -> None:
    planned, n = plan(name, over(trees[name])), len(trees[name].rows)
    label = planned.matrix.cells[0].dataset.label
    told = {check.what: check.said for check in planned.inputs}
    assert planned.missing == ()
    assert f"{n} rows, {n} of them taken, 10 classes" in told[f"{label}, label files"]
    assert f"32 of {n} pictures looked for and there, one decoded (4" in told[f"{label}, pictures"]
    assert told["diffusion.folder"].endswith(f"float32, digest {digest(SHIPPED)[:8]}")


def test_pictures_are_looked_for_never_listed(trees: dict[str, Tree], monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[Path] = []

    def is_there(path: Path) -> bool:
        looked.append(path)
        return path.is_file()

    def listing(self: Path) -> None:
        raise AssertionError("a folder of a hundred thousand pictures is listed")

    monkeypatch.setattr(sources, "is_there", is_there)
    monkeypatch.setattr(Path, "iterdir", listing)
    dataset = NihCxrLt(**trees["paper-nih"].settings(classes="all"))
    assert checks(dataset)["pictures"].ok
    assert len(looked) <= 32 * 4  # the root and the three folders that the archives unpack to


def lacks_first_picture(tree: Tree) -> dict[str, Any]:
    (tree.root / "files" / tree.rows[0]["rest"]).unlink()
    return {}


def has_damaged_picture(tree: Tree) -> dict[str, Any]:
    (tree.root / "files" / tree.rows[0]["rest"]).write_bytes(b"\xff\xd8\xff")
    return {}


@pytest.mark.parametrize(
    ("break_", "what", "said"),
    [
        (lambda t: {"root": str(t.labels)}, "pictures", "none of 32 pictures is below"),
        (lambda t: {"root": "gone"}, "pictures", "gone: no such folder; check the setting 'root'"),
        (lambda t: {"release": "2.0.0-40"}, "label files", "holds the files of release '1.1.0-19'; set"),
        (lambda t: t.files["val"].unlink(), "label files", "(CSV files there: miccai2023_mimic-cxr-lt_labels_test.csv"),
        (lambda t: {"limit": 3}, "label files", "raise it, or lower keep_tail"),
        (lacks_first_picture, "pictures", "1 missing picture: miccai2023_mimic-cxr-lt_labels_train.csv row 2: no such"),
        (has_damaged_picture, "pictures", "1 bad picture: miccai2023_mimic-cxr-lt_labels_train.csv row 2: damaged"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_tree(
    tmp_path: Path, break_: Callable[[Tree], dict[str, Any] | None], what: str, said: str
) -> None:
    from bench.data.kinds.cxr_lt.dataset import MimicCxrLt

    tree = mimic_tree(tmp_path, n_patients=20)
    changed = break_(tree) or {}
    found = checks(MimicCxrLt(**(tree.settings() | changed)))
    assert [name for name, check in found.items() if not check.ok] == [what]
    assert said in found[what].said
    assert not any(str(FIRST_PATIENT)[:4] in check.said for check in found.values())


def test_missing_pictures_that_may_be_left_out(tmp_path: Path) -> None:
    tree = nih_tree(tmp_path, n_patients=20)
    shutil.rmtree(tree.root / "images")
    (tree.root / "images").mkdir()
    assert not checks(NihCxrLt(**tree.settings(missing="leave_out")))["pictures"].ok  # all are
    shutil.rmtree(tmp_path)
    tree = nih_tree(tmp_path, n_patients=20)
    (tree.root / "images" / tree.rows[0]["rest"]).unlink()
    assert checks(NihCxrLt(**tree.settings(missing="leave_out")))["pictures"].ok
    assert not checks(NihCxrLt(**tree.settings()))["pictures"].ok


def test_a_folder_of_ones_own(trees: dict[str, Tree], tmp_path: Path) -> None:
    tree = trees["paper-nih"]
    rows = "".join(f"images_{1 + i % 3:03d}/images/{r['rest']},{i % 2},{i % 3 // 2}\n" for i, r in enumerate(tree.rows))
    (tmp_path / "mine.csv").write_text(f"path,a,b\n{rows}")
    settings: dict[str, Any] = {"csv": "mine.csv", "root": str(tree.root), "image_px": 16}
    assert all(check.ok for check in checks(FolderDataset(**settings)).values())
    assert "none of the 32 pictures" in checks(FolderDataset(**settings | {"root": "."}))["pictures"].said
    found = checks(FolderDataset(csv="no.csv", root="neither"))
    assert [check.ok for check in found.values()] == [False, False]
    assert "check the setting 'csv'" in found["CSV"].said
    assert "check the setting 'root'" in found["pictures"].said


def test_a_split_that_is_refused_is_told_beside_the_rest(trees: dict[str, Tree]) -> None:
    planned = plan("paper", over(trees["paper"], **{"split.min_positives": 1000, "datasets.0.root": "gone"}))
    assert set(wrong(planned)) == {"mimic-cxr-lt, pictures", "split"}


# --- weights


def test_a_methods_own_check_that_breaks_is_told_and_stops_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: object, latent_px: int) -> None:
        raise SystemExit(3)

    monkeypatch.setattr("methods.fusion.method.Fusion.check", broken)
    found = wrong(plan("toy", ["methods=[baseline, ours@1]"]))
    assert list(found) == ["row ours@1"]
    assert "its own check failed: SystemExit" in found["row ours@1"]
    check_weights(load_matrix("toy", ["methods=[baseline, ours@1]"]), "toy.yaml")


def test_all_that_is_wrong_with_weights_is_told_at_once(trees: dict[str, Tree], pipeline: Path, tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    shutil.copytree(pipeline, folder)
    (folder / "vae" / "config.json").unlink()
    (tmp_path / "start.pth").write_bytes(b"PK cut off")
    sets = {
        "diffusion": f"{{folder: {folder}, prompt: {{words: {{Hernja: x}}}}}}",
        "classifier.weights": "start.pth",
        "fidelity.extractor": "{kind: xrv, weights: gone.pth}",
    }
    found = wrong(plan("paper", over(trees["paper"], **sets)))
    assert set(found) == {"diffusion.folder", "classifier.weights", "fidelity.extractor.weights"}
    assert "config.json is not there" in found["diffusion.folder"]
    assert "start.pth is cut off (10 bytes)" in found["classifier.weights"]
    assert "gone.pth, which is relative to the working folder" in found["fidelity.extractor.weights"]


def test_weights_that_are_whole_and_do_not_fit(trees: dict[str, Tree], pipeline: Path) -> None:
    sets = {"diffusion": f"{{folder: {pipeline}, prompt: {{words: {{Fractur: x}}}}}}", "datasets.0.image_px": 516}
    found = wrong(plan("paper", over(trees["paper"], **sets)))
    assert set(found) == {"diffusion and image_px", "diffusion.prompt"}
    assert "choose 512 or 520" in found["diffusion and image_px"]
    assert "did you mean 'Fracture'" in found["diffusion.prompt"]


def test_records_and_footnotes_say_which_weights(trees: dict[str, Tree], pipeline: Path, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file({}, str(tmp_path / "start.safetensors"))
    shutil.copytree(pipeline, tmp_path / "sd")
    sets = over(trees["paper"], diffusion="{folder: sd}", **{"classifier.weights": "start.safetensors"})
    matrix = load_matrix("paper", sets)
    config = flat_config(matrix.settings, matrix.cells[0])
    assert config["diffusion.digest"] == matrix.settings.diffusion.content()["digest"]
    assert config["classifier.weights"] == matrix.settings.classifier.content()["weights"]
    assert not any("start" in str(v) or str(tmp_path) in str(v) for v in config.values())
    assert f"sd (sha256 {config['diffusion.digest'][:8]}…)" in " ".join(footnotes(matrix, [], None))
