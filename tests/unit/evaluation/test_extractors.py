"""Extractors whose weights are files: what is loaded of them, and whose baseline measures a matrix."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import yaml

from bench.errors import ConfigError
from bench.evaluation import extractors
from bench.evaluation.extractors import InceptionExtractor, XrvExtractor, extract_all
from bench.evaluation.fidelity import Fidelity
from bench.matrix.build import build_matrix
from bench.matrix.load import load_matrix
from bench.results.cells import read_cell
from bench.results.record import write_record
from bench.run.inline import Inline
from bench.run.progress import Silent
from bench.run.run_matrix import run_stages
from bench.store.store import Store
from bench.store.work import Execution, Work
from tests.tiny_cells import methods, tiny  # noqa: F401 - a fixture

torch.set_num_threads(1)


def work(tmp_path: Path) -> Work:
    return Work(Store(tmp_path), None, tmp_path / "out", tmp_path / "ckpt", Execution(device="cpu"))  # type: ignore[arg-type]


# --- torchxrayvision


class Theirs(torch.nn.Module):
    """The network as torchxrayvision composes it: one channel in, relu and mean after `features`, 18 findings."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torchvision.models.densenet121(weights=None).features
        self.features.conv0 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.classifier = torch.nn.Linear(1024, 18)
        self.register_buffer("op_threshs", torch.rand(18))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.features(x)).mean(dim=(2, 3))


@pytest.fixture(scope="module")
def theirs() -> Theirs:
    torch.manual_seed(0)
    network = Theirs().eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # else a network of random weights forgets what it saw
            module.running_mean.normal_()
    return network


def images(px: int, n: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, px, px), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_xrv_features_are_those_of_their_network(theirs: Theirs, tmp_path: Path, suffix: str) -> None:
    from safetensors.torch import save_file

    path = tmp_path / f"xrv.{suffix}"
    (torch.save if suffix == "pth" else save_file)(theirs.state_dict(), str(path))
    found = extract_all(XrvExtractor(weights=str(path)).load(work(tmp_path)), images(224), batch_size=2)
    assert found.positives is None
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images(224) / 255 * 2048 - 1024).float()[:, None]).numpy()
    assert expected.std() > 0
    np.testing.assert_allclose(found.features, expected, rtol=1e-3, atol=1e-3 * expected.max())


def test_xrv_takes_any_side_and_names_its_resize_and_weights(theirs: Theirs, tmp_path: Path) -> None:
    path = tmp_path / "xrv.pth"
    torch.save(theirs.state_dict(), path)
    extractor = XrvExtractor(weights=str(path))
    assert extractor.load(work(tmp_path))(images(64)).features.shape == (3, 1024)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert extractor.metric_id == f"xrv-densenet121-1024d-antialias224-{digest[:8]}"


def test_xrv_files_that_are_no_state_dict_of_it_are_refused(theirs: Theirs, tmp_path: Path) -> None:
    how = r"torch\.save\(torchxrayvision\.models\.DenseNet\(weights=.*\)\.state_dict\(\)"
    with pytest.raises(ConfigError, match=rf"^fidelity\.extractor\.weights: no file .*; make it with {how}"):
        XrvExtractor(weights=str(tmp_path / "none.pth")).content()
    whole = tmp_path / "whole.pt"
    whole.write_bytes(b"\x80\x02ctorchxrayvision.models\nDenseNet\n")
    with pytest.raises(ConfigError, match=rf"whole\.pt is a pickled program, which is never run; make .*{how}"):
        XrvExtractor(weights=str(whole)).content()
    other = tmp_path / "other.pth"
    torch.save(torchvision.models.densenet121(weights=None).state_dict(), other)
    with pytest.raises(ConfigError, match=r"^fidelity\.extractor\.weights: .*other\.pth is of another network"):
        XrvExtractor(weights=str(other)).load(work(tmp_path))


# --- Inception's own download


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Put something where the weights are downloaded from, and an empty folder where they are kept."""
    content = b"\x80weights"
    (tmp_path / "served.pth").write_bytes(content)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(extractors, "_INCEPTION_URL", (tmp_path / "served.pth").as_uri())
    monkeypatch.setattr(extractors, "_INCEPTION_SHA256", hashlib.sha256(content).hexdigest()[:8])
    return content


def test_inception_fetches_its_weights_where_it_is_told_to(served: bytes, tmp_path: Path) -> None:
    digest = InceptionExtractor(download=True).content()["weights"]
    assert hashlib.sha256(served).hexdigest().startswith(digest)
    assert InceptionExtractor().content()["weights"] == digest  # it lies in the cache from then on
    with pytest.raises(ConfigError, match="no Inception weights at"):
        InceptionExtractor(download=True, weights=str(tmp_path / "mine.pth")).content()


def test_a_download_that_fails_or_is_something_else_leaves_nothing(
    served: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(extractors, "_INCEPTION_SHA256", "00000000")
    with pytest.raises(
        ConfigError, match=r"could not be fetched: invalid hash value.*\); download .* and set"
    ) as caught:
        InceptionExtractor(download=True).content()
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(extractors, "_INCEPTION_URL", (tmp_path / "none.pth").as_uri())
    with pytest.raises(ConfigError, match=r"could not be fetched: .*No such file"):
        InceptionExtractor(download=True).content()
    assert not [p for p in (tmp_path / "home").rglob("*") if p.is_file()]


# --- whose baseline


def classifier_matrix(**changes: Any) -> Any:
    raw = {"fidelity": {"extractor": {"kind": "classifier"}}, "methods": ["baseline", "copies@1"], "seeds": [3, 1]}
    return build_matrix(tiny(**(raw | changes)), "m.yaml")


def measured(cell: Any) -> Fidelity:
    return cell.fidelity


@pytest.mark.usefixtures("methods")
def test_one_baseline_measures_the_cells_of_all_seeds() -> None:
    made = classifier_matrix()
    first = next(c for c in made.cells if c.seed == 3 and c.label == "baseline")
    assert {measured(c).settings.extractor.classifier.key for c in made.cells} == {first.classifier.key}
    assert len({measured(c).settings.extractor.metric_id for c in made.cells}) == 1
    assert len({measured(c).real_features.key for c in made.cells}) == 1
    assert "-seed3-" in first.fidelity.settings.extractor.metric_id
    chosen = classifier_matrix(fidelity={"extractor": {"kind": "classifier", "seed": 1}})
    other = next(c for c in made.cells if c.seed == 1 and c.label == "baseline")
    assert {measured(c).settings.extractor.classifier.key for c in chosen.cells} == {other.classifier.key}


@pytest.mark.usefixtures("methods")
def test_more_seeds_leave_the_measure_as_it_was() -> None:
    one, more = classifier_matrix(seeds=[3]), classifier_matrix(seeds=[3, 4, 0])
    assert {c.key for c in one.cells} <= {c.key for c in more.cells}


@pytest.mark.usefixtures("methods")
def test_the_record_of_a_cell_of_another_seed_builds_it_again(tmp_path: Path) -> None:
    made, store = classifier_matrix(), Store(tmp_path / "store")
    run_stages(
        [s for cell in made.cells for s in cell.targets],
        store,
        executor=Inline(),
        execution=Execution(device="cpu"),
        reporter=Silent(),
    )
    for cell in made.cells:
        result = read_cell(cell, store)
        assert result.state == "done"
        folder = write_record(store, made, cell, result, git=None)
        again = load_matrix(str(folder / "resolved.yaml"))
        assert yaml.safe_load((folder / "resolved.yaml").read_text())["fidelity"]["extractor"]["seed"] == 3
        assert (again.cells[-1].name, again.cells[-1].key) == (cell.name, cell.key)
