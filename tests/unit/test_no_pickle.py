"""Nothing that came from outside, or lay in a store, is ever unpickled: that would run its code."""

from __future__ import annotations

import ast
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.diffusion.model import SHIPPED, DiffusionModel
from bench.errors import ConfigError
from bench.pipeline import checkpoints
from bench.pipeline.checkpoints import Checkpoints

ROOT = Path(__file__).parents[2]
FILES = sorted(p for part in ("bench", "methods", "reports", "sweeps") for p in (ROOT / part).rglob("*.py"))
UNPICKLERS = {
    "pickle.load", "pickle.loads", "pickle.Unpickler", "cloudpickle.load", "cloudpickle.loads", "dill.load",
    "joblib.load", "joblib.Memory", "pd.read_pickle", "pandas.read_pickle", "shelve.open", "marshal.loads",
    "yaml.unsafe_load", "yaml.full_load", "torch.hub.load", "eval", "exec",
}  # fmt: skip
MUST_SAY = {"torch.load": ("weights_only", True)}
MUST_NOT_SAY = {"np.load": "allow_pickle", "numpy.load": "allow_pickle"}  # False where it is not said


def calls(tree: ast.AST) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node, ast.unparse(node.func)


def unsafe(source: str) -> list[str]:
    found, tree = [], ast.parse(source)
    for call, name in calls(tree):
        said = {k.arg: ast.unparse(k.value) for k in call.keywords}
        if name in UNPICKLERS:
            found.append(f"{call.lineno}: {name}")
        if name in MUST_SAY:
            argument, value = MUST_SAY[name]
            if said.get(argument) != str(value):
                found.append(f"{call.lineno}: {name} without {argument}={value}")
        if name in MUST_NOT_SAY and said.get(MUST_NOT_SAY[name], "False") != "False":
            found.append(f"{call.lineno}: {name} with {MUST_NOT_SAY[name]}")
        if name == "yaml.load" and not _is_safe_loader(tree, call):
            found.append(f"{call.lineno}: {name} without a SafeLoader")
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("Unpickler" in ast.unparse(base) for base in node.bases):
            found.append(f"{node.lineno}: class {node.name}")
    return found


def _is_safe_loader(tree: ast.AST, call: ast.Call) -> bool:
    """Tell whether YAML is read by SafeLoader or by a class of the same file that is one."""
    given = [ast.unparse(a) for a in call.args[1:]] + [ast.unparse(k.value) for k in call.keywords]
    ours = {
        node.name for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef) and [ast.unparse(b) for b in node.bases] == ["yaml.SafeLoader"]
    }  # fmt: skip
    return any(g in ours | {"yaml.SafeLoader"} for g in given)


def test_nothing_unpickles() -> None:
    assert len(FILES) > 80
    found = {p.relative_to(ROOT).as_posix(): unsafe(p.read_text(encoding="utf-8")) for p in FILES}
    # That one knows three names of numpy, for which it has records of its own: tests/unit/data/test_cifar_lt.py.
    (told,) = found.pop("bench/data/cifar_file.py")
    assert told.endswith("class _Unpickler")
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize(
    "line",
    [
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p, allow_pickle=True)",
        "np.load(p, allow_pickle=x)",
        "pickle.load(f)",
        "joblib.load(p)",
        "yaml.load(t)",
        "yaml.load(t, yaml.Loader)",
        "class Mine(pickle.Unpickler): pass",
    ],
)
def test_the_check_sees_what_it_looks_for(line: str) -> None:
    assert len(unsafe(line)) == 1


def test_the_check_lets_through_what_is_safe() -> None:
    safe = "torch.load(p, weights_only=True); np.load(p); np.load(p, allow_pickle=False); yaml.safe_load(t); yaml.load(t, yaml.SafeLoader)"
    assert unsafe(safe) == []


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize(
    ("part", "weights"),
    [("unet", "diffusion_pytorch_model"), ("vae", "diffusion_pytorch_model"), ("text_encoder", "pytorch_model")],
)
def test_weights_of_a_diffusion_folder_are_not_unpickled(tmp_path: Path, part: str, weights: str) -> None:
    folder, mark = tmp_path / "model", tmp_path / "ran"
    shutil.copytree(SHIPPED, folder)
    next((folder / part).glob("*.safetensors")).unlink()
    torch.save({"a": Evil(mark)}, folder / part / f"{weights}.bin")
    with pytest.raises(ConfigError, match="cannot be loaded"):
        DiffusionModel(folder=str(folder)).load()
    assert not mark.exists()


def test_checkpoints_are_not_unpickled(tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    checkpoints.save(tmp_path, 1, {"a": Evil(mark)})
    with pytest.raises(pickle.UnpicklingError):
        checkpoints.load_newest(tmp_path)
    with pytest.raises(pickle.UnpicklingError):
        Checkpoints(tmp_path, "").newest()
    torch.save({"a": Evil(mark)}, tmp_path / "trap.pt")
    assert not mark.exists()
    torch.load(tmp_path / "trap.pt", weights_only=False)
    assert mark.exists(), "the trap works"
