"""Where the classifier starts from: random weights or a file of ImageNet's, and that the table says which."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from bench.classifier import networks
from bench.matrix.build import build_matrix
from reports.footnotes import footnotes
from tests.tiny_cells import Copies, methods, tiny  # noqa: F401 - a fixture


def imagenet(old_names: bool) -> dict[str, torch.Tensor]:
    """Return a state dict of a thousand classes, spelt as torchvision's files are (or were when modules held dots)."""
    torch.manual_seed(5)
    state = torchvision.models.densenet121(weights=None).state_dict()
    if not old_names:
        return state
    spelt = {n: n for n in state if not n.endswith("num_batches_tracked")}
    for part in ("norm", "conv"):
        for i in "12":
            spelt = {
                n: s.replace(f".{part}{i}.", f".{part}.{i}.") if ".denselayer" in n else s for n, s in spelt.items()
            }
    return {s: state[n] for n, s in spelt.items()}


@pytest.mark.parametrize("old_names", [True, False])
@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_every_layout_starts_the_same_trunk(tmp_path: Path, suffix: str, old_names: bool) -> None:
    path = tmp_path / f"w.{suffix}"
    state = imagenet(old_names)
    assert any(".norm.1." in name for name in state) == old_names
    (torch.save if suffix == "pth" else save_file)(state, str(path))
    network, expected = networks.build("densenet121", 4, 0, str(path)), imagenet(old_names=False)
    fresh = networks.build("densenet121", 4, 0).state_dict()
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, (fresh if name.startswith("classifier") else expected)[name])


@pytest.mark.usefixtures("methods")
def test_the_table_says_where_the_classifier_starts_and_who_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def notes(**changes: Any) -> str:
        return "\n".join(footnotes(build_matrix(tiny(**changes), "m.yaml"), [], None))

    assert "Classifier: resnet18, from random weights." in notes()
    path = tmp_path / "imagenet.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    said = notes(classifier={"architecture": "resnet18", "steps": 1, "weights": str(path)})
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
    assert f"Classifier: resnet18, its trunk from imagenet.pth (sha256 {digest}…)." in said
    assert str(tmp_path) not in said
    monkeypatch.setattr(Copies, "uses_diffusion", True)
    assert "asked for 'X {findings}'" in notes(diffusion={"prompt": {"template": "X {findings}"}})
