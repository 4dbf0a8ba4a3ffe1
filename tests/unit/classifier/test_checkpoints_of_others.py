"""DenseNet checkpoints as other people save them: loaded whole, or refused by name before anything is computed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from bench.classifier import networks
from bench.classifier.networks import check_trunk
from bench.errors import ConfigError
from bench.matrix.inputs import check_before_computing, plan
from bench.matrix.load import load_matrix

FIELD = "classifier.weights"
State = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return torchvision.models.densenet121(weights=None, num_classes=14)


def old(name: str) -> str:
    return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)\.", r"\1.\2.", name)


def chexnet(state: State) -> State:
    """Return the names of CheXNet's re-implementations: a network in a module in DataParallel, and a head of two parts."""
    head = {"classifier.weight": "classifier.0.weight", "classifier.bias": "classifier.0.bias"}
    return {f"module.densenet121.{old(head.get(name, name))}": value for name, value in state.items()}


SAVED: dict[str, Callable[[State], Any]] = {
    "plain": lambda s: s,
    "wrapped": lambda s: {"state_dict": s},
    "wrapped, under another word": lambda s: {"model_state_dict": s, "optimizer_state_dict": {"state": {}, "param_groups": []}},
    "wrapped in a word of one's own": lambda s: {"best": s, "epoch": 3},
    "DataParallel": lambda s: {f"module.{n}": v for n, v in s.items()},
    "DataParallel inside": lambda s: {n.replace("features.", "features.module."): v for n, v in s.items()},
    "compiled": lambda s: {f"_orig_mod.{n}": v for n, v in s.items()},
    "CheXNet": lambda s: {"epoch": 9, "state_dict": chexnet(s), "best_loss": np.float64(0.1), "optimizer": {}},
    "Lightning": lambda s: {
        "state_dict": {**{f"model.backbone.{n}": v for n, v in s.items()}, "loss.weight": torch.ones(14)},
        "pytorch-lightning_version": "2.0", "callbacks": {}, "optimizer_states": [{"state": {0: {"step": torch.ones(1)}}}],
    },
    "an average beside it": lambda s: {"state_dict": s, "state_dict_ema": {n: v * 0 for n, v in s.items()}},
}  # fmt: skip


@pytest.mark.parametrize("case", SAVED)
def test_the_trunk_is_the_one_that_was_saved(case: str, network: torch.nn.Module, tmp_path: Path) -> None:
    path, state = tmp_path / "model.pth.tar", network.state_dict()
    torch.save(SAVED[case](state), path)
    loaded = networks.build("densenet121", 3, 0, str(path)).state_dict()
    fresh = networks.build("densenet121", 3, 0).state_dict()
    assert len(loaded) == len(state)
    for name, value in loaded.items():
        torch.testing.assert_close(value, (fresh if name.startswith("classifier") else state)[name])
    said = check_trunk("densenet121", path, FIELD)
    assert said.startswith(f"{len(state) - 2} tensors taken; left out: the last layer (14 outputs)")
    assert ("1 tensors of other parts (loss.weight)" in said) == (case == "Lightning")


def test_a_file_that_holds_no_head_has_none_left_out(network: torch.nn.Module, tmp_path: Path) -> None:
    trunk = {n: v for n, v in network.state_dict().items() if not n.startswith("classifier.")}
    torch.save(trunk, tmp_path / "trunk.pth")
    assert check_trunk("densenet121", tmp_path / "trunk.pth", FIELD) == f"{len(trunk)} tensors taken"


def changed(state: State, name: str, value: torch.Tensor | None) -> State:
    return {
        n: v for n, v in (state | ({} if value is None else {name: value})).items() if value is not None or n != name
    }


REFUSED: dict[str, tuple[Callable[[torch.nn.Module], Any], str]] = {
    "a whole module": (lambda n: n, r"a pickled torchvision\.models\.densenet\.DenseNet, a program.*x\.state_dict\(\)"),
    "arguments of a program": (
        lambda n: {"state_dict": n.state_dict(), "args": argparse.Namespace(lr=1)}, r"a pickled argparse\.Namespace"
    ),
    "no weights": (lambda n: {"epoch": 3, "history": [1, 2]}, "holds no state dict"),
    "two networks": (
        lambda n: {f"{who}.{k}": v for who in ("student", "teacher") for k, v in n.state_dict().items()},
        r"holds several such networks \(student\., teacher\.\)",
    ),
    "two networks under words of one's own": (
        lambda n: {"left": n.state_dict(), "right": n.state_dict()}, r"holds several state dicts \(left, right\)"
    ),
    "a tensor is missing": (
        lambda n: changed(n.state_dict(), "features.norm5.weight", None), r"of another network than DenseNet: features\.norm5"
    ),
    "a tensor of another shape": (
        lambda n: changed(n.state_dict(), "features.conv0.weight", torch.ones(64, 1, 7, 7)), r"than DenseNet: features\.conv0"
    ),
    "another architecture": (
        lambda n: torchvision.models.resnet18(weights=None).state_dict(), "is of another network than DenseNet: bn1"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_loaded_is_refused_by_name(case: str, network: torch.nn.Module, tmp_path: Path) -> None:
    what, said = REFUSED[case]
    torch.save(what(network), tmp_path / "model.pth")
    with pytest.raises(ConfigError, match=f"^classifier.weights: .*model.pth .*{said}") as caught:
        check_trunk("densenet121", tmp_path / "model.pth", FIELD)
    assert "\n" not in str(caught.value)


def test_a_matrix_says_once_what_it_takes_and_is_refused_before_it_computes(
    network: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": chexnet(network.state_dict())}, "chexnet.pth")
    torch.save(network, "module.pth")
    sets = ["classifier.architecture=densenet121", "methods=[baseline, duplicate]", "seeds=[0, 1]"]
    (note,) = check_before_computing(load_matrix("toy", [*sets, "classifier.weights=chexnet.pth"]), "toy.yaml")
    assert note.startswith(
        f"classifier.weights in densenet121: {Path.cwd() / 'chexnet.pth'}: 725 tensors taken; left out: the last layer"
    )
    with pytest.raises(ConfigError, match=r"^toy.yaml: classifier.weights: .*/module.pth holds a pickled"):
        check_before_computing(load_matrix("toy", [*sets, "classifier.weights=module.pth"]), "toy.yaml")
    (missing,) = plan("toy", [*sets, "classifier.weights=module.pth"]).missing
    assert "holds a pickled" in missing.said
