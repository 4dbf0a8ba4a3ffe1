"""Weights that are missing, half there, of something else, or a program: told before anything runs where a header tells."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.bad_input.matrices import changed, write
from tests.e2e.driver import Bench, refused

UNET = "unet/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
AGAIN = "give a whole StableDiffusionPipeline folder (download it again), or 'tiny'"


class Program:
    """Makes a file where it is unpickled by a careless reader."""

    def __init__(self, made: str) -> None:
        self.made = made

    def __reduce__(self) -> Any:
        return os.mkdir, (self.made,)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a diffusion folder that is right."""
    from bench.data.kinds.phantom import CLASS_NAMES
    from bench.testing.toy import build_pipeline

    return build_pipeline(tmp_path_factory.mktemp("pipeline") / "whole", CLASS_NAMES)


@pytest.fixture
def pipeline(whole: Path, tmp_path: Path) -> Path:
    """Return a copy to damage; each at another path, for a process loads a path once."""
    shutil.copytree(whole, tmp_path / "pipeline")
    return tmp_path / "pipeline"


def _cut(path: Path, n_bytes: int = 100) -> None:
    path.write_bytes(path.read_bytes()[:-n_bytes])


def _pickled(path: Path) -> None:
    path.write_bytes(pickle.dumps(Program(str(path.parents[2] / "made"))))


def _in_a_file(pipeline: Path) -> None:
    shutil.rmtree(pipeline)
    pipeline.write_text("mine", encoding="utf-8")


def _in_shards(pipeline: Path) -> None:
    first, second = (f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2))
    os.rename(pipeline / UNET, pipeline / "unet" / first)
    index = pipeline / "unet/diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": first, "b": second}}), encoding="utf-8")


# what is done to the folder, and words of the line
FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "missing": (shutil.rmtree, "has no model_index.json; give a StableDiffusionPipeline folder"),
    "a file": (_in_a_file, "has no model_index.json; give a StableDiffusionPipeline folder"),
    "no index": (lambda p: (p / "model_index.json").unlink(), "has no model_index.json; give a StableDiffusionPipeline"),
    "broken index": (lambda p: (p / "model_index.json").write_text("{"), "model_index.json cannot be read as JSON"),
    "index of a list": (lambda p: (p / "model_index.json").write_text("[]"), f"model_index.json holds no mapping; {AGAIN}"),
    "no scheduler": (lambda p: shutil.rmtree(p / "scheduler"), f"has no scheduler; {AGAIN}"),
    "empty scheduler": (lambda p: (p / "scheduler/scheduler_config.json").unlink(), "scheduler_config.json is not there"),
    "no VAE, no UNet": (lambda p: [shutil.rmtree(p / n) for n in ("vae", "unet")], f"has no unet, vae; {AGAIN}"),
    "no tokenizer": (lambda p: shutil.rmtree(p / "tokenizer"), f"has no tokenizer; {AGAIN}"),
    "empty tokenizer": (lambda p: (p / "tokenizer/tokenizer.json").unlink(), "tokenizer has no tokenizer.json or vocab.js"),
    "no configuration": (lambda p: (p / "unet/config.json").unlink(), f"unet/config.json is not there; {AGAIN}"),
    "broken configuration": (lambda p: (p / "vae/config.json").write_text("{"), "vae/config.json cannot be read as JSON"),
    "no weights": (lambda p: (p / UNET).unlink(), f"unet has no weights (.safetensors); {AGAIN}"),
    "half of the shards": (_in_shards, f"unet has no diffusion_pytorch_model-00002-of-00002.safetensors; {AGAIN}"),
    "cut off": (lambda p: _cut(p / VAE), f"{VAE} is cut off: 209496 of 209596 bytes; copy or download it again"),
    "cut off in the header": (lambda p: (p / UNET).write_bytes((p / UNET).read_bytes()[:20]), f"{UNET} is not a safetensors"),
    "no bytes": (lambda p: (p / UNET).write_bytes(b""), f"{UNET} is not a safetensors file, or its header is cut off"),
    "a program": (lambda p: _pickled(p / UNET), f"{UNET} is not a safetensors file, or its header is cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDERS)
def test_a_damaged_diffusion_folder_is_refused(bench: Bench, tmp_path: Path, pipeline: Path, case: str) -> None:
    damage, said = FOLDERS[case]
    damage(pipeline)
    path = write(tmp_path, changed({"methods": ["baseline", "roentgen@1"], "diffusion/folder": str(pipeline)}))
    line = refused(bench, "run", path, "--store", tmp_path / "store", "--wandb", "off", folder=tmp_path)
    assert line.startswith("m.yaml: diffusion.folder: ")
    assert str(pipeline) in line
    assert said in line


def failed(bench: Bench, tmp_path: Path, changes: dict[str, Any]) -> str:
    """Run a matrix of one cell that cannot finish and return why it failed, after looking at everything else."""
    bench.monkeypatch.chdir(tmp_path)
    path = write(tmp_path, changed(changes))
    said = bench("run", path, "--store", tmp_path / "store", "--jobs", 1, "--wandb", "off", "--quiet", "--json")
    assert said.code == 1, said
    lines = said.err.splitlines()
    assert "Traceback" not in said.err
    assert sum(line.startswith("failed: phantom/") for line in lines) == 1, said.err
    assert lines[-1].startswith("1 of 1 cells failed; why: bench explain ")
    row = json.loads(said.out)[0]
    assert row["state"] == "failed"
    assert not (tmp_path / "made").exists(), "a program in a file of weights was run"
    return next(line for line in lines if line.startswith("failed: "))


def _tensors(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def damage(pipeline: Path) -> None:
        from safetensors.torch import load_file, save_file

        tensors = load_file(pipeline / UNET)
        change(tensors)
        save_file(tensors, pipeline / UNET)

    return damage


def _of_another_shape(tensors: dict[str, Any]) -> None:
    tensors["conv_in.weight"] = tensors["conv_in.weight"][:3].clone()


def _of_nan(tensors: dict[str, Any]) -> None:
    tensors["conv_in.weight"] *= float("nan")


def _a_program(pipeline: Path) -> None:
    import torch

    (pipeline / UNET).unlink()
    torch.save({"conv_in.weight": Program(str(pipeline.parent / "made"))}, (pipeline / UNET).with_suffix(".bin"))


def _of_the_system(pipeline: Path) -> None:
    index = json.loads((pipeline / "model_index.json").read_text(encoding="utf-8"))
    (pipeline / "model_index.json").write_text(json.dumps(index | {"unet": ["os", "system"]}), encoding="utf-8")


LOADED: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "wrong shape": (_tensors(_of_another_shape), ("diffusion.folder: ", "cannot be loaded", "conv_in.weight")),
    "a program as .bin": (_a_program, ("diffusion.folder: ", "cannot be loaded, download it again")),
    "a class of the system": (_of_the_system, ("diffusion.folder: ", "cannot be loaded, download it again")),
    "not a number": (_tensors(_of_nan), ("diffusion: latents are not finite numbers; the weights are damaged",)),
}


@pytest.mark.parametrize("case", LOADED)
def test_a_diffusion_folder_that_does_not_load_fails_its_cell(
    bench: Bench, tmp_path: Path, pipeline: Path, case: str
) -> None:
    damage, words = LOADED[case]
    damage(pipeline)
    changes = {"methods": ["roentgen@1"], "diffusion/folder": str(pipeline), "augment/per_class": 1}
    line = failed(bench, tmp_path, changes)
    assert not [word for word in words if word not in line], line


def _saved(path: Path, what: Any) -> Path:
    import torch

    torch.save(what, path)
    return path


def _halved(path: Path) -> Path:
    import torch

    _saved(path, {"conv1.weight": torch.zeros(64, 3, 7, 7)})
    _cut(path)
    return path


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _foreign(folder: Path) -> Path:
    import torch

    return _saved(folder / "w.pth", {"body.weight": torch.zeros(3)})


EVIL = b"\x80\x04cos\nsystem\n(S'mkdir made'\ntR."  # what a pickle that runs a command looks like

# the file, and words of the line
FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda f: f / "none.pth", "none.pth is not there; give a file of weights, or null"),
    "a folder": (lambda f: f, " is a folder; give a file of weights, or null"),
    "no bytes": (lambda f: _written(f / "w.pth", b""), "w.pth is not a file of weights (0 bytes); give a .pth or .safeten"),
    "a text": (lambda f: _written(f / "w.pth", b"404: Not Found"), "w.pth is not a file of weights (14 bytes); give a .pth"),
    "cut off": (lambda f: _halved(f / "w.pth"), "w.pth is cut off ("),
    "a program as safetensors": (lambda f: _written(f / "w.safetensors", EVIL), "w.safetensors is not a safetensors file"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("classifier.weights", {}),
        ("fidelity.extractor.weights", {"fidelity/extractor": {"kind": "inception"}}),
    ],
)
@pytest.mark.parametrize("case", FILES)
def test_a_damaged_file_of_weights_is_refused(
    bench: Bench, tmp_path: Path, field: str, changes: dict[str, Any], case: str
) -> None:
    make, said = FILES[case]
    path = write(tmp_path, changed(changes | {field.replace(".", "/"): str(make(tmp_path))}))
    line = refused(bench, "run", path, "--store", tmp_path / "store", "--wandb", "off", folder=tmp_path)
    assert line.startswith(f"m.yaml: {field}: ")
    assert said in line


READ: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a program": (lambda f: _saved(f / "w.pth", Program(str(f / "made"))), ".mkdir, a program that is never run here"),
    "a bare program": (lambda f: _written(f / "w.pth", EVIL), "os.system, a program that is never run here"),
    "a list": (lambda f: _saved(f / "w.pth", [1]), "holds no state dict (name to tensor)"),
    "another network": (_foreign, "is of another network than ResNet: "),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("case", READ)
def test_a_file_of_other_weights_is_refused(bench: Bench, tmp_path: Path, case: str) -> None:
    make, said = READ[case]
    path = write(tmp_path, changed({"classifier/weights": str(make(tmp_path))}))
    line = refused(bench, "run", path, "--store", tmp_path / "store", "--wandb", "off", folder=tmp_path)
    assert line.startswith("m.yaml: classifier.weights: ")
    assert said in line
    assert not (tmp_path / "made").exists(), "a program in a file of weights was run"


def test_an_oracle_that_is_not_there_or_cut_off_is_refused(bench: Bench, tmp_path: Path) -> None:
    from bench.evaluation.shipped_oracle import ORACLE_WEIGHTS, SHIPPED_ORACLE

    path = write(tmp_path, changed({"fidelity/extractor": {"kind": "oracle", "folder": str(tmp_path)}}))
    run = ("run", path, "--store", tmp_path / "store", "--wandb", "off")
    assert f"no {tmp_path / ORACLE_WEIGHTS}; give a folder made by" in refused(bench, *run, folder=tmp_path)
    shutil.copy(SHIPPED_ORACLE / ORACLE_WEIGHTS, tmp_path)
    _cut(tmp_path / ORACLE_WEIGHTS)
    line = refused(bench, *run, folder=tmp_path)
    assert line.startswith("m.yaml: fidelity.extractor.folder: ")
    assert " is cut off: " in line


def test_inception_without_a_file_says_where_to_get_it(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    path = write(tmp_path, changed({"fidelity/extractor": {"kind": "inception"}}))
    line = refused(bench, "run", path, "--store", tmp_path / "store", folder=tmp_path)
    assert line.startswith(f"m.yaml: fidelity.extractor.weights: no Inception weights at {tmp_path}")
    assert "; download https://" in line


def test_a_sweep_over_a_damaged_model_is_refused(bench: Bench, tmp_path: Path, pipeline: Path) -> None:
    _cut(pipeline / UNET)
    write(tmp_path, changed({"methods": ["roentgen@1"], "diffusion/folder": str(pipeline)}))
    sweep = {
        "name": "s",
        "base": "m.yaml",
        "method": "roentgen@1",
        "search": {"classifier.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-3}},
        "objectives": [{"metric": "val_map_tail", "direction": "maximize"}],
        "sampler": {"name": "RandomSampler", "seed": 0},
        "n_trials": 1,
    }
    path = write(tmp_path, changed({}, sweep), "s.yaml")
    line = refused(bench, "sweep", path, "--store", tmp_path / "store", folder=tmp_path)
    assert line.startswith("s.yaml.base: diffusion.folder: ")
