"""Cut and paste: pairs and masks are those of `ours`, pixels are those of real images."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from bench.augment.augmented import Augmented
from bench.contract import PromptSaliencySettings, Task, train_set
from bench.pipeline.stage import walk
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.tables import AugmentedSet, TrainSet
from methods.cutpaste import CutPaste, pasted
from methods.fusion import Fusion
from methods.fusion.fuse import FusionSettings
from methods.fusion.pairing import PairingSettings
from methods.fusion.saliency import SaliencySettings
from methods.fusion.settings import CodecSettings
from tests.unit.methods.fusion_fixtures import tiny_pipeline, toy_task

# Maps by prompts need no codec, so they are quick.
QUICK: dict[str, Any] = {
    "saliency": SaliencySettings(source="prompt", prompt=PromptSaliencySettings(n_draws=1)),
    "pairing": PairingSettings(match="head_labels", by="random", k_neighbors=5),
}
SOFT, HARD = (QUICK | {"fusion": FusionSettings(space="latent", mask=mask)} for mask in ("soft", "hard"))


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    return toy_task(tiny_pipeline(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def train(task: Task, store: Store) -> TrainSet:
    return train_set(Work(store, task.train, store.root / "no", store.root / "no", Execution()), task.train)


def made(store: Store, task: Task, method: CutPaste | Fusion) -> AugmentedSet:
    return store.get(Augmented.of(method, task))


@pytest.mark.parametrize("preset", [None, "released", "corrected", "prompted"])
def test_all_stages_are_those_of_ours_with_the_same_settings(task: Task, preset: str | None) -> None:
    """Nothing is computed twice: the row adds its own images, and no other stage."""
    of_ours = Fusion(**(Fusion.presets[preset] if preset else {}))
    pasting = CutPaste(**(CutPaste.presets[preset] if preset else {}))
    assert pasting.inputs(task)["fused"].key == of_ours.inputs(task)["fused"].key
    assert pasting.diagnostics(task).key == of_ours.diagnostics(task).key
    shared = {stage.key for stage in walk([Augmented.of(of_ours, task)])}
    added = [stage for stage in walk([Augmented.of(pasting, task)]) if stage.key not in shared]
    assert [type(stage).__name__ for stage in added] == ["Augmented"]


def test_another_mask_is_another_stage(task: Task) -> None:
    keys = {CutPaste(**settings).inputs(task)["fused"].key for settings in (SOFT, HARD, {})}
    assert len(keys) == 3
    assert CutPaste(codec=CodecSettings(vocab_size=8)).inputs(task)["fused"].key not in keys


def test_hard_masks_take_each_pixel_from_one_parent(store: Store, task: Task, train: TrainSet) -> None:
    found, of_ours = (made(store, task, cls(**HARD)) for cls in (CutPaste, Fusion))
    np.testing.assert_array_equal(found.parents, of_ours.parents)
    np.testing.assert_array_equal(found.extras["mask"], of_ours.extras["mask"])
    side = train.images.image_px // found.extras["mask"].shape[1]
    anchors, partners = (train.images[rows] for rows in found.parents.T)
    for image, anchor, partner, mask in zip(found.images, anchors, partners, found.extras["mask"], strict=True):
        for y, x in np.ndindex(image.shape):
            assert image[y, x] == (anchor if mask[y // side, x // side] else partner)[y, x]
    assert 0 < found.extras["mask"].mean() < 1


def test_a_soft_edge_interpolates_between_sites(store: Store, task: Task, train: TrainSet) -> None:
    hard, soft = (made(store, task, CutPaste(**HARD, edge=edge)) for edge in ("hard", "soft"))
    np.testing.assert_array_equal(hard.extras["mask"], soft.extras["mask"])
    anchors, partners = (train.images[rows].astype(int) for rows in soft.parents.T)
    assert (soft.images >= np.minimum(anchors, partners)).all()
    assert (soft.images <= np.maximum(anchors, partners)).all()
    assert (soft.images != hard.images).any()
    mask, side = soft.extras["mask"].astype(bool), train.images.image_px // soft.extras["mask"].shape[1]
    inside = np.lib.stride_tricks.sliding_window_view(
        np.pad(mask, ((0, 0), (1, 1), (1, 1)), mode="edge"), (3, 3), (1, 2)
    )
    far = inside.all((3, 4)).repeat(side, 1).repeat(side, 2)  # sites whose neighbours are all the anchor's
    np.testing.assert_array_equal(soft.images[far], anchors[far])


def test_soft_masks_weigh_the_parents(store: Store, task: Task, train: TrainSet) -> None:
    found = made(store, task, CutPaste(**SOFT))
    mask = found.extras["mask"]
    side = train.images.image_px // mask.shape[1]
    share = np.kron(mask.astype(float), np.ones((1, side, side)))
    anchors, partners = (train.images[rows].astype(float) for rows in found.parents.T)
    assert np.abs(found.images - (share * anchors + (1 - share) * partners)).max() <= 0.51
    np.testing.assert_allclose(found.extras["parent_share"][:, 0], mask.mean(axis=(1, 2)), atol=1e-6)
    np.testing.assert_array_equal(found.extras["claimed_class"], found.target_class)


def test_pasting_keeps_the_pixels_of_either_parent_as_they_are() -> None:
    rng = np.random.default_rng(0)
    anchors, partners = rng.integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    share = (rng.random((3, 8, 8)) < 0.5).astype(np.float32)
    np.testing.assert_array_equal(pasted(anchors, partners, share), np.where(share == 1, anchors, partners))
    np.testing.assert_array_equal(pasted(anchors, anchors, rng.random((3, 8, 8), dtype=np.float32)), anchors)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="'hard' or 'soft'"):
        CutPaste(edge="feathered")
    with pytest.raises(ValidationError, match="denoise_steps"):
        CutPaste(denoise_steps=5)
