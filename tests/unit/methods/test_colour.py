"""Methods that mix pixels do the same to each colour as to a grey image."""

import numpy as np
import pytest

from bench.augment.augmented import checked
from bench.contract import Context
from bench.tables import ImageRows, TrainSet
from methods.cutpaste import pasted
from methods.remix import Remix
from methods.smote import Smote
from tests.unit.methods.smote_fixtures import neighbours_by_cdist

DRAW = np.random.default_rng(0)
IMAGES = DRAW.integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)
LABELS = (DRAW.random((40, 3)) < [0.5, 0.4, 0.3]).astype(np.float32)


def context() -> Context:
    train = TrainSet(ImageRows(IMAGES), LABELS, ("a", "b", "c"), ("a",), ("b", "c"))
    inputs = {"neighbours": neighbours_by_cdist(train, Smote().k_neighbors)}
    return Context(train, {"b": 20, "c": 20}, np.repeat([1, 2], 20), inputs, seed=3)


@pytest.mark.parametrize("method", [Smote(), Remix()], ids=["smote", "remix"])
def test_a_blend_weighs_all_colours_of_a_parent_alike(method):
    batches = list(checked(method, context()))
    for batch in batches:
        for image, parents, share in zip(batch.images, batch.parents, batch.extras["parent_share"], strict=True):
            first, second = IMAGES[parents[0]].astype(float), IMAGES[parents[1]].astype(float)
            assert np.abs(image - (share[0] * first + share[1] * second)).max() <= 0.501
    assert sum(len(batch.images) for batch in batches) == 40


def test_pixels_are_pasted_with_their_colours():
    share = (DRAW.random((6, 8, 8)) < 0.5).astype(np.float32)
    found = pasted(IMAGES[:6], IMAGES[6:12], share)
    for i, y, x in np.ndindex(6, 8, 8):
        np.testing.assert_array_equal(found[i, y, x], IMAGES[i if share[i, y, x] else i + 6, y, x])
