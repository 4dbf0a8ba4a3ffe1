"""The detail that a VAE loses: what is lost and added back gives the image itself."""

from __future__ import annotations

import numpy as np
import pytest

from bench.augment.augmented import Augmented
from bench.contract import Plan, at_pixels, lost_detail, with_detail
from bench.store.store import Store
from bench.store.work import Execution, Work
from bench.testing.toy import toy_task
from methods.sdedit import Sdedit


def test_a_rebuilt_image_with_its_own_detail_is_the_image(tmp_path_factory: pytest.TempPathFactory) -> None:
    root = tmp_path_factory.mktemp("stages")
    stage = Augmented.of(Sdedit(), toy_task(plan=Plan(per_class=2)))
    ctx = stage.context(Work(Store(root), stage, root / "out", root / "ckpt", Execution()))
    rows = np.array([3, 0, 3, 7])
    rebuilt = ctx.diffusion.decode(ctx.inputs["latents"].mean[rows])
    lost = lost_detail(ctx, ctx.inputs["latents"], rows)
    assert np.abs(lost).max() > 1
    np.testing.assert_array_equal(with_detail(rebuilt, lost), ctx.train.images[rows])


def test_detail_is_rounded_and_cut_off() -> None:
    images = np.array([[[0, 10, 250, 100]]], np.uint8)
    detail = np.array([[[-3.0, 0.6, 9.0, -0.4]]], np.float32)
    assert with_detail(images, detail).tolist() == [[[0, 11, 255, 100]]]


def test_masks_at_the_size_of_the_images_keep_constants_ranges_and_means() -> None:
    mask = np.random.default_rng(0).random((3, 4, 4)).astype(np.float32)
    found = at_pixels(mask, 16)
    assert found.shape == (3, 16, 16)
    np.testing.assert_array_equal(at_pixels(np.ones((1, 4, 4), np.float32), 16), np.ones((1, 16, 16)))
    assert found.min() >= mask.min()
    assert found.max() <= mask.max()
    # The middle of pixel 6 lies an eighth of the way from site 1 to site 2.
    near, far = 0.875, 0.125
    expected = near**2 * mask[:, 1, 1] + near * far * (mask[:, 1, 2] + mask[:, 2, 1]) + far**2 * mask[:, 2, 2]
    np.testing.assert_allclose(found[:, 6, 6], expected, rtol=1e-5)
