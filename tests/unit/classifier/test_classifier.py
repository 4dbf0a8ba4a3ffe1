"""The classifier stage: what it writes, that it learns, resumes bit for bit and refuses bad requests in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from bench.classifier import networks
from bench.classifier import settings as classifier_settings
from bench.classifier.settings import ClassifierSettings
from bench.data.split import part_rows
from bench.errors import ConfigError, StageError
from bench.store.store import Store
from tests.unit.classifier.classifier_fixtures import cell, interrupt_at

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def weights_of(store: Store, stage: object) -> dict[str, torch.Tensor]:
    return load_file(store.get(stage).folder / "model.safetensors")


def save_network(path: Path, seed: int = 0) -> None:
    state = networks.build("resnet18", 2, seed=seed).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def test_learns_a_separable_toy_and_its_record_says_how(store: Store) -> None:
    stage = cell(per_class=4, steps=24, n_validations=2)
    trained = store.get(stage)
    record = trained.record
    assert record["val_map_all"] > 0.9
    assert record["n_synthetic"] == 8
    assert record["n_real"] == len(store.get(stage.split)["train"])
    assert record["steps"] == 24
    assert record["images_per_second"] > 0
    assert set(record["val_ap"]) == set(record["class_names"])
    assert [row["step"] for row in trained.history] == [12, 24]
    assert {"epoch", "train_loss", "val_loss", "val_map_head", "val_map_tail"} <= set(trained.history[0])


def test_predictions_are_probabilities_and_come_from_the_selected_weights(store: Store) -> None:
    stage = cell()
    trained = store.get(stage)
    images, labels, _ = part_rows(store, stage.split, "val")
    predicted = trained.predict(images)
    assert predicted.shape == labels.shape
    assert predicted.dtype == np.float32
    assert predicted.min() >= 0
    assert predicted.max() <= 1
    logits = trained.load()(networks.to_input(images[:], None, "cpu"))
    np.testing.assert_allclose(predicted, torch.sigmoid(logits).detach().numpy(), atol=1e-6)


def test_features_are_what_the_last_layer_sees_whatever_the_batch(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = store.get(cell())
    images = np.random.default_rng(0).integers(0, 256, (11, 32, 32), dtype=np.uint8)
    features = trained.features(images)
    head = trained.load().fc
    with torch.no_grad():
        logits = head(torch.from_numpy(features)).numpy()
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), trained.predict(images), atol=1e-6)
    monkeypatch.setattr(networks, "_batch_size", lambda images, image_px, device: 4)
    np.testing.assert_allclose(trained.features(images), features, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("stop", [4, 12])
def test_an_interrupted_training_ends_in_the_same_bits(
    stop: int, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = cell(per_class=3, steps=12, shift_px=2)
    again = Store(tmp_path)
    ckpt = interrupt_at(stop, monkeypatch, again, stage)
    newest = max(ckpt.glob("*.ckpt"))
    newest.write_bytes(
        newest.read_bytes()[:-100]
    )  # as a kill in the middle of a write leaves it: the one before it counts
    whole, resumed = weights_of(store, stage), weights_of(again, stage)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert store.get(stage).history == again.get(stage).history


def test_a_damaged_only_checkpoint_means_starting_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Store
) -> None:
    stage = cell(steps=12)
    again = Store(tmp_path)
    for file in interrupt_at(3, monkeypatch, again, stage).iterdir():
        file.write_bytes(b"not a checkpoint")
    whole, restarted = weights_of(store, stage), weights_of(again, stage)
    assert all(torch.equal(whole[name], restarted[name]) for name in whole)


@pytest.mark.parametrize("selection", ["best_val_map_all", "best_val_map_tail", "last"])
def test_the_selected_step_follows_the_rule(selection: str, store: Store) -> None:
    trained = store.get(cell(steps=9, n_validations=9, selection=selection))
    if selection == "last":
        assert trained.record["best_step"] == 9
    else:
        column = selection.removeprefix("best_")
        best = max(trained.history, key=lambda row: (row[column] is not None, row[column], -row["step"]))
        assert trained.record["best_step"] == best["step"]
        assert trained.record[column] == best[column]


def test_seed_and_every_setting_of_meaning_change_the_key() -> None:
    base = cell()
    changed = [
        cell(seed=1), cell(per_class=1), cell(steps=7), cell(epochs=1), cell(shift_px=1), cell(learning_rate=1e-4),
        cell(positive_weights=True), cell(synthetic_weight=0.5), cell(schedule="constant"), cell(weight_decay=0),
        cell(image_px=64), cell(n_validations=1), cell(selection="last"), cell(batch_size=4), cell(architecture="densenet121"),
        cell(precision="bfloat16_on_gpu"), cell(precision="tf32_on_gpu"),
    ]  # fmt: skip
    assert len({base.key, *(stage.key for stage in changed)}) == len(changed) + 1


def test_a_cpu_trains_alike_in_every_precision(store: Store) -> None:
    first, *others = (
        weights_of(store, cell(steps=2, precision=p)) for p in ("float32", "tf32_on_gpu", "bfloat16_on_gpu")
    )
    assert all(torch.equal(first[name], other[name]) for other in others for name in first)


def test_epochs_count_real_and_synthetic_images(store: Store) -> None:
    n_real = len(store.get(cell().split)["train"])
    trained = store.get(cell(per_class=10, epochs=1, n_validations=1))
    assert trained.record["steps"] == (n_real + 20) // 8


def test_a_weight_of_nothing_makes_synthetic_images_count_for_nothing_in_the_loss(store: Store) -> None:
    weighed = store.get(cell(per_class=4, synthetic_weight=0.0, n_validations=1)).history[0]["train_loss"]
    assert weighed < store.get(cell(per_class=4, n_validations=1)).history[0]["train_loss"]


def test_weights_from_a_file_start_the_trunk_and_not_the_head(tmp_path: Path) -> None:
    source = networks.build("densenet121", 1000, seed=5).state_dict()
    old_names = {  # as torchvision's own DenseNet files spell them
        name.replace(".norm1.", ".norm.1.").replace(".conv2.", ".conv.2."): value
        for name, value in source.items()
        if not name.endswith("num_batches_tracked")
    }
    torch.save(old_names, tmp_path / "w.pth")
    loaded, fresh = (networks.build("densenet121", 4, 0, w) for w in (str(tmp_path / "w.pth"), None))
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, (fresh.state_dict() if name.startswith("classifier") else source)[name])


def test_the_content_of_a_weights_file_is_in_the_key_and_its_place_is_not(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        save_network(tmp_path / f"{name}.safetensors", seed)
    a, b, c = (cell(weights=str(tmp_path / f"{name}.safetensors")).key for name in "abc")
    assert a == b != c


def test_bad_weights_files_are_refused_in_one_line(tmp_path: Path) -> None:
    missing, text, other = tmp_path / "none.pth", tmp_path / "text.pth", tmp_path / "other.safetensors"
    text.write_text("hello")
    save_network(other)
    with pytest.raises(ConfigError, match=r"none.pth cannot be read \(No such file"):
        _ = cell(weights=str(missing)).key
    for path, fault in ((text, "cannot be read as weights"), (other, "is of another network than DenseNet")):
        with pytest.raises(ConfigError, match=fault) as caught:
            networks.build("densenet121", 2, 0, str(path))
        assert "\n" not in str(caught.value)
        assert path.name in str(caught.value)


def test_a_diverged_training_names_the_step(tmp_path: Path) -> None:
    with pytest.raises(
        StageError, match=r"loss( on val)? is (nan|inf) at step \d+ of 6 .*lower classifier.learning_rate"
    ):
        Store(tmp_path).get(cell(learning_rate=1e30, schedule="constant"))


def test_one_length_is_asked_for() -> None:
    assert ClassifierSettings().epochs == 10
    assert ClassifierSettings(steps=3).epochs is None
    with pytest.raises(ValidationError, match="epochs or steps, not both"):
        ClassifierSettings(epochs=1, steps=3)
    for settings in (ClassifierSettings(steps=3), ClassifierSettings()):
        assert ClassifierSettings.model_validate(json.loads(settings.model_dump_json())) == settings


def test_native_images_below_the_smallest_side_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classifier_settings, "SMALLEST_PX", 48)
    with pytest.raises(ConfigError, match=r"images are 32 px.*set classifier.image_px=48"):
        Store(tmp_path).get(cell())
