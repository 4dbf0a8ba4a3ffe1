"""Maps by prompts: against a loop over diffusers' own parts, and against the phantom's true findings."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler
from scipy.ndimage import gaussian_filter

from bench import seeds
from bench.augment.prompt_saliency import PromptSaliency, contrasted, prompt_targets
from bench.augment.saliency_table import NO_CLASS
from bench.contract import DiffusionModel, Latents, Plan, Task, Train, train_set
from bench.data.kinds.phantom.dataset import Phantom
from bench.data.split import Split, SplitSettings
from bench.metrics.localisation import pointing_hits, pointing_prior
from bench.pipeline.stage import walk
from bench.store.store import Store
from bench.testing.toy import toy_task
from methods.fusion import Fusion
from methods.fusion.diagnostics import true_sites
from tests.unit.methods.fusion_fixtures import toy_train


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def task() -> Task:
    return toy_task(plan=Plan(per_class=4))


def maps_of(task: Task, wanted: str = "tail", **settings: object) -> PromptSaliency:
    given = {"latents": task.latents, "train": task.train, "diffusion": task.diffusion, "seed": task.seed}
    return PromptSaliency.model_validate({**given, "settings": settings, "wanted": wanted})


def test_a_map_is_the_difference_of_two_predictions_for_the_same_noisy_latent(store: Store, task: Task) -> None:
    table = store.get(maps_of(task, n_draws=2, noise_level=0.2, smoothing=0.7))
    train, latents, model = train_set(store, task.train), store.get(task.latents), task.diffusion.load("cpu")
    pipeline = model.pipeline
    noiser = DDPMScheduler.from_config(pipeline.scheduler.config)
    timestep = torch.tensor([round(0.2 * noiser.config.num_train_timesteps)])
    judged = 0
    for row, c, cam in zip(table.rows, table.classes, table.cams, strict=True):
        if c == NO_CLASS:
            assert not (train.labels[row, train.tail_index] == 1).any()
            assert not cam.any()
            continue
        labels = np.nan_to_num(train.labels[row])
        without = np.where(np.arange(len(labels)) == c, 0, labels)
        texts = [
            pipeline.encode_prompt(model.prompt(train.class_names, named), "cpu", 1, do_classifier_free_guidance=False)
            for named in (labels, without)
        ]
        clean = torch.from_numpy(latents.mean[[row]])
        rng = seeds.rng(seeds.derive(task.seed, "prompt-saliency"), int(row))
        found = np.zeros(clean.shape[2:])
        for draw in rng.standard_normal((2, *clean.shape[1:]), dtype=np.float32):
            noisy = noiser.add_noise(clean, torch.from_numpy(draw)[None], timestep)
            with torch.no_grad():
                one, other = (pipeline.unet(noisy, timestep, encoder_hidden_states=t[0]).sample for t in texts)
            found += (one - other).abs().mean(dim=1)[0].double().numpy()
        smooth = gaussian_filter(found, 0.7)
        np.testing.assert_allclose(cam, smooth / smooth.max(), atol=1e-3)
        judged += 1
    assert judged > 3


def test_a_map_does_not_depend_on_its_batch(store: Store, task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = store.get(maps_of(task, n_draws=1))
    monkeypatch.setattr("bench.augment.prompt_saliency._BATCH", 3)
    parts = Store(store.root.parent / "parts").get(maps_of(task, n_draws=1))
    np.testing.assert_allclose(parts.cams, whole.cams, atol=1e-3)


def test_partners_have_maps_only_when_they_are_asked_for(store: Store, task: Task) -> None:
    train = train_set(store, task.train)
    plain, full = store.get(maps_of(task, n_draws=1)), store.get(maps_of(task, "tail_and_partners", n_draws=1))
    of_tail = np.isin(plain.classes, train.tail_index)
    np.testing.assert_array_equal(plain.rows, full.rows)
    np.testing.assert_allclose(plain.cams[of_tail], full.cams[of_tail], atol=1e-3)
    has_head = (train.labels[full.rows][:, train.head_index] == 1).any(axis=1)
    np.testing.assert_array_equal(full.cams[~of_tail].any(axis=(1, 2)), has_head[~of_tail])


def test_every_row_has_an_entry_and_prompts_differ_by_the_finding_alone() -> None:
    train = toy_train(60)
    rows, classes = prompt_targets(train, "tail_and_partners")
    assert set(rows.tolist()) == set(range(60))
    for contrast in ("without", "nothing"):
        with_it, without_it = contrasted(train, rows, classes, contrast)
        for row, c, one, other in zip(rows, classes, with_it, without_it, strict=True):
            known = np.nan_to_num(train.labels[row])
            if c == NO_CLASS:
                assert not (train.labels[row] == 1).any()
            elif c in train.tail_index:
                expected = known if contrast == "without" else np.eye(4)[c]
                assert one.tolist() == expected.tolist()
                assert (one - other).tolist() == np.eye(4)[c].tolist()
            else:
                assert one.tolist() == known.tolist()
                assert not other.any()


def test_maps_of_head_findings_are_those_of_images_with_a_tail_class() -> None:
    train = toy_train(60)
    rows, classes = prompt_targets(train, "head")
    expected = []
    for row, labels in enumerate(train.labels):
        of_head = [c for c in train.head_index if labels[c] == 1]
        of_tail = any(labels[c] == 1 for c in train.tail_index)
        expected += [(row, c) for c in (of_head if of_tail else [])] or [(row, NO_CLASS)]
    assert list(zip(rows, classes, strict=True)) == expected
    made = classes != NO_CLASS
    with_it, without_it = contrasted(train, rows[made], classes[made], "without")
    np.testing.assert_array_equal(with_it - without_it, np.eye(4)[classes[made]])


def test_the_maps_point_at_the_phantoms_findings(store: Store) -> None:
    """The shipped model has learnt where its words are. Chance is about 0.06."""
    dataset = Phantom(n_images=500, image_px=64, prevalence_floor=0.03)
    train = Train(split=Split(dataset=dataset, settings=SplitSettings(min_positives=1)))
    diffusion = DiffusionModel()
    latents = Latents(train=train, diffusion=diffusion)
    task = Task(train=train, latents=latents, diffusion=diffusion, plan=Plan(), seed=0)
    table, rows_of = store.get(maps_of(task)), store.get(train.split)["train"]
    of_tail = np.isin(table.classes, train_set(store, train).tail_index)
    classes = table.classes[of_tail]
    truth = true_sites(dataset, rows_of[table.rows[of_tail]], classes, table.cams.shape[-1])
    assert truth is not None
    there = truth.any(axis=(1, 2))
    hits = pointing_hits(table.cams[of_tail][there], truth[there])
    assert there.sum() > 40
    assert hits.mean() > 0.75
    assert hits.mean() > pointing_prior(truth[there], classes[there]).mean()


def test_the_preset_prompted_trains_no_codec_and_asks_for_no_map_of_a_partner(task: Task) -> None:
    method = Fusion.model_validate({"denoise_steps": 0, **Fusion.presets["prompted"]})
    stages = walk(list(method.inputs(task).values()))
    assert "codec" not in {stage.stage_name() for stage in stages}
    assert [s.wanted for s in stages if isinstance(s, PromptSaliency)] == ["tail"]


@pytest.mark.parametrize(
    ("settings", "codec"),
    [
        ({"saliency": {"source": "prompt"}}, True),
        ({"saliency": {"source": "prompt"}, "fusion": {"space": "latent"}}, False),
        ({"saliency": {"source": "prompt"}, "fusion": {"space": "latent"}, "pairing": {"by": "code"}}, True),
        ({"fusion": {"space": "latent"}}, True),
    ],
)
def test_a_codec_is_trained_only_where_something_uses_it(task: Task, settings: dict[str, object], codec: bool) -> None:
    method = Fusion.model_validate(settings)
    stages = walk([*method.inputs(task).values(), method.diagnostics(task)])
    assert ("codec" in {stage.stage_name() for stage in stages}) is codec
