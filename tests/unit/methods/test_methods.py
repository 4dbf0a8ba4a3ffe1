"""The methods against independent references: imbalanced-learn's SMOTE, the diffusion model's own sampling."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from imblearn.over_sampling import SMOTE
from scipy.spatial.distance import cdist

from bench import seeds
from bench.augment.augmented import Augmented, checked
from bench.augment.label_policies import LabelEvidence, assign
from bench.augment.latents import Latents
from bench.contract import Context, Plan
from bench.diffusion.model import DiffusionModel
from bench.diffusion.pipeline import Diffusion
from bench.diffusion.prompts import prompt_for
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.tables import AugmentedSet, ImageRows, TrainSet
from bench.testing.methods import METHOD_CHECKS
from bench.testing.toy import ToyDataset, build_pipeline, toy_task
from methods.duplicate import Duplicate
from methods.roentgen import Roentgen
from methods.smote import Smote, draw, interpolate, nearest
from tests.unit.methods.smote_fixtures import neighbours_by_cdist


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    torch.set_num_threads(1)
    return Store(tmp_path_factory.mktemp("stages"))


def train(n=40, px=8, seed=0):
    rng = np.random.default_rng(seed)
    labels = (rng.random((n, 3)) < [0.5, 0.4, 0.3]).astype(np.float32)
    images = rng.integers(0, 256, (n, px, px), dtype=np.uint8)
    return TrainSet(ImageRows(images), labels, ("a", "b", "c"), ("a",), ("b", "c"))


def context(n_each=30, seed=0, train_set=None):
    samples = np.repeat([1, 2], n_each)
    return Context(train_set or train(), {"b": n_each, "c": n_each}, samples, seed=seed)


def found_among(vectors, k):
    return nearest(vectors.__getitem__, np.arange(len(vectors)), k, slice(0, len(vectors)))


def made(method, ctx):
    """Return all arrays of what the method makes."""
    if isinstance(method, Smote):
        ctx = replace(ctx, inputs={"neighbours": neighbours_by_cdist(ctx.train, method.k_neighbors)})
    batches = list(checked(method, ctx))
    arrays = {n: np.concatenate([getattr(b, n) for b in batches]) for n in ("images", "labels", "parents")}
    return arrays | {f"extras/{n}": np.concatenate([b.extras[n] for b in batches]) for n in batches[0].extras}


def by_area(arrays, ctx):
    """Return the labels of what `made` returned under the policy `area`."""
    extras = {n.removeprefix("extras/"): a for n, a in arrays.items() if n.startswith("extras/")}
    samples = AugmentedSet(arrays["images"], arrays["labels"], arrays["parents"], ctx.samples, extras)
    return assign("area", LabelEvidence.of(samples, ctx.train.labels))


# --- duplicate


def test_copies_are_spread_evenly_and_are_the_rows_themselves():
    ctx = context(n_each=50)
    out = made(Duplicate(), ctx)
    rows = out["parents"][:, 0]
    assert np.array_equal(out["images"], ctx.train.images[rows])
    np.testing.assert_array_equal(out["labels"], ctx.train.labels[rows])
    for target in (1, 2):
        times = np.bincount(rows[ctx.samples == target], minlength=len(ctx.train))[ctx.train.rows_with(target)]
        assert times.sum() == 50
        assert times.max() - times.min() <= 1


def test_each_class_has_its_own_order():
    twins = train()
    twins.labels[:, 2] = twins.labels[:, 1]
    rows = made(Duplicate(), context(train_set=twins))["parents"][:, 0]
    assert not np.array_equal(rows[:30], rows[30:])
    assert not np.array_equal(rows, made(Duplicate(), context(seed=1, train_set=twins))["parents"][:, 0])


# --- SMOTE


def test_interpolation_and_neighbours_are_imbalanced_learns():
    """The library's own fit_resample, its draws replayed through our two functions, gives the same bits."""
    vectors = np.random.default_rng(0).normal(size=(12, 20)).astype(np.float32)
    others = np.random.default_rng(1).normal(size=(32, 20)).astype(np.float32) + 5
    resampled, _ = SMOTE(k_neighbors=5, random_state=3).fit_resample(
        np.vstack([vectors, others]), np.repeat([1, 0], [12, 32])
    )
    replay = np.random.RandomState(3)
    chosen = replay.randint(low=0, high=12 * 5, size=20)
    steps = replay.uniform(size=20)
    neighbours = found_among(vectors, 5)
    base, neighbour = chosen // 5, neighbours[chosen // 5, chosen % 5]
    assert np.array_equal(interpolate(vectors[base], vectors[neighbour], steps), resampled[44:])


def test_neighbours_are_the_nearest_of_the_class():
    vectors = np.random.default_rng(0).normal(size=(30, 7)).astype(np.float32)
    distances = cdist(vectors, vectors) + np.diag(np.full(30, np.inf))
    assert np.array_equal(found_among(vectors, 4), np.argsort(distances, axis=1)[:, :4])
    assert found_among(vectors[:3], 5).shape == (3, 2)
    assert found_among(vectors[:1], 5).tolist() == [[0]]


def test_draws_cover_bases_neighbours_and_steps_evenly():
    neighbours = np.array([[1, 2], [2, 0], [0, 1]])
    drawn = [draw(seeds.rng(0, "sample", i), neighbours) for i in range(3000)]
    pairs = np.array([d[:2] for d in drawn])
    assert np.bincount(pairs[:, 0]).min() > 900
    assert np.bincount(pairs[pairs[:, 0] == 1][:, 1], minlength=3).tolist()[1] == 0
    steps = np.array([d[2] for d in drawn])
    assert 0 <= steps.min() < 0.01
    assert 0.99 < steps.max() < 1
    assert abs(steps.mean() - 0.5) < 0.02


def test_every_image_lies_between_its_parents_of_the_class():
    ctx = context()
    out = made(Smote(k_neighbors=3), ctx)
    base, neighbour = (ctx.train.images[out["parents"][:, j]].astype(float) for j in (0, 1))
    step = out["extras/step"][:, None, None].astype(float)
    assert np.abs(out["images"] - (base + step * (neighbour - base))).max() <= 0.51
    for i, target in enumerate(ctx.samples):
        rows = ctx.train.rows_with(target)
        a, b = out["parents"][i]
        assert {a, b} <= set(rows)
        assert a != b
        flat = ctx.train.images[rows].reshape(len(rows), -1).astype(float)
        distances = ((flat - flat[list(rows).index(a)]) ** 2).sum(1)
        assert list(rows).index(b) in np.argsort(distances)[1:4]


def test_classes_and_samples_have_their_own_draws():
    step = made(Smote(), context())["extras/step"]
    assert len(np.unique(step)) == len(step)
    assert not np.array_equal(step[:30], step[30:])


def test_labels_of_both_parents():
    split = train()
    split.labels[::4, 0] = np.nan
    ctx = context(train_set=split)
    union = made(Smote(), ctx)
    soft = by_area(union, ctx)
    assert np.isnan(union["labels"]).any()
    for i, (a, b) in enumerate(union["parents"]):
        for c in range(3):
            x, y, s = split.labels[a, c], split.labels[b, c], union["extras/step"][i]
            known = not (np.isnan(x) or np.isnan(y))
            expected = 1 if 1 in (x, y) else 0 if known else np.nan
            np.testing.assert_equal(union["labels"][i, c], np.float32(expected))
            np.testing.assert_allclose(soft[i, c], (1 - s) * x + s * y if known else np.nan, atol=1e-6)


def test_a_class_of_one_image_is_copied():
    lonely = train()
    lonely.labels[1:, 2] = 0
    lonely.labels[0, 2] = 1
    out = made(Smote(), context(train_set=lonely))
    assert (out["parents"][30:] == [0, -1]).all()
    assert (out["images"][30:] == lonely.images[0]).all()
    copied = np.tile(lonely.labels[0], (30, 1))
    np.testing.assert_array_equal(out["labels"][30:], copied)
    np.testing.assert_array_equal(by_area(out, context(train_set=lonely))[30:], copied)


def test_latent_space_interpolates_latents_and_decodes(store):
    task = toy_task()
    found = store.get(Augmented.of(Smote(space="latent"), task))
    latents, model = store.get(task.latents), task.diffusion.load()
    base, neighbour = (latents.mean[found.parents[:, j]] for j in (0, 1))
    mixed = base + found.extras["step"][:, None, None, None] * (neighbour - base)
    assert np.abs(found.images.astype(int) - model.decode(mixed.astype(np.float32))).max() <= 1


def test_only_latent_space_depends_on_the_diffusion_model(tmp_path):
    folder = build_pipeline(tmp_path / "other", seed=1)
    task = toy_task()
    other = DiffusionModel(folder=str(folder))
    moved = task.model_copy(update={"diffusion": other, "latents": Latents(train=task.train, diffusion=other)})
    for method, same in ((Smote(), True), (Smote(space="latent"), False), (Roentgen(), False), (Duplicate(), True)):
        assert (Augmented.of(method, task).key == Augmented.of(method, moved).key) == same


@pytest.mark.parametrize("check", METHOD_CHECKS, ids=lambda check: check.__name__)
def test_latent_space_keeps_the_contract(check, store):
    check(Smote(space="latent"), store.root)


# --- RoentGen


def test_images_are_what_the_model_samples_from_the_labels_in_words(store):
    method, task = Roentgen(num_inference_steps=3, guidance_scale=2.0), toy_task()
    found = store.get(Augmented.of(method, task))
    whole, rows = store.get(task.train.split.dataset), store.get(task.train.split)["train"]
    observed = whole.labels[rows][found.parents[:, 0]]
    np.testing.assert_array_equal(found.labels, observed)
    seed = seeds.derive(task.seed, "augment")
    noise = [seeds.rng(seed, "sample", i).standard_normal((4, 8, 8), dtype=np.float32) for i in range(len(found))]
    prompts = [prompt_for(whole.class_names, row) for row in observed]
    model = task.diffusion.load()
    expected = model.decode(model.sample(prompts, np.stack(noise), 3, 2.0))
    assert np.abs(found.images.astype(int) - expected).max() <= 1
    assert method.label == "roentgen@3"


def test_target_only_says_the_class_alone(store):
    found = store.get(Augmented.of(Roentgen(num_inference_steps=2, prompt="target_only"), toy_task()))
    np.testing.assert_array_equal(found.labels, np.eye(4, dtype=np.float32)[found.target_class])
    assert (found.parents == -1).all()


def test_settings_change_images(store):
    base = Roentgen(num_inference_steps=2)
    images = [
        store.get(Augmented.of(m, toy_task())).images.tobytes()
        for m in (base, base.model_copy(update={"guidance_scale": 1.0}), Roentgen(num_inference_steps=3))
    ]
    assert len(set(images)) == 3


def test_the_size_of_a_batch_of_sampling_changes_a_grey_level_at_most(store, tmp_path, monkeypatch):
    stage = Augmented.of(Roentgen(num_inference_steps=3), toy_task())
    whole = store.get(stage).images
    monkeypatch.setattr(Diffusion, "batch_size", 3)
    assert np.abs(whole.astype(int) - Store(tmp_path).get(stage).images).max() <= 1


def test_a_stopped_sampling_goes_on_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(Diffusion, "batch_size", 4)
    stage = Augmented.of(Roentgen(num_inference_steps=2), toy_task(plan=Plan(per_class=6)))
    expected = Store(tmp_path / "whole").get(stage).images.copy()
    sampled, sample = [], Diffusion.sample

    def counted(self, prompts, *args):
        sampled.append(len(prompts))
        if len(sampled) == 3:
            raise KeyboardInterrupt
        return sample(self, prompts, *args)

    monkeypatch.setattr(Diffusion, "sample", counted)
    stopped = Store(tmp_path / "stopped")
    with pytest.raises(KeyboardInterrupt):
        stopped.get(stage)
    assert np.array_equal(stopped.get(stage).images, expected)
    assert sampled == [4, 4, 4, 4]


# --- all: a seed alone decides


@pytest.mark.parametrize("method", [Duplicate(), Smote()], ids=repr)
def test_bit_equal_for_any_batch_size(method):
    outputs = [made(method, replace(context(), batch_size=b)) for b in (1, 7, 1000)]
    for other in outputs[1:]:
        for name, array in outputs[0].items():
            assert array.tobytes() == other[name].tobytes()


def test_plans_share_the_samples_of_their_common_numbers():
    few, many = (made(Smote(), context(n_each=n)) for n in (10, 20))
    assert np.array_equal(few["images"][:10], many["images"][:10])


def test_settings_are_told_in_the_resolved_configuration():
    text = Smote(space="latent").model_dump_json()
    assert json.loads(text) == {"labels": "own", "k_neighbors": 5, "space": "latent", "detail": "none"}


def test_toy_data_set_has_one_positive_in_train_where_asked(store):
    stage = toy_task(ToyDataset(lonely=True)).train
    folder = store.get(stage)
    assert np.nansum(np.load(folder / "labels.npy"), 0)[-1] == 1
    assert isinstance(Work(store, stage, folder, folder, Execution()).device, str)
