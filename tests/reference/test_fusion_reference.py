"""Maps, neighbours and masks of `methods.fusion` against the grad-cam library and plain loops."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from bench.augment.prompt_saliency import soft_mask
from bench.augment.saliency_table import NO_CLASS, SaliencyTable
from methods.fusion.cams import class_activation_maps, normalised, principal_component
from methods.fusion.fuse import FusionSettings, fuse, fusion_mask
from methods.fusion.networks import CodeClassifier, build_classifier
from methods.fusion.pairing import PairingSettings, head_labels_apart, pair
from methods.fusion.saliency import targets
from methods.fusion.settings import CodecSettings
from tests.unit.methods.fusion_fixtures import toy_train


@pytest.fixture
def classifier() -> CodeClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return CodeClassifier(8, 4, 8).eval()


@pytest.fixture
def codes() -> torch.Tensor:
    logits = torch.randn(6, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    return (3 * logits).softmax(dim=1)


@pytest.mark.parametrize("layers", [slice(-1, None), slice(0, None)])
@pytest.mark.parametrize(
    ("cam_method", "library"), [("gradcam", "GradCAM"), ("hirescam", "HiResCAM"), ("layercam", "LayerCAM")]
)
def test_maps_equal_the_librarys(
    classifier: CodeClassifier, codes: torch.Tensor, cam_method: str, library: str, layers: slice
) -> None:
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classes = torch.tensor([0, 1, 2, 3, 0, 1])
    chosen = list(classifier.features)[layers]
    with getattr(pytorch_grad_cam, library)(model=classifier, target_layers=chosen) as cam:
        expected = cam(
            input_tensor=codes.clone().requires_grad_(), targets=[ClassifierOutputTarget(int(c)) for c in classes]
        )
    found = class_activation_maps(cam_method, classifier, chosen, codes, classes)
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("layers", [slice(-1, None), slice(0, None)])
def test_score_cam_equals_the_librarys(classifier: CodeClassifier, codes: torch.Tensor, layers: slice) -> None:
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classes, chosen = torch.tensor([3, 0, 1]), list(classifier.features)[layers]
    with ScoreCAM(model=classifier, target_layers=chosen) as cam:
        expected = cam(input_tensor=codes[:3], targets=[ClassifierOutputTarget(int(c)) for c in classes])
    found = class_activation_maps("scorecam", classifier, chosen, codes[:3], classes)
    np.testing.assert_allclose(found, expected, atol=2e-4)


@pytest.mark.parametrize("shape", [(5, 8, 16, 16), (5, 40, 4, 4)], ids=["fewer channels", "fewer sites"])
def test_principal_component_is_the_librarys_up_to_the_sign_rule(shape: tuple[int, ...]) -> None:
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    activations = torch.randn(shape, generator=torch.Generator().manual_seed(2)).relu()
    found, library = principal_component(activations), get_2d_projection(activations.numpy())
    for own, other, activation in zip(found.numpy(), library, activations.numpy(), strict=True):
        np.testing.assert_allclose(own, other * np.sign((own * other).sum()), atol=1e-4)
        sites = activation.reshape(len(activation), -1).T
        loadings = np.linalg.svd(sites - sites.mean(axis=0))[2][0]
        assert (sites @ loadings) @ own.ravel() * loadings.sum() >= 0
        assert np.corrcoef(own.ravel(), sites.mean(axis=1))[0, 1] >= 0


def test_eigencam_is_the_librarys_map_of_the_signed_component(classifier: CodeClassifier, codes: torch.Tensor) -> None:
    from pytorch_grad_cam import EigenCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    for layer in classifier.features:
        with EigenCAM(model=classifier, target_layers=[layer]) as cam:
            library = torch.from_numpy(cam(input_tensor=codes, targets=[ClassifierOutputTarget(0)] * len(codes)))
        found = class_activation_maps("eigencam", classifier, [layer], codes, torch.zeros(6, dtype=torch.long))
        # where the signs agree the maps do; else theirs is of the component turned round
        same = (found - library).abs().amax(dim=(1, 2)) < 2e-4
        with torch.no_grad():
            activation = torch.nn.Sequential(*classifier.features[: list(classifier.features).index(layer) + 1])(codes)
        turned = normalised((-principal_component(activation)).relu()[:, None])
        turned = torch.nn.functional.interpolate(turned, size=codes.shape[-2:], mode="bilinear")
        torch.testing.assert_close(normalised(turned)[~same, 0], library[~same], atol=2e-4, rtol=0)


def test_a_flat_layer_has_no_principal_component() -> None:
    assert torch.equal(principal_component(torch.ones(2, 5, 4, 4)), torch.zeros(2, 4, 4))


@pytest.mark.parametrize(
    "cam_method", ["gradcam", "hirescam", "layercam", "eigencam", "scorecam", "gradcam++", "xgradcam"]
)
def test_maps_are_at_latent_resolution_and_in_the_unit_range(
    classifier: CodeClassifier, codes: torch.Tensor, cam_method: str
) -> None:
    before = [p.clone() for p in classifier.parameters()]
    maps = class_activation_maps(
        cam_method, classifier, [classifier.features[-1]], codes, torch.zeros(6, dtype=torch.long)
    )
    assert maps.shape == (6, 16, 16)
    assert maps.dtype == torch.float32
    assert maps.min() >= 0
    assert maps.max() == 1
    assert all(torch.equal(a, b) for a, b in zip(before, classifier.parameters(), strict=True))


def test_class_conditional_maps_differ_between_classes_and_eigencam_does_not(
    classifier: CodeClassifier, codes: torch.Tensor
) -> None:
    def maps(cam_method: str, c: int) -> torch.Tensor:
        return class_activation_maps(cam_method, classifier, [classifier.features[-1]], codes, torch.full((6,), c))

    for cam_method in ("gradcam", "hirescam", "layercam"):
        assert (maps(cam_method, 0) - maps(cam_method, 2)).abs().max() > 0.2, cam_method
    torch.testing.assert_close(maps("eigencam", 0), maps("eigencam", 2))


def test_a_score_that_nothing_raises_gives_an_empty_map(classifier: CodeClassifier, codes: torch.Tensor) -> None:
    torch.nn.init.constant_(classifier.head.weight, -1.0)
    maps = class_activation_maps(
        "gradcam", classifier, [classifier.features[-1]], codes, torch.zeros(6, dtype=torch.long)
    )
    assert torch.equal(maps, torch.zeros(6, 16, 16))


def test_maps_of_a_torchvision_classifier() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_classifier(CodecSettings(classifier="densenet121"), 6, 3).eval()
    codes = torch.randn(2, 6, 64, 64).softmax(dim=1)
    maps = class_activation_maps("layercam", network, [list(network.features)[-1]], codes, torch.tensor([0, 2]))  # type: ignore[arg-type]
    assert maps.shape == (2, 64, 64)
    assert maps.min() >= 0
    assert maps.max() <= 1


def saliency_table(cam_target: str = "each") -> tuple[SaliencyTable, np.ndarray]:
    train = toy_train(60)
    scores = np.random.default_rng(2).standard_normal((60, 4)).astype(np.float32)
    rows, classes = targets(train, scores, cam_target)
    cams = np.random.default_rng(3).random((len(rows), 4, 4)).astype(np.float32)
    return SaliencyTable(cams, rows, classes), scores


def test_neighbours_equal_a_brute_force_loop_over_train_rows() -> None:
    train, (table, _) = toy_train(60), saliency_table()
    found = pair(train, table, PairingSettings(k_neighbors=3))
    tail = train.tail_index
    assert len(found.anchors) == int((train.labels[:, tail] == 1).sum())
    for anchor, target_class, partners, distances in zip(
        found.anchors, found.classes, found.partners, found.distances, strict=True
    ):
        assert train.labels[anchor, target_class] == 1
        own = table.cams[table.entry(anchor, target_class)]
        loop = []
        for row in range(len(train)):
            if not any(train.labels[row, c] == 1 for c in tail):
                (at,) = table.entries(row)
                loop.append((math.dist(own.ravel(), table.cams[at].ravel()), row))
        nearest = sorted(loop)[:3]
        assert [row for _, row in nearest] == partners.tolist()
        np.testing.assert_allclose(distances, [d for d, _ in nearest], rtol=1e-4)
        assert found.of(anchor, target_class).tolist() == partners.tolist()


def test_searching_block_by_block_finds_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    train, (table, _) = toy_train(60), saliency_table()
    whole = pair(train, table, PairingSettings(k_neighbors=4))
    monkeypatch.setattr("methods.fusion.pairing._AT_ONCE", 3)
    blocks = pair(train, table, PairingSettings(k_neighbors=4))
    np.testing.assert_array_equal(blocks.partners, whole.partners)
    np.testing.assert_allclose(blocks.distances, whole.distances, rtol=1e-6)


def test_random_partners_are_any_head_only_rows_each_once() -> None:
    train, (table, _) = toy_train(60), saliency_table()
    head_only = {row for row in range(60) if not (train.labels[row, train.tail_index] == 1).any()}
    settings = PairingSettings(by="random", k_neighbors=5)
    found = [pair(train, table, settings, seed=seed) for seed in range(30)]
    drawn = np.concatenate([f.partners.ravel() for f in found])
    assert set(drawn) == head_only
    assert all(len(set(partners)) == 5 for f in found for partners in f.partners)
    expected = len(drawn) / len(head_only)
    assert np.abs(np.unique(drawn, return_counts=True)[1] - expected).max() < 5 * np.sqrt(expected)
    own = table.cams[table.entry(found[0].anchors[0], found[0].classes[0])]
    for row, distance in zip(found[0].partners[0], found[0].distances[0], strict=True):
        assert math.dist(own.ravel(), table.cams[table.entries(row)[0]].ravel()) == pytest.approx(distance, rel=1e-4)


def test_fewer_candidates_than_k_give_them_all_and_none_gives_none() -> None:
    train, (table, _) = toy_train(60), saliency_table()
    settings = PairingSettings(k_neighbors=3)
    one_left = train.labels.copy()
    one_left[:, 2] = 1
    one_left[7] = [1, 0, 0, 0]
    assert set(pair(replace(train, labels=one_left), table, settings).partners.ravel()) == {7}
    one_left[7, 2] = 1
    assert pair(replace(train, labels=one_left), table, settings).partners.shape[1] == 0


def test_targets_are_every_tail_class_or_the_best_scored() -> None:
    train, (table, scores) = toy_train(60), saliency_table()
    best, _ = saliency_table("best")
    for row, labels in enumerate(train.labels):
        own = [c for c in train.tail_index if labels[c] == 1]
        head = [c for c in train.head_index if labels[c] == 1] or train.head_index
        expected = own or [max(head, key=lambda c: scores[row, c])]
        assert table.classes[table.entries(row)].tolist() == expected
        assert best.classes[best.entries(row)].tolist() == [max(expected, key=lambda c: scores[row, c])]


def test_the_mask_follows_the_rule_site_by_site() -> None:
    rng = np.random.default_rng(4)
    anchor, partner = rng.random((2, 12, 9)).astype(np.float32)
    high, low = 0.6, 0.3
    found = fusion_mask(anchor, partner, high, low, np.random.default_rng(9))
    replay = np.random.default_rng(9)
    coins = replay.random((12, 9))
    rate = replay.random()
    for y in range(12):
        for x in range(9):
            if anchor[y, x] > high and not partner[y, x] < low:
                expected = True
            elif partner[y, x] < low and not anchor[y, x] > high:
                expected = False
            else:
                expected = coins[y, x] < rate
            assert found[y, x] == expected


def test_undecided_sites_are_taken_at_a_rate_drawn_uniformly_per_sample() -> None:
    nothing = np.zeros((24, 24), dtype=np.float32)
    shares = [fusion_mask(nothing, nothing + 1, 0.5, 0.5, np.random.default_rng(i)).mean() for i in range(400)]
    np.testing.assert_allclose(np.quantile(shares, [0.1, 0.5, 0.9]), [0.1, 0.5, 0.9], atol=0.08)


def test_fused_codes_are_the_anchors_under_the_mask_and_the_partners_elsewhere() -> None:
    anchor, partner = torch.randn(2, 2, 3, 4, 4)
    masks = torch.rand(2, 4, 4) > 0.5
    fused = fuse(anchor, partner, masks)
    for i in range(2):
        for y in range(4):
            for x in range(4):
                source = anchor if masks[i, y, x] else partner
                assert torch.equal(fused[i, :, y, x], source[i, :, y, x])


@pytest.mark.parametrize("by", ["cam", "random"])
@pytest.mark.parametrize("at_once", [2, 512])
def test_matched_partners_are_those_with_the_nearest_head_labels(
    by: str, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("methods.fusion.pairing._AT_ONCE", at_once)
    train, (table, _) = toy_train(60), saliency_table()
    settings = PairingSettings.model_validate({"match": "head_labels", "by": by, "k_neighbors": 7})
    found = pair(train, table, settings, seed=5)
    labels = np.nan_to_num(train.labels)[:, train.head_index]
    head_only = [row for row in range(60) if not (train.labels[row, train.tail_index] == 1).any()]
    apart = head_labels_apart(train, found.anchors, found.partners)
    for i, (anchor, c) in enumerate(zip(found.anchors, found.classes, strict=True)):
        own = table.cams[table.entry(anchor, c)].ravel()
        loop = sorted(
            (sum(abs(labels[row] - labels[anchor])), math.dist(own, table.cams[table.entries(row)[0]].ravel()), row)
            for row in head_only
        )
        assert apart[i].tolist() == [d for d, _, _ in loop[:7]]
        assert len(set(found.partners[i])) == 7
        assert set(found.partners[i]) <= set(head_only)
        if by == "cam":
            assert found.partners[i].tolist() == [row for _, _, row in loop[:7]]


def test_random_partners_without_maps_have_no_distance() -> None:
    train, (table, _) = toy_train(60), saliency_table()
    of_tail = np.isin(table.classes, train.tail_index)
    bare = replace(table, classes=np.where(of_tail, table.classes, NO_CLASS))
    found = pair(train, bare, PairingSettings(by="random"), seed=1)
    assert np.isnan(found.distances).all()


def test_a_soft_mask_rises_evenly_and_weighs_the_parents() -> None:
    cam = np.array([[0.0, 0.2, 0.3], [0.4, 0.5, 1.0]], np.float32)
    mask = soft_mask(cam, 0.2, 0.4)
    np.testing.assert_allclose(mask, [[0, 0, 0.5], [1, 1, 1]], atol=1e-6)
    rng = np.random.default_rng(0)
    anchor, partner = rng.standard_normal((2, 1, 4, 2, 3)).astype(np.float32)
    fused = fuse(*(torch.from_numpy(a) for a in (anchor, partner, mask[None]))).numpy()
    for k, y, x in np.ndindex(4, 2, 3):
        expected = float(mask[y, x]) * anchor[0, k, y, x] + (1 - float(mask[y, x])) * partner[0, k, y, x]
        assert fused[0, k, y, x] == pytest.approx(expected, abs=1e-6)


def test_thresholds_of_a_soft_mask_must_rise() -> None:
    with pytest.raises(ValidationError, match=r"soft_from: 0\.6 is not below soft_to = 0\.5"):
        FusionSettings(soft_from=0.6)
