"""Folders as they come: old names, float16 files, pickles; what is read of them, and parts that do not fit."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from bench.diffusion.folder import check_pipeline, files_read
from bench.diffusion.model import DiffusionModel
from bench.diffusion.pipeline import Diffusion
from bench.errors import ConfigError
from tests.unit.diffusion.diffusion_folders import build_folder, edit

torch.set_num_threads(1)
UNET = "diffusion_pytorch_model"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_folder(tmp_path_factory.mktemp("plain") / "sd15", "sd15")


@pytest.fixture
def folder(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "sd15")


def loaded(folder: Path) -> Diffusion:
    check_pipeline(folder)
    return DiffusionModel(folder=str(folder)).load()


def digest(folder: Path) -> str:
    return DiffusionModel(folder=str(folder)).content()["digest"]


def first_weights(model: Diffusion) -> np.ndarray:
    return model.pipeline.unet.conv_in.weight.numpy()


def test_a_checker_that_is_named_but_not_there_is_not_asked_for(plain: Path, folder: Path) -> None:
    """As in the folders of Stable Diffusion 1 and RoentGen, under names that libraries have dropped since."""
    edit(
        folder / "model_index.json",
        feature_extractor=["transformers", "CLIPFeatureExtractor"],
        safety_checker=["stable_diffusion", "StableDiffusionSafetyChecker"],
        requires_safety_checker=None,
    )
    model = loaded(folder)
    assert model.pipeline.safety_checker is None
    np.testing.assert_array_equal(first_weights(model), first_weights(loaded(plain)))


def test_a_schedule_without_its_newer_fields_predicts_noise(folder: Path) -> None:
    edit(folder / "scheduler/scheduler_config.json", prediction_type=None, timestep_spacing=None, steps_offset=None)
    assert loaded(folder).pipeline.scheduler.config.prediction_type == "epsilon"


def test_a_tokenizer_that_names_no_length_is_held_to_the_encoders_and_what_is_cut_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(folder / "tokenizer/tokenizer_config.json", model_max_length=None)
    noise = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    monkeypatch.setattr("bench.diffusion.pipeline._WARNED", set())
    for _ in range(2):
        found = loaded(folder).sample(["fracture " * 200], noise, 1, 2.0)
    (told,) = caplog.messages
    assert told.startswith("prompts longer than 77 tokens lose their end, shorten diffusion.prompt: ['fracture ")
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, loaded(folder).sample(["fracture " * 75], noise, 1, 2.0))  # and two signs


@pytest.mark.parametrize("form", ["float16 alone", "pickles"])
def test_weights_in_other_files_are_the_same_weights(
    plain: Path, tmp_path: Path, form: str, capfd: pytest.CaptureFixture[str]
) -> None:
    saved = {"float16 alone": {"variant": "fp16"}, "pickles": {"safe": False}}[form]
    other = build_folder(tmp_path / "other", "sd15", **saved)  # type: ignore[arg-type]
    capfd.readouterr()
    np.testing.assert_array_equal(first_weights(loaded(other)), first_weights(loaded(plain)))
    assert capfd.readouterr() == ("", "")  # the libraries tell of every file that they look for in vain


def test_what_a_pipeline_does_not_read_is_no_part_of_its_digest(plain: Path, folder: Path) -> None:
    """Releases hold their weights several times over; who downloads less of them has the same model."""
    extra = ("unet/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.bin", "v1-5.safetensors")
    for name in (
        *extra,
        "vae/diffusion_pytorch_model.non_ema.safetensors",
        "safety_checker/model.safetensors",
        "README.txt",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    assert digest(folder) == digest(plain)
    loaded(folder)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer.json", "vae/config.json",
        f"unet/{UNET}.safetensors", f"vae/{UNET}.safetensors", "text_encoder/model.safetensors",
    ],
)  # fmt: skip
def test_a_byte_of_what_is_read_changes_the_digest(plain: Path, folder: Path, name: str) -> None:
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    assert digest(folder) != digest(plain)


def test_models_that_differ_in_a_few_tensors_of_a_large_file_differ(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    for path in (folder, other):
        if path is other:
            shutil.copytree(folder, other)
        with open(path / "unet" / f"{UNET}.safetensors", "r+b") as handle:
            handle.truncate(300 << 20)  # a sparse file
            handle.seek(150 << 20)
            handle.write(b"attn2" if path is folder else b"ATTN2")
    assert digest(folder) != digest(other)


Change = Callable[[Path], object]
DISAGREE: dict[str, tuple[Change, str]] = {
    "another kind": (
        lambda f: edit(
            f / "model_index.json", _class_name="StableDiffusionXLPipeline", text_encoder_2=["transformers", "CLIP"]
        ),
        "is a StableDiffusionXLPipeline with text_encoder_2; want a Stable Diffusion 1 or 2",
    ),
    "an inpainting UNet": (lambda f: edit(f / "unet/config.json", in_channels=9), "the UNet takes 9 channels, the VAE gives 4"),
    "words of another model": (
        lambda f: edit(f / "text_encoder/config.json", hidden_size=16), "the UNet reads words 12 wide, their encoder gives 16",
    ),
    "an unknown solver": (
        lambda f: edit(f / "scheduler/scheduler_config.json", _class_name="FlowMatchEulerDiscreteScheduler"),
        "_class_name: want one of DDIMScheduler, DDPMScheduler, PNDMScheduler",
    ),
    "an unknown prediction": (
        lambda f: edit(f / "scheduler/scheduler_config.json", prediction_type="sample"),
        "prediction_type: want one of epsilon, v_prediction, got 'sample'",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", DISAGREE)
def test_parts_that_do_not_fit_are_told_before_anything_runs(folder: Path, case: str) -> None:
    change, said = DISAGREE[case]
    change(folder)
    with pytest.raises(ConfigError, match=r"^diffusion\.folder: ") as caught:
        check_pipeline(folder)
    assert said in str(caught.value)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- several files of weights, whole and not


def in_shards(folder: Path, **save: Any) -> None:
    """Write the UNet's weights in several files, in place of the one."""
    unet = UNet2DConditionModel.from_pretrained(folder / "unet")
    (folder / f"unet/{UNET}.safetensors").unlink()
    unet.save_pretrained(folder / "unet", max_shard_size="60KB", **save)
    assert len(list((folder / "unet").glob("*.safetensors"))) > 2


def half(folder: Path, name: str, of: str) -> None:
    (folder / name).write_bytes((folder / of).read_bytes()[:1000])


def named(folder: Path, index: str, shard: str) -> None:
    (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": {"a": shard}}))


def legacy_shards(folder: Path) -> None:
    """As the shards of a variant were called before: the variant behind the number, and before `index`."""
    in_shards(folder, variant="fp16")
    for file in list((folder / "unet").glob("*fp16*")):
        file.rename(file.with_name(file.name.replace(".fp16", "").replace(".safetensors", ".fp16.safetensors")))
    index = folder / f"unet/{UNET}.fp16.safetensors.index.json"
    renamed = index.read_text().replace(".fp16-", "-").replace(".safetensors", ".fp16.safetensors")
    index.write_text(renamed)


WHOLE: dict[str, Change] = {
    "shards": in_shards,
    "shards of a variant": lambda f: in_shards(f, variant="fp16"),
    "shards of a variant, old names": legacy_shards,
    "one network in a variant": lambda f: (f / f"unet/{UNET}.safetensors").rename(f / f"unet/{UNET}.fp16.safetensors"),
    "a variant cut off": lambda f: half(f, f"unet/{UNET}.fp16.safetensors", f"unet/{UNET}.safetensors"),
    "a variant cut off, another network in it alone": lambda f: (
        half(f, f"unet/{UNET}.fp16.safetensors", f"unet/{UNET}.safetensors"),
        (f / f"vae/{UNET}.safetensors").rename(f / f"vae/{UNET}.fp16.safetensors"),
    ),
    "networks in two variants": lambda f: (
        (f / f"unet/{UNET}.safetensors").rename(f / f"unet/{UNET}.non_ema.safetensors"),
        (f / "text_encoder/model.safetensors").rename(f / "text_encoder/model.fp16.safetensors"),
    ),
    "an index of a variant left over": lambda f: named(
        f, f"unet/{UNET}.fp16.safetensors.index.json", f"{UNET}.fp16-00001-of-00002.safetensors"
    ),
    "an index left over beside the whole file": lambda f: named(
        f, f"unet/{UNET}.safetensors.index.json", f"{UNET}-00001-of-00002.safetensors"
    ),
    "shards left over beside the whole file": lambda f: half(
        f, f"unet/{UNET}-00001-of-00002.safetensors", f"unet/{UNET}.safetensors"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", WHOLE)
def test_a_whole_set_of_weights_is_read_and_what_lies_beside_it_is_not(plain: Path, folder: Path, case: str) -> None:
    WHOLE[case](folder)
    model = loaded(folder)
    np.testing.assert_array_equal(first_weights(model), first_weights(loaded(plain)))
    np.testing.assert_array_equal(
        model.pipeline.vae.encoder.conv_in.weight.numpy(), loaded(plain).pipeline.vae.encoder.conv_in.weight.numpy()
    )


@pytest.mark.parametrize("case", WHOLE)
def test_what_is_loaded_is_what_the_digest_covers(plain: Path, folder: Path, tmp_path: Path, case: str) -> None:
    """A folder of the covered files alone has the same weights; a byte of any of them changes the digest."""
    WHOLE[case](folder)
    alone = tmp_path / "alone"
    for file in files_read(folder):
        (alone / file.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, alone / file.relative_to(folder))
    assert digest(alone) == digest(folder)
    np.testing.assert_array_equal(first_weights(loaded(alone)), first_weights(loaded(plain)))


CUT: dict[str, tuple[Change, str]] = {
    "the plain file": (
        lambda f: (
            (f / f"unet/{UNET}.fp16.safetensors").write_bytes((f / f"unet/{UNET}.safetensors").read_bytes()),
            half(f, f"unet/{UNET}.safetensors", f"unet/{UNET}.safetensors"),
        ),
        rf"unet/{UNET}.safetensors is not a safetensors file, or its header is cut off",
    ),
    "a shard": (
        lambda f: (in_shards(f), sorted((f / "unet").glob("*.safetensors"))[1].unlink()),
        rf"unet has no {UNET}-00002-of-0000\d.safetensors",
    ),
    "other names": (
        lambda f: (f / f"unet/{UNET}.safetensors").rename(f / "unet/mine.safetensors"),
        r"unet has no weights \(.safetensors\)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CUT)
def test_a_set_that_is_not_whole_is_refused_by_file(folder: Path, case: str) -> None:
    change, said = CUT[case]
    change(folder)
    with pytest.raises(ConfigError, match=said):
        check_pipeline(folder)
