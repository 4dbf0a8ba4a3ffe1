"""What is done piece by piece, so that a large data set fits, gives what it gives in one go."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bench.classifier import networks
from bench.evaluation.extractors import OracleExtractor, extract_all
from bench.evaluation.fidelity import RealFeatures
from bench.metrics.manifold import nearest_distances
from bench.store.store import Store
from bench.testing.toy import ToyDataset


def test_real_features_of_several_batches_are_those_of_all_images(tmp_path):
    store, dataset, extractor = Store(tmp_path), ToyDataset(n_images=150), OracleExtractor()
    found = store.get(RealFeatures(dataset=dataset, extractor=extractor))

    class Anywhere:
        device = "cpu"

    want = extract_all(extractor.load(Anywhere()), store.get(dataset).images, batch_size=64)
    assert isinstance(found.features, np.memmap)
    assert np.array_equal(found.features, want.features)
    assert np.array_equal(found.positives, want.positives)


@pytest.mark.parametrize("block", [1, 7, 40, 64])
def test_nearest_distances_do_not_depend_on_the_block(block):
    rng = np.random.default_rng(0)
    queries, among = rng.standard_normal((9, 4)).astype(np.float32), rng.standard_normal((60, 4)).astype(np.float32)
    rows = rng.permutation(60)[:40]
    parents = np.stack([rng.integers(0, 40, 9), np.full(9, -1)], axis=1)
    parents[:3, 0] = np.argmin(np.linalg.norm(queries[:3, None] - among[rows], axis=2), axis=1)  # the nearest itself
    found = nearest_distances(queries, among, parents, rows, block=block)
    for one, want in zip(found, nearest_distances(queries, among[rows], parents), strict=True):
        assert one == pytest.approx(want, rel=1e-5)
    assert (found[1][:3] > found[0][:3]).all()


def test_outputs_of_several_batches_stand_in_the_images_order(monkeypatch):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 2))
    images = np.random.default_rng(0).integers(0, 256, (23, 32, 32), dtype=np.uint8)
    whole = networks.in_batches(network, images, None, "cpu")
    monkeypatch.setattr(networks, "_batch_size", lambda images, px, device: 5)
    pieces = networks.in_batches(network, images, None, "cpu")
    assert pieces.shape == (23, 2)
    assert pieces == pytest.approx(whole, abs=1e-5)
