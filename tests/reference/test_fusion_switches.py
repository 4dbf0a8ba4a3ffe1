"""The released code's behaviours that `methods.fusion` can switch on, each against a plain loop from its description."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from bench.augment.augmented import Augmented
from bench.augment.label_policies import LabelEvidence, assign
from bench.augment.saliency_table import SaliencyTable
from bench.contract import Method, Task
from bench.data.split import train_set
from bench.diffusion.pipeline import Diffusion
from bench.diffusion.prompts import prompt_for
from bench.matrix.rows import merged
from bench.store.store import Store
from bench.tables import AugmentedSet
from methods.fusion import Fusion
from methods.fusion.codec import Codec
from methods.fusion.fuse import Fused, FusedSet, FusionSettings, thresholds
from methods.fusion.pairing import PairTable
from methods.fusion.saliency import drawn_latents
from tests.unit.methods.fusion_fixtures import CLASS_NAMES, TINY_CODEC, tiny_pipeline, toy_task

TAIL_COLUMNS, HEAD_COLUMNS = [2, 3], [0, 1]
# Where each of the audit's eight points is decided.
SWITCHES = {
    "code_activation": ("codec", "code_activation"),
    "decoder_range": ("codec", "decoder_range"),
    "index_space": ("index_space",),
    "cam": ("saliency", "cam_method"),
    "denoise_start": ("denoise_start",),
    "thresholds": ("fusion", "thresholds"),
    "checkpoint": ("checkpoint",),
    "labels": ("labels",),
}
SIZE = {
    "num_inference_steps": 10,
    "denoise_steps": 2,
    "codec": TINY_CODEC.model_dump(include={"vocab_size", "width", "downsamplings", "generations", "learning_rate"})
    | {"interaction_epochs": 1, "batch_size": 16},
}


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return toy_task(tiny_pipeline(tmp_path_factory.mktemp("tiny")), per_class=20)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


class Made:
    """A variant's method and the results of its stages."""

    def __init__(self, store: Store, task: Task, preset: str, **changes: Any) -> None:
        self.store, self.task = store, task
        self.method = Fusion.model_validate(merged(Fusion.presets[preset], SIZE, changes))
        stage = self.method.inputs(task)["fused"]
        assert isinstance(stage, Fused)
        self.stage = stage
        self.labels = train_set(store, task.train).labels
        self.tail_rows = {c: [r for r in range(len(self.labels)) if self.labels[r, c] == 1] for c in TAIL_COLUMNS}
        self.head_only = [r for r in range(len(self.labels)) if not any(self.labels[r, c] == 1 for c in TAIL_COLUMNS)]
        self.targets = np.repeat(TAIL_COLUMNS, 20)

    @property
    def fused(self) -> FusedSet:
        return self.store.get(self.stage)

    @property
    def pairs(self) -> PairTable:
        return self.store.get(self.stage.pairs)

    @property
    def maps(self) -> SaliencyTable:
        return self.store.get(self.stage.pairs.saliency)

    @property
    def codec(self) -> Codec:
        return self.stage.pairs.saliency.codec

    def images(self) -> AugmentedSet:
        return self.store.get(Augmented.of(self.method, self.task))

    def latents(self) -> torch.Tensor:
        return torch.from_numpy(
            drawn_latents(self.store, self.codec.latents, np.arange(len(self.labels)), self.codec.seed)
        )


@pytest.fixture(scope="module")
def released(store: Store, task: Task) -> Made:
    return Made(store, task, "released")


@pytest.fixture(scope="module")
def corrected(store: Store, task: Task) -> Made:
    return Made(store, task, "corrected")


def at(settings: Any, path: tuple[str, ...]) -> Any:
    """Return a nested setting of a preset or a method."""
    for name in path:
        settings = (
            getattr(settings, name) if isinstance(settings, Method) or hasattr(settings, name) else settings[name]
        )
    return settings


def test_presets_name_every_switch_and_differ_in_all() -> None:
    first, second = Fusion.presets["released"], Fusion.presets["corrected"]
    for name, path in SWITCHES.items():
        assert at(first, path) != at(second, path), name
    for preset in (first, second):
        method = Fusion.model_validate(preset)
        for name, path in SWITCHES.items():
            assert at(method, path) == at(preset, path), name
    assert at(first, ("codec", "temperature")) == 1


def test_the_defaults_are_the_corrected_preset() -> None:
    assert Fusion.model_validate(Fusion.presets["corrected"]) == Fusion()


def test_every_switch_moves_a_key_of_what_it_decides(task: Task) -> None:
    plain = Fusion.presets["corrected"]
    keys = {"none": Augmented.of(Fusion.model_validate(plain), task).key}
    for name, path in SWITCHES.items():
        value: Any = at(Fusion.presets["released"], path)
        for part in reversed(path):
            value = {part: value}
        keys[name] = Augmented.of(Fusion.model_validate(merged(plain, value)), task).key
    assert keys.pop("labels") == keys["none"]  # labels are another stage's: images are shared
    assert len(set(keys.values())) == len(keys)


def nearest_positions(made: Made, anchor: int) -> list[int]:
    """Return the positions, among the head-only images, of the three whose maps are nearest to the anchor's."""
    maps = {int(row): cam for row, cam in zip(made.maps.rows, made.maps.cams, strict=True)}
    apart = [(math.dist(maps[anchor].ravel(), maps[row].ravel()), p) for p, row in enumerate(made.head_only)]
    return [p for _, p in sorted(apart)[:3]]


def test_released_partners_are_positions_among_head_only_images_used_as_rows(released: Made) -> None:
    pairs, wrong = released.pairs, 0
    assert len(pairs.anchors) == len({r for rows in released.tail_rows.values() for r in rows})
    for anchor, partners in zip(pairs.anchors, pairs.partners, strict=True):
        positions = nearest_positions(released, int(anchor))
        assert partners.tolist() == positions
        wrong += positions != [released.head_only[p] for p in positions]
    assert wrong


def test_one_index_everywhere_brings_the_same_positions_back_to_rows(store: Store, task: Task) -> None:
    made = Made(store, task, "released", index_space="global")
    for anchor, partners in zip(made.pairs.anchors, made.pairs.partners, strict=True):
        assert partners.tolist() == [made.head_only[p] for p in nearest_positions(made, int(anchor))]


def test_released_samples_read_the_map_at_the_anchors_position_in_its_tail_subset(released: Made) -> None:
    fused, maps = released.fused, {int(r): cam for r, cam in zip(released.maps.rows, released.maps.cams, strict=True)}
    own_map = 0
    for i, ((anchor, partner), target) in enumerate(zip(fused.parents, released.targets, strict=True)):
        assert released.labels[anchor, target] == 1
        assert partner in nearest_positions(released, int(anchor))
        position = released.tail_rows[target].index(anchor)
        np.testing.assert_array_equal(fused.anchor_cam[i], maps[position])
        np.testing.assert_array_equal(fused.partner_cam[i], maps[partner])
        own_map += position == anchor
    assert own_map < len(fused.parents) / 2


def test_released_samples_are_claimed_to_be_of_the_class_of_the_map_read(released: Made) -> None:
    networks = released.store.get(released.codec).load(checkpoint="first")
    with torch.no_grad():
        scores = networks.classifier(networks.encode(released.latents())).numpy()
    fused = released.fused
    for anchor, target, claimed in zip(fused.parents[:, 0], released.targets, fused.claimed_class, strict=True):
        row = released.tail_rows[target].index(anchor)
        has = [c for c in TAIL_COLUMNS if released.labels[row, c] == 1]
        has = has or [c for c in HEAD_COLUMNS if released.labels[row, c] == 1] or HEAD_COLUMNS
        assert claimed == max(has, key=lambda c: scores[row, c])
    assert (fused.claimed_class != released.targets).any()


def test_label_policies_of_a_released_sample(released: Made) -> None:
    made = released.images()
    evidence = LabelEvidence.of(made, released.labels)
    np.testing.assert_array_equal(
        assign("released", evidence), np.eye(4, dtype=np.float32)[made.extras["claimed_class"]]
    )
    for policy in ("own", "union"):  # of the rows really fused
        for got, (a, b) in zip(assign(policy, evidence), made.parents, strict=True):  # type: ignore[arg-type]
            of_parents = zip(released.labels[a], released.labels[b], strict=True)
            expected = [1 if 1 in pair else np.nan if np.isnan(pair).any() else 0 for pair in of_parents]
            np.testing.assert_array_equal(got, np.array(expected, dtype=np.float32))


@pytest.mark.parametrize("checkpoint", ["last", "first"])
def test_fused_latents_are_decoded_by_the_checkpoint_asked_for(store: Store, task: Task, checkpoint: str) -> None:
    made = Made(store, task, "released", checkpoint=checkpoint)
    fused = made.fused
    for other in ("last", "first"):
        networks = store.get(made.codec).load(checkpoint=other)  # type: ignore[arg-type]
        with torch.no_grad():
            codes = networks.encode(made.latents())
            mask = torch.from_numpy(np.array(fused.mask)).bool()[:, None]
            anchors, partners = torch.from_numpy(np.array(fused.parents)).T
            expected = networks.decoder(torch.where(mask, codes[anchors], codes[partners]))
        assert np.allclose(fused.latents, expected, atol=1e-4) == (other == checkpoint)


def test_both_checkpoints_share_one_training(released: Made, store: Store, task: Task) -> None:
    last = Made(store, task, "released", checkpoint="last")
    assert last.codec.key == released.codec.key
    assert last.stage.pairs.saliency.key != released.stage.pairs.saliency.key
    assert last.stage.key != released.stage.key


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Collect what the diffusion model is asked to denoise: (latents, prompts, noise, steps, schedule, guidance)."""
    calls, denoise = [], Diffusion.denoise

    def spied(self: Diffusion, *given: Any) -> Any:
        calls.append(given)
        return denoise(self, *given)

    monkeypatch.setattr(Diffusion, "denoise", spied)
    return calls


def drawn(made: Made) -> None:
    """Make the samples again, without the store."""
    from bench.store.work import Execution, Work

    stage, unused = Augmented.of(made.method, made.task), made.store.root / "unused"
    list(made.method.augment(stage.context(Work(made.store, stage, unused, unused, Execution(device="cpu")))))


def test_released_denoising_runs_the_last_steps_on_the_fused_latent_without_noise(
    released: Made, asked: list[tuple[Any, ...]]
) -> None:
    drawn(released)
    at = 0
    for latents, prompts, noise, steps, schedule, guidance in asked:
        n = len(latents)
        np.testing.assert_array_equal(latents, released.fused.latents[at : at + n])
        parents = released.labels[released.fused.parents[at : at + n]]
        assert list(prompts) == [prompt_for(CLASS_NAMES, (p == 1).any(axis=0)) for p in parents]
        assert noise is None
        assert (steps, schedule, guidance) == (2, 10, 3.5)
        at += n
    assert at == 40


def test_prompts_of_tail_classes_name_the_anchors_alone(store: Store, task: Task, asked: list[tuple[Any, ...]]) -> None:
    made = Made(store, task, "corrected", prompt="tail_only")
    drawn(made)
    anchors = made.labels[made.fused.parents[:, 0]]
    expected = [
        prompt_for(CLASS_NAMES, [c in TAIL_COLUMNS and label == 1 for c, label in enumerate(row)]) for row in anchors
    ]
    assert [text for call in asked for text in call[1]] == expected
    assert all(call[2] is not None for call in asked)


def rule(**settings: Any) -> Callable[..., tuple[float, float]]:
    """Return (q1, q2) as a function of both maps, the sample's generator and (seed, class)."""
    fusion = FusionSettings(**settings)
    return lambda *given: thresholds(fusion, *given)


def test_released_thresholds_are_one_normal_draw_a_tail_class() -> None:
    nothing, draw = np.zeros((4, 4), dtype=np.float32), rule(**Fusion.presets["released"]["fusion"])
    per_class = [[draw(nothing, nothing, np.random.default_rng(s), (seed, 2)) for s in (0, 1)] for seed in range(400)]
    assert all(a == b for a, b in per_class)  # whatever the sample
    for q in zip(*(a for a, _ in per_class), strict=True):
        assert stats.kstest(q, "norm", args=(0.5, 0.1)).pvalue > 0.01
    high, low = zip(*(a for a, _ in per_class), strict=True)
    assert abs(stats.pearsonr(high, low).statistic) < 0.15
    other = [draw(nothing, nothing, np.random.default_rng(0), (seed, 3))[0] for seed in range(400)]
    assert abs(stats.pearsonr(high, other).statistic) < 0.15


def test_thresholds_per_sample_differ_between_samples_of_a_class() -> None:
    nothing, draw = np.zeros((4, 4), dtype=np.float32), rule(thresholds="per_sample")
    q = [draw(nothing, nothing, np.random.default_rng(s), (0, 2)) for s in range(400)]
    for values in zip(*q, strict=True):
        assert stats.kstest(values, "norm", args=(0.5, 0.1)).pvalue > 0.01


def test_quantile_thresholds_take_that_share_of_each_map() -> None:
    rng = np.random.default_rng(0)
    draw = rule(thresholds="quantile", cam_high=0.75, cam_low=0.25)
    for scale in (1.0, 0.01):
        anchor, partner = (scale * rng.random((2, 20, 20))).astype(np.float32)
        high, low = draw(anchor, partner, rng, (0, 2))
        assert sum(v > high for v in anchor.ravel()) == 100
        assert sum(v < low for v in partner.ravel()) == 100


def test_a_quantile_sample_is_decided_by_its_own_maps(store: Store, task: Task) -> None:
    made = Made(store, task, "corrected", fusion={"thresholds": "quantile", "cam_high": 0.7, "cam_low": 0.4})
    for anchor, partner, mask in zip(made.fused.anchor_cam, made.fused.partner_cam, made.fused.mask, strict=True):
        specific, generic = anchor > np.quantile(anchor, 0.7), partner < np.quantile(partner, 0.4)
        assert mask[specific & ~generic].all()
        assert not mask[generic & ~specific].any()


@pytest.mark.parametrize("by", ["code", "latent"])
def test_neighbours_by_code_or_latent_equal_a_loop(store: Store, task: Task, by: str) -> None:
    made = Made(store, task, "corrected", pairing={"by": by, "k_neighbors": 2})
    vectors = made.latents()
    if by == "code":
        codec = store.get(made.codec).load()  # which may have to be trained first, with gradients
        with torch.no_grad():
            vectors = codec.encode(vectors)
    for anchor, partners, distances in zip(made.pairs.anchors, made.pairs.partners, made.pairs.distances, strict=True):
        apart = sorted((math.dist(vectors[anchor].ravel(), vectors[r].ravel()), r) for r in made.head_only)[:2]
        assert partners.tolist() == [row for _, row in apart]
        np.testing.assert_allclose(distances, [d for d, _ in apart], rtol=1e-4)


def test_corrected_samples_read_their_own_maps_and_are_of_their_target(corrected: Made) -> None:
    fused, maps = corrected.fused, corrected.maps
    by_row_and_class = {(int(r), int(c)): cam for r, c, cam in zip(maps.rows, maps.classes, maps.cams, strict=True)}
    for i, (anchor, partner) in enumerate(np.array(fused.parents).tolist()):
        np.testing.assert_array_equal(fused.anchor_cam[i], by_row_and_class[anchor, int(corrected.targets[i])])
        assert partner in corrected.head_only
    np.testing.assert_array_equal(fused.claimed_class, corrected.targets)


def test_the_whole_released_method_runs_from_its_preset(released: Made) -> None:
    made = released.images()
    assert len(made) == 40
    assert made.images.std() > 0
