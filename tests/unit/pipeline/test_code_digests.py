"""What keys hold of code and of the files beside it: whoever forgets to invalidate a result is told here."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from pathlib import Path

import pytest

from bench.diffusion.model import SHIPPED as DIFFUSION
from bench.diffusion.model import DiffusionModel
from bench.evaluation.extractors import OracleExtractor
from bench.matrix.load import SHIPPED, load_matrix
from bench.pipeline.code import code_digests, is_left_out
from bench.pipeline.missing_inputs import plan_without_inputs
from bench.pipeline.stage import Stage, walk
from bench.plugins import registry
from bench.pretrain.request import pretraining


def shipped() -> list[type]:
    """Return every class that the keys of shipped stages speak of: stages, methods, data sets."""
    with plan_without_inputs():  # some need data
        matrices = [load_matrix(p.stem) for p in sorted(SHIPPED.glob("*.yaml"))]
        stages = walk([s for m in matrices for c in m.cells for s in c.targets])
    stages += [pretraining("diffusion", None, ()), pretraining("oracle", None, ())]
    return [*{type(s) for s in stages}, *registry.methods().values(), *registry.datasets().values()]


@pytest.fixture(scope="module")
def modules() -> set[str]:
    """Return the modules that enter the keys of shipped stages."""
    return {name for cls in shipped() for name in code_digests(cls)}


def test_the_code_of_methods_data_sets_and_helpers_is_in_their_keys(modules: set[str]) -> None:
    cells = {c.method.name: c for c in load_matrix("demo").cells}
    ours = cells["ours"].augmented.identity["code"]
    assert {
        "methods.fusion.method",
        "methods.fusion.objectives",
        "bench.augment.batch_checks",
        "bench.seeds",
    } <= ours.keys()
    assert not {name for name in cells["smote"].augmented.identity["code"] if name.startswith("methods.fusion")}
    assert "bench.data.kinds.phantom.chest" in cells["smote"].dataset.identity["code"]
    assert "bench.data.kinds.phantom.chest" not in cells["smote"].scores.identity["code"]  # it is in the input's key
    assert "bench.metrics.average_precision" in cells["smote"].scores.identity["code"]
    assert {
        "bench.classifier.classifier",
        "bench.classifier.training",
        "bench.classifier.networks",
        "bench.evaluation.fidelity",
        "bench.augment.label_policies",
    } <= modules
    assert not any(is_left_out(name) for name in modules)


def test_what_says_that_it_affects_no_result_is_left_out(modules: set[str]) -> None:
    """Locks, manifests, checks and messages may be mended without throwing away a week of trainings."""
    out = {
        "bench.store.store",
        "bench.store.claims",
        "bench.errors",
        "bench.files",
        "bench.checks",
        "bench.config.yaml_file",
    }
    assert all(is_left_out(name) for name in out)
    assert not modules & out
    assert not is_left_out("bench.seeds")
    assert not is_left_out("bench.data.split")


def test_a_face_is_looked_through(modules: set[str]) -> None:
    """A method's key holds the modules that its names come from, not all that `bench.contract` hands on."""
    cells = {c.method.name: c for c in load_matrix("demo").cells}
    baseline = code_digests(type(cells["baseline"].method))
    assert {"methods.baseline", "bench.augment.method", "bench.tables"} <= baseline.keys()
    assert not {"bench.contract", "bench.pipeline.checkpoints", "bench.augment.kept_batches"} & baseline.keys()
    assert "bench.pipeline.checkpoints" in cells["ours"].augmented.identity["code"]  # its networks are trained
    assert "bench.contract" not in modules


def test_no_stage_reaches_code_that_cannot_be_followed(modules: set[str]) -> None:
    """A module that is named only while it runs would be missing in keys, as would code that is made from text."""
    hidden = {"import_module", "__import__", "exec", "eval", "run_module", "run_path", "exec_module", "load_module"}
    for name in modules:
        for node in ast.walk(ast.parse(source(name))):
            if isinstance(node, ast.Call):
                called = getattr(node.func, "id", getattr(node.func, "attr", None))
                literal = isinstance(node.func, ast.Attribute) and called in ("eval", "exec")  # a network's .eval()
                assert literal or called not in hidden, f"{name}:{node.lineno} calls {called}"


def test_files_beside_the_code_that_stages_read_enter_by_content(modules: set[str]) -> None:
    """Who lets a stage read another file of the package gives it a `content` that holds the file's digest."""
    known = {
        "bench.diffusion.model": DiffusionModel,  # weights of the diffusion model
        "bench.evaluation.shipped_oracle": OracleExtractor,  # weights of the oracle
    }
    reading = {name for name in modules if any(text in source(name) for text in ("__file__", "importlib.resources"))}
    assert reading == known.keys()
    for cls in known.values():
        content = cls().content()  # type: ignore[attr-defined]
        assert all(len(digest) >= 16 for digest in content.values())


def test_a_byte_of_a_models_files_changes_the_keys_of_what_uses_them(tmp_path: Path) -> None:
    def key(folder: Path) -> str:
        class Uses(Stage):
            model: DiffusionModel

        return Uses(model=DiffusionModel(folder=str(folder))).key

    folders = [tmp_path / name for name in ("one", "same", "weights", "words", "settings")]
    for folder in folders:
        shutil.copytree(DIFFUSION, folder)
    weights = next((tmp_path / "weights").rglob("*.safetensors"))
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for name, pattern in (("words", "tokenizer/*.json"), ("settings", "scheduler/*.json")):
        path = next((tmp_path / name).glob(pattern))
        path.write_text(path.read_text(encoding="utf-8") + " ", encoding="utf-8")
    keys = [key(folder) for folder in folders]
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


def source(module: str) -> str:
    spec = importlib.util.find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).read_text(encoding="utf-8")
