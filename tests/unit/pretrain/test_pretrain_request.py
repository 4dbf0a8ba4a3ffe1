"""`bench pretrain`: what it refuses, and that a pipeline trained on a train split is one that the harness loads."""

from pathlib import Path

import pytest

from bench.diffusion.model import DiffusionModel
from bench.errors import ConfigError, DataError
from bench.matrix.inputs import check_before_computing
from bench.matrix.load import SHIPPED, load_matrix
from bench.pretrain.request import pretraining
from bench.pretrain.stages import PretrainedDiffusion, PretrainedOracle, copy_out
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


def test_the_model_that_is_yet_to_be_trained_need_not_be_there(tmp_path: Path) -> None:
    """The README's own route: the matrix names the folder that the training will fill, or a placeholder."""
    toy = (SHIPPED / "toy.yaml").read_text(encoding="utf-8")
    (tmp_path / "mine.yaml").write_text(f"{toy}\ndiffusion: {{folder: path/to/a/StableDiffusionPipeline}}\n")
    stage = pretraining("diffusion", str(tmp_path / "mine.yaml"), FEW_STEPS)
    assert stage.key == pretraining("diffusion", "toy", FEW_STEPS).key


def test_what_the_training_needs_of_the_matrix_can_be_set() -> None:
    stage = pretraining("diffusion", "toy", ["datasets.0.n_images=96", "split.seed=3", "unet.steps=7"])
    assert isinstance(stage, PretrainedDiffusion)
    assert stage.train is not None
    assert (stage.train.split.dataset.size(), stage.train.split.settings.seed, stage.settings.unet.steps) == (96, 3, 7)


@pytest.mark.parametrize("name", ["nope.yaml", "folder", "phantom"])
def test_a_kind_of_data_set_is_neither_taken_nor_offered(name: str) -> None:
    """Its settings would be taken for those of the training, and no `bench run` could use the model afterwards."""
    with pytest.raises(ConfigError, match=rf"^matrix '{name}': no such file and no shipped matrix") as caught:
        pretraining("diffusion", name, [])
    assert "kind of data set" not in str(caught.value)


def test_of_several_data_sets_one_is_named() -> None:
    two = "datasets=[phantom, {kind: phantom, name: small, n_images: 96}]"
    with pytest.raises(ConfigError, match="give --dataset phantom or small"):
        pretraining("diffusion", "toy", [two])
    stage = pretraining("diffusion", "toy", [two], dataset="small")
    assert isinstance(stage, PretrainedDiffusion)
    assert stage.train is not None
    assert stage.train.split.dataset.size() == 96


def test_a_split_that_cannot_be_made_is_refused_before_the_images_are_read(tmp_path: Path) -> None:
    rows = "\n".join(f"{i}.png,p{i},{i % 2},{int(i == 0)}" for i in range(20))
    (tmp_path / "labels.csv").write_text(f"path,patient,Edema,Hernia\n{rows}\n")
    sets = [f"datasets=[{{kind: folder, csv: '{tmp_path}/labels.csv', patient_column: patient}}]"]
    with pytest.raises(DataError, match="Hernia"):
        pretraining("diffusion", "toy", sets)


def test_a_budget_of_time_is_in_the_key_and_not_given_with_steps() -> None:
    keys = {pretraining("diffusion", "toy", [], minutes=m).key for m in (None, 1.0, 2.0)}
    assert len(keys) == 3
    for part in ("vae", "unet"):
        with pytest.raises(ConfigError, match=rf"--minutes decides {part}\.steps; give one of the two"):
            pretraining("diffusion", "toy", [f"{part}.steps=7"], minutes=1.0)
    with pytest.raises(ConfigError, match="takes no --minutes"):
        pretraining("oracle", None, [], minutes=1.0)


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
    assert {"the autoencoder (1 of 2)", "the denoiser (2 of 2)"} <= set(told)
    copy_out(store.folder(stage), tmp_path / "model")
    loaded = DiffusionModel(folder=str(tmp_path / "model"))
    assert loaded.content() == DiffusionModel(folder=str(store.folder(stage))).content()
    assert loaded.load("cpu").latent_shape(32) == (4, 8, 8)
    with pytest.raises(DataError, match="not an empty folder"):
        copy_out(store.folder(stage), tmp_path / "model")
    # Its train images are those of the matrix; of another division of the same images, some are test images.
    for changes, told_of in (([], ""), (["split.seed=7"], "split.seed 0, here 7"), (["datasets.0.seed=5"], "")):
        matrix = load_matrix("toy", [f"diffusion.folder={tmp_path / 'model'}", *changes])
        notes = [note for note in check_before_computing(matrix, "toy") if "another train split" in note]
        assert [told_of in note for note in notes] == [True] * bool(told_of)
