"""Every data set that the harness discovers keeps the contract."""

import numpy as np
import pytest
from PIL import Image

from bench.plugins import registry
from bench.testing.datasets import DATASET_CHECKS
from bench.testing.toy import ToyDataset
from tests.cifar_files import cifar_files
from tests.cxr_lt_trees import mimic_tree, nih_tree
from tests.medmnist_files import medmnist_file

SMALL = {
    "phantom": {"n_images": 200, "image_px": 32, "prevalence_floor": 0.05},
    "folder": {"image_px": 16, "patient_column": "who"},
    "mimic-cxr-lt": {"limit": 25, "keep_tail": 0.5},
    "nih-cxr-lt": {"n_tail": 5},
    "medmnist": {"image_px": 28, "n_tail": 5, "limit": 150},
    "cifar_lt": {"imbalance_factor": 4, "n_tail": 3},
}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("stages")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder, draw = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lines = ["path,who,common,rare"]
    for i in range(20):
        Image.fromarray(draw.integers(0, 256, (20, 24), dtype=np.uint8)).save(folder / f"{i}.png")
        lines.append(f"{i}.png,p{i // 2},{i % 2},{int(i % 5 == 0)}")
    (folder / "labels.csv").write_text("\n".join(lines), encoding="utf-8")
    return folder / "labels.csv"


@pytest.fixture(scope="module")
def trees(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trees")
    return {
        "mimic-cxr-lt": mimic_tree(folder / "mimic", n_patients=30).settings(),
        "nih-cxr-lt": nih_tree(folder / "nih", n_patients=30).settings(),
        "medmnist": {"root": str(medmnist_file(folder / "medmnist", image_px=28).parent)},
        "cifar_lt": {"root": str(cifar_files(folder / "cifar").parent)},
    }


@pytest.mark.parametrize("check", DATASET_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("kind", [*sorted(registry.datasets()), "toy"])
def test_dataset(kind, check, root, pictures, trees):
    if kind == "toy":
        dataset = ToyDataset()
    else:
        assert kind in SMALL, f"say here which settings make a small '{kind}'"
        own = {"csv": str(pictures)} if kind == "folder" else trees.get(kind, {})
        dataset = registry.parse_dataset({"kind": kind, **SMALL[kind], **own})
    check(dataset, root)
