"""What the networks of the classifier are given, against torchvision's own transforms."""

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from bench.classifier import networks
from bench.classifier.training import shifted

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (4, 32, 32), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
BOTH = pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])
TORCHVISIONS = v2.Compose(
    [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


@BOTH
def test_the_input_is_torchvisions(images):
    found = networks.to_input(images, None, "cpu")
    expected = torch.stack([TORCHVISIONS(Image.fromarray(image).convert("RGB")) for image in images])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_each_colour_is_resized_on_its_own():
    found = networks.to_input(COLOUR, 48, "cpu")
    for k in range(3):
        torch.testing.assert_close(found[:, k], networks.to_input(COLOUR[..., k], 48, "cpu")[:, k], atol=1e-5, rtol=0)


@BOTH
def test_the_output_does_not_depend_on_the_batch(images):
    network = networks.build("resnet18", 3, seed=0).eval()
    together = networks.in_batches(network, images, None, "cpu")
    alone = np.concatenate([networks.in_batches(network, images[[i]], None, "cpu") for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-4)
    if images is COLOUR:
        other = networks.in_batches(network, images[..., ::-1], None, "cpu")
        assert np.abs(other - together).max() > 1e-3, "red is not blue"


@BOTH
def test_a_shift_moves_the_whole_image(images):
    found = shifted(images, 3, np.random.default_rng(1))
    assert found.shape == images.shape
    for image, moved in zip(images, found, strict=True):
        padded = np.stack([np.pad(p, 3, mode="edge") for p in image.reshape(32, 32, -1).transpose(2, 0, 1)], axis=-1)
        places = [(y, x) for y in range(7) for x in range(7)]
        windows = [padded[y : y + 32, x : x + 32].reshape(image.shape) for y, x in places]
        assert sum(np.array_equal(moved, window) for window in windows) == 1
