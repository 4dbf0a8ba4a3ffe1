"""Pretraining: checkpoints survive, resumes continue the same run, folders load offline."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

from bench.data.kinds.phantom import CLASS_NAMES, PhantomSettings
from bench.diffusion.prompts import prompt_for
from bench.errors import DataError
from bench.evaluation.oracle import ask_oracle, build_oracle, load_oracle
from bench.pipeline.checkpoints import Checkpoints, fingerprint
from bench.pretrain.diffusion import DiffusionSettings, pretrain_diffusion
from bench.pretrain.label_fidelity import label_fidelity, record_fidelity
from bench.pretrain.loop import batch_at, train_steps
from bench.pretrain.networks import ModelSettings
from bench.pretrain.oracle import OracleSettings, pretrain_oracle
from bench.pretrain.phantom_data import ASSET_SEED, lifted, natural
from bench.pretrain.tokenizer import build_tokenizer, prompt_words
from bench.pretrain.unet import UnetSettings
from bench.pretrain.vae import VaeSettings

MODEL = ModelSettings(vae_channels=(8, 16), unet_channels=(16, 16), unet_attention=(False, True), text_width=16)
TINY = DiffusionSettings(
    model=MODEL,
    vae=VaeSettings(steps=4, batch_size=4, checkpoint_every=2),
    unet=UnetSettings(steps=4, batch_size=4, checkpoint_every=2),
    grid_steps=2,
)
PHANTOM = PhantomSettings(seed=ASSET_SEED, image_px=32)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def data():
    return lifted(PHANTOM, 12)


class Counter:
    """A part whose state is how many steps it has seen."""

    def __init__(self):
        self.seen = []

    def state_dict(self):
        return {"seen": list(self.seen)}

    def load_state_dict(self, state):
        self.seen = list(state["seen"])


def run_counter(folder, total, stop_at=None):
    part = Counter()

    def do_step(step):
        if step == stop_at:
            raise KeyboardInterrupt
        part.seen.append(step)
        return float(step)

    records = list(train_steps("count", {"part": part}, total, do_step, Checkpoints(folder, "f"), 2))
    return part, records


def test_prompt_names_set_labels_only():
    assert prompt_for(("A b", "C"), (1.0, float("nan"))) == "chest radiograph, a b"
    assert prompt_for(("A b", "C"), (0, 0)) == "chest radiograph, no finding"
    with pytest.raises(ValueError, match="zip"):
        prompt_for(("A",), (1, 0))


def test_every_prompt_word_is_one_piece_and_unknown_words_do_not_fail(tmp_path):
    tokenizer = build_tokenizer(CLASS_NAMES, tmp_path)
    for word in prompt_words(CLASS_NAMES):
        assert len(tokenizer(word).input_ids) == 3, word
    ids = tokenizer("chest radiograph, zebra 42 é", add_special_tokens=False).input_ids
    assert len(ids) > 3
    assert tokenizer.eos_token_id not in ids
    assert len(tokenizer(prompt_for(CLASS_NAMES, [1] * 10)).input_ids) <= tokenizer.model_max_length


def test_newest_readable_checkpoint_wins(tmp_path):
    checkpoints = Checkpoints(tmp_path, "a")
    assert checkpoints.newest() is None
    checkpoints.save(1, {"x": torch.ones(2)})
    path = checkpoints.save(2, {"x": torch.zeros(2)})
    path.write_bytes(path.read_bytes()[:40])
    (tmp_path / ".step-000000009.pt.123").write_bytes(b"left over")
    step, state = checkpoints.newest()
    assert step == 1
    assert torch.equal(state["x"], torch.ones(2))
    assert Checkpoints(tmp_path, "b").newest() is None


def test_only_the_last_checkpoints_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, "a")
    for step in range(5):
        checkpoints.save(step, {})
    assert sorted(p.name for p in tmp_path.iterdir()) == ["000000003.ckpt", "000000004.ckpt"]


def test_fingerprint_tells_settings_apart():
    assert fingerprint(1, {"a": 2, "b": 3}) == fingerprint(1, {"b": 3, "a": 2})
    assert fingerprint(1) != fingerprint(2)


def test_interrupted_loop_continues_where_it_saved(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_counter(tmp_path, 7, stop_at=5)
    part, records = run_counter(tmp_path, 7)
    assert part.seen == list(range(7))
    assert [s for s, _ in records[-1]["curve"]] == [2, 4, 6, 7]
    again, records = run_counter(tmp_path, 7)
    assert again.seen == list(range(7))
    assert len(records) == 1


class Clock:
    """A clock that a step moves by ten seconds."""

    now = 0.0

    def monotonic(self):
        return self.now

    process_time = monotonic


def run_for(folder, clock, seconds, stop_at=None):
    part = Counter()

    def do_step(step):
        if step == stop_at:
            raise KeyboardInterrupt
        part.seen.append(step)
        clock.now += 10
        return float(step)

    return part, list(train_steps("count", {"part": part}, 10**9, do_step, Checkpoints(folder, "f"), 100, seconds))


def test_a_budget_of_time_is_spent_once_over_all_attempts(tmp_path, monkeypatch):
    clock = Clock()
    monkeypatch.setattr("bench.pretrain.loop.time", clock)
    with pytest.raises(KeyboardInterrupt):
        run_for(tmp_path, clock, 95, stop_at=5)  # saved after step 4: a save every 15 s is one every second step
    clock.now += 1000  # nobody trains
    part, records = run_for(tmp_path, clock, 95)
    assert part.seen == list(range(10))  # ten steps of 10 s
    assert (records[0]["step"], records[0]["total"]) == (4, 10)  # 40 s are spent, and 95 s are about ten steps
    assert (records[-1]["step"], records[-1]["total"], records[-1]["spent"][0]) == (10, 10, 100)
    again, records = run_for(tmp_path, clock, 95)
    assert again.seen == list(range(10))
    assert len(records) == 1


def test_a_budget_that_is_too_small_for_a_step_gets_one(tmp_path, monkeypatch):
    monkeypatch.setattr("bench.pretrain.loop.time", clock := Clock())
    part, _ = run_for(tmp_path, clock, 1)
    assert part.seen == [0]


def test_a_training_under_a_budget_is_the_training_of_the_steps_that_it_records(tmp_path, data):
    from safetensors.torch import load_file

    def stop(record):
        if record["part"] == "unet" and record["step"]:
            raise KeyboardInterrupt

    arguments = (data.images, data.labels, CLASS_NAMES)
    with pytest.raises(KeyboardInterrupt):
        pretrain_diffusion(*arguments, tmp_path / "a", tmp_path / "ck-a", TINY, stop, minutes=0.02)
    short = pretrain_diffusion(*arguments, tmp_path / "a", tmp_path / "ck-a", TINY, minutes=0.02)
    record = json.loads((short / "record.json").read_text())
    assert record["budget_minutes"] == 0.02
    again = DiffusionSettings.model_validate(record["settings"])
    assert (again.vae.steps, again.unet.steps) == tuple(record["training"][k]["loss"][-1][0] for k in ("vae", "unet"))
    whole = pretrain_diffusion(*arguments, tmp_path / "b", tmp_path / "ck-b", again)
    assert "budget_minutes" not in json.loads((whole / "record.json").read_text())
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        first, second = load_file(whole / name), load_file(short / name)
        assert all(torch.equal(first[k], second[k]) for k in first)


def test_an_epoch_visits_every_image_once():
    seen = np.concatenate([batch_at(10, 5, 0, "x", s) for s in range(2)])
    assert sorted(seen) == list(range(10))
    assert not np.array_equal(batch_at(10, 10, 0, "x", 0), batch_at(10, 10, 0, "x", 1))
    assert len(batch_at(3, 8, 0, "x", 5)) == 3


def test_lifted_data_has_more_rare_findings():
    labels = lifted(PHANTOM, 200).labels
    assert labels[1::2, 5:].mean() > 3 * labels[::2, 5:].mean()
    assert np.array_equal(labels[::2], natural(PHANTOM, 200).labels[::2])


def test_pipeline_folder_loads_and_samples(tmp_path, data):
    from diffusers import StableDiffusionPipeline

    seen = []
    out = pretrain_diffusion(
        data.images, data.labels, CLASS_NAMES, tmp_path / "out", tmp_path / "ck", TINY, seen.append
    )
    assert [(r["part"], r["step"]) for r in seen if not r["step"] % 2] == [
        *((part, step) for part in ("vae", "unet") for step in (0, 2, 4)),
        ("samples", 0),
    ]
    pipeline = StableDiffusionPipeline.from_pretrained(
        str(out), torch_dtype=torch.float32, safety_checker=None, local_files_only=True
    )
    pipeline.set_progress_bar_config(disable=True)
    drawn = pipeline("chest radiograph, fracture", num_inference_steps=2, height=32, width=32, output_type="np")
    assert drawn.images.shape == (1, 32, 32, 3)
    record = json.loads((out / "record.json").read_text())
    assert record["scaling_factor"] == pipeline.vae.config.scaling_factor
    assert record["n_images"] == 12
    assert (out / "samples.png").is_file()
    figures = record_fidelity(out, build_oracle(), n_images=1)
    assert json.loads((out / "record.json").read_text())["label_fidelity"] == figures


def test_stopped_pretraining_ends_with_the_same_weights(tmp_path, data):
    from safetensors.torch import load_file

    def stop(record):
        if record["part"] == "unet":
            raise KeyboardInterrupt

    arguments = (data.images, data.labels, CLASS_NAMES)
    whole = pretrain_diffusion(*arguments, tmp_path / "a", tmp_path / "ck-a", TINY)
    with pytest.raises(KeyboardInterrupt):
        pretrain_diffusion(*arguments, tmp_path / "b", tmp_path / "ck-b", TINY, stop)
    resumed = pretrain_diffusion(*arguments, tmp_path / "b", tmp_path / "ck-b", TINY)
    for part in ("unet", "vae"):
        name = f"{part}/diffusion_pytorch_model.safetensors"
        first, second = load_file(whole / name), load_file(resumed / name)
        assert all(torch.equal(first[k], second[k]) for k in first)


def test_arrays_that_do_not_fit_are_refused(tmp_path, data):
    with pytest.raises(DataError, match="labels"):
        pretrain_diffusion(data.images, data.labels[:3], CLASS_NAMES, tmp_path, tmp_path, TINY)
    with pytest.raises(DataError, match="uint8"):
        pretrain_diffusion(data.images / 255, data.labels, CLASS_NAMES, tmp_path, tmp_path, TINY)
    with pytest.raises(DataError, match="divisible"):
        pretrain_diffusion(data.images[:, :30, :30], data.labels, CLASS_NAMES, tmp_path, tmp_path, TINY)


def test_oracle_trains_saves_and_loads(tmp_path):
    settings = OracleSettings(n_images=64, n_test=32, epochs=1, batch_size=16, checkpoint_every=2, phantom=PHANTOM)
    seen = []
    out = pretrain_oracle(tmp_path / "o", tmp_path / "ck", settings, seen.append)
    assert [r["step"] for r in seen if not r["step"] % 2] == [0, 2, 4]
    oracle = load_oracle(out)
    images = natural(PHANTOM, 3).images
    logits, features = ask_oracle(oracle, images)
    assert logits.shape == (3, len(CLASS_NAMES))
    assert features.shape == (3, 64)
    again = pretrain_oracle(tmp_path / "o2", tmp_path / "ck", settings)
    assert np.array_equal(ask_oracle(load_oracle(again), images)[0], logits)


def test_label_fidelity_by_hand():
    asked = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]], dtype=bool)
    shown = np.array([[1, 0], [0, 0], [1, 0], [0, 0], [1, 1]], dtype=bool)
    figures = label_fidelity(shown, asked, ("a", "b"))
    assert figures["a"] == {"shown_if_asked": 0.5, "chance": 0.5, "ratio": 1.0, "n": 2}
    assert figures["b"]["shown_if_asked"] == 0


def test_colour_images_give_a_model_of_colour(tmp_path, data):
    images = np.stack([data.images, 255 - data.images, data.images // 2], axis=-1)
    out = pretrain_diffusion(images, data.labels, CLASS_NAMES, tmp_path / "model", tmp_path / "ckpt", TINY)
    record = json.loads((out / "record.json").read_text(encoding="utf-8"))
    assert record["image_px"] == 32
    with Image.open(out / "samples.png") as picture:
        shown = np.asarray(picture)
    np.testing.assert_array_equal(shown[:32, :32], images[0])  # the first row is of training images
    assert (shown[32:].min(axis=-1) < shown[32:].max(axis=-1)).any(), "what was drawn has colour"
