"""`bench pretrain`: what it refuses, and that a pipeline trained on a train split is one that the harness loads."""

from pathlib import Path

import pytest

from bench.diffusion.model import DiffusionModel
from bench.errors import ConfigError, DataError
from bench.pretrain.request import pretraining
from bench.pretrain.stages import PretrainedOracle, copy_out
from bench.store.store import Store
from bench.store.work import Execution

FEW_STEPS = ("vae.steps=2", "unet.steps=2", "grid_steps=1")


@pytest.mark.parametrize(
    ("what", "matrix", "sets", "message"),
    [
        ("difusion", None, [], "did you mean 'diffusion'"),
        ("diffusion", None, ["unet.stps=3"], "did you mean 'steps'"),
        ("diffusion", None, ["unet.steps=0"], "want 1 or more"),
        ("diffusion", "tyo", [], "did you mean 'toy'"),
        ("oracle", "toy", [], "takes no matrix"),
        ("oracle", None, ["epochs=many"], "whole number"),
    ],
)
def test_requests_that_mean_nothing_are_one_line(what: str, matrix: str | None, sets: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        pretraining(what, matrix, sets)
    assert "\n" not in str(caught.value)


def test_settings_and_data_are_in_the_key() -> None:
    keys = {
        pretraining("diffusion", None, []).key,
        pretraining("diffusion", None, ["unet.steps=7"]).key,
        pretraining("diffusion", "toy", []).key,
        pretraining("oracle", None, []).key,
        PretrainedOracle().key,
    }
    assert len(keys) == 4


def test_a_model_trained_on_a_train_split_is_loaded_as_any_other(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    stage = pretraining("diffusion", "toy", FEW_STEPS)
    told: list[str] = []
    execution = Execution(device="cpu", on_progress=lambda stage, done, total, note: told.append(note))
    assert store.compute(stage, execution)
    assert not store.compute(stage, execution)  # the second time it is there
    assert {"vae", "unet"} <= set(told)
    copy_out(store.folder(stage), tmp_path / "model")
    loaded = DiffusionModel(folder=str(tmp_path / "model"))
    assert loaded.content() == DiffusionModel(folder=str(store.folder(stage))).content()
    assert loaded.load("cpu").latent_shape(32) == (4, 8, 8)
    with pytest.raises(DataError, match="not an empty folder"):
        copy_out(store.folder(stage), tmp_path / "model")
