"""`ours@d` end to end on a toy data set and a random tiny diffusion pipeline."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from bench.augment.augmented import Augmented
from bench.contract import Task
from bench.errors import ConfigError
from bench.store.store import Store
from bench.tables import AugmentedSet
from methods.fusion import Fusion
from methods.fusion.fuse import Fused, skip_reason
from tests.unit.methods.fusion_fixtures import CLASS_NAMES, TAIL, ours, tiny_pipeline, toy_task, toy_train

PROGRAM = """
import sys, hashlib
sys.path.insert(0, {tests!r})
from tests.unit.methods.fusion_fixtures import ours, toy_task
from bench.augment.augmented import Augmented
from bench.store.store import Store
from pathlib import Path
done = Store(Path({store!r})).get(Augmented.of(ours(denoise_steps=1), toy_task(Path({pipeline!r}))))
print(hashlib.sha256(done.images.tobytes() + done.extras["mask"].tobytes()).hexdigest())
"""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_pipeline(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def task(pipeline: Path) -> Task:
    return toy_task(pipeline)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


def made(store: Store, task: Task, method: Fusion) -> AugmentedSet:
    return store.get(Augmented.of(method, task))


def test_every_d_shares_the_fused_latents_and_the_codec(task: Task) -> None:
    fused = [ours(denoise_steps=d).inputs(task)["fused"] for d in (0, 1, 5)]
    assert len({f.key for f in fused}) == 1
    assert len({Augmented.of(ours(denoise_steps=d), task).key for d in (0, 1, 5)}) == 3


def test_a_setting_below_changes_only_what_stands_on_it(task: Task) -> None:
    plain, other = (ours(**s).inputs(task)["fused"] for s in ({}, {"fusion": {"cam_high": 0.4}}))
    assert isinstance(plain, Fused)
    assert isinstance(other, Fused)
    assert plain.key != other.key
    assert plain.pairs.key == other.pairs.key


def test_samples_have_the_right_shapes_parents_and_extras(store: Store, task: Task) -> None:
    done = made(store, task, ours(denoise_steps=2))
    labels = np.load(store.folder(task.train) / "labels.npy")
    assert done.images.shape == (10, 32, 32)
    assert done.images.dtype == np.uint8
    anchor, partner = done.parents.T
    tail = [CLASS_NAMES.index(c) for c in TAIL]
    assert (labels[anchor, done.target_class] == 1).all()
    assert not (labels[partner][:, tail] == 1).any()
    assert (done.labels[np.arange(10), done.target_class] == 1).all()
    share_tail = done.extras["mask"].mean(axis=(1, 2))
    np.testing.assert_allclose(done.extras["parent_share"], np.stack([share_tail, 1 - share_tail], axis=1), atol=1e-6)
    np.testing.assert_array_equal(done.extras["claimed_class"], done.target_class)
    for own, a, b in zip(done.labels, labels[anchor], labels[partner], strict=True):
        union = [1 if 1 in (x, y) else np.nan if np.isnan([x, y]).any() else 0 for x, y in zip(a, b, strict=True)]
        np.testing.assert_array_equal(own, np.array(union, dtype=np.float32))
    for name in ("anchor_cam", "partner_cam"):
        assert done.extras[name].shape == (10, 8, 8)
        assert done.extras[name].max() <= 1
        assert done.extras[name].min() >= 0


def test_denoising_starts_from_the_same_fused_latents_and_changes_images(store: Store, task: Task) -> None:
    zero, two = made(store, task, ours(denoise_steps=0)), made(store, task, ours(denoise_steps=2))
    released = made(store, task, ours(denoise_steps=2, denoise_start="released"))
    np.testing.assert_array_equal(zero.extras["mask"], two.extras["mask"])
    np.testing.assert_array_equal(zero.parents, two.parents)
    assert (zero.images != two.images).any()
    assert (released.images != two.images).any()


def test_batch_size_does_not_change_a_sample(store: Store, task: Task) -> None:
    method = ours(denoise_steps=1)
    whole = Augmented.of(method, task)
    from bench.store.work import Execution, Work

    work = Work(store, whole, store.root / "x" / "out", store.root / "x", Execution(device="cpu"))
    ctx = whole.context(work)
    at_once = next(iter(method.augment(replace(ctx, batch_size=10))))
    one_by_one = list(method.augment(replace(ctx, batch_size=1)))
    np.testing.assert_allclose(
        at_once.images.astype(int), np.concatenate([b.images for b in one_by_one]).astype(int), atol=1
    )
    np.testing.assert_array_equal(at_once.parents, np.concatenate([b.parents for b in one_by_one]))


def test_another_process_makes_the_same_bytes(store: Store, task: Task, pipeline: Path, tmp_path: Path) -> None:
    done = made(store, task, ours(denoise_steps=1))
    program = PROGRAM.format(
        tests=str(Path(__file__).parents[3] / "tests"), store=str(tmp_path), pipeline=str(pipeline)
    )
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    here = hashlib.sha256(done.images.tobytes() + done.extras["mask"].tobytes()).hexdigest()
    assert found.stdout.strip() == here


def test_records_say_what_happened(store: Store, task: Task) -> None:
    made(store, task, ours(denoise_steps=0))
    fused = ours().inputs(task)["fused"]
    assert isinstance(fused, Fused)
    fusion = json.loads((store.folder(fused) / "fusion.json").read_text())
    codec = json.loads((store.folder(fused.pairs.saliency.codec) / "codec.json").read_text())
    assert fusion["claimed_target"] == 1
    assert fusion["share_tail"] + fusion["share_head"] == pytest.approx(1)
    assert set(fusion["share_tail_by_class"]) == set(TAIL)
    saliency = json.loads((store.folder(fused.pairs.saliency) / "saliency.json").read_text())
    assert saliency["empty_share"] < 0.1
    first, last = codec["generations"]
    assert "imitation_cross_entropy" in first
    assert "imitation_cross_entropy" not in last
    assert last["reconstruction_l1"] < first["reconstruction_l1"]
    assert 1 / 8 <= last["mean_max_probability"] <= 1
    assert 0 <= last["normalised_entropy"] <= 1


def test_an_empty_plan_trains_nothing(pipeline: Path, tmp_path: Path) -> None:
    task, store = toy_task(pipeline, per_class=0), Store(tmp_path)
    assert len(made(store, task, ours())) == 0
    assert not (tmp_path / "codec").exists()


def test_a_train_split_without_partner_or_anchor_is_skipped() -> None:
    train = toy_train()
    assert skip_reason(train) is None
    all_tail = train.labels.copy()
    all_tail[:, 2] = 1
    assert "no partner" in str(Fusion().skip(replace(train, labels=all_tail)))
    no_bar = train.labels.copy()
    no_bar[:, 3] = 0
    assert "Bar" in str(Fusion().skip(replace(train, labels=no_bar)))


def test_a_plan_for_a_head_class_is_refused_by_name() -> None:
    from bench.contract import Plan

    with pytest.raises(ConfigError, match=r"augment.counts: 'Round' is no tail class, as the method needs"):
        Plan(counts={"Round": 3}).samples(toy_train(), tail_only=True)


def test_more_steps_than_the_schedule_has_are_refused() -> None:
    with pytest.raises(ValidationError, match="num_inference_steps"):
        Fusion(denoise_steps=80)
