"""The rule about colour: shapes, luma, planes, what a VAE is given and gives back, and pictures of many images."""

import numpy as np
import pytest
import torch
from PIL import Image

from bench import pixels

DRAW = np.random.default_rng(0)
GREY = DRAW.integers(0, 256, (5, 8, 8), dtype=np.uint8)
COLOUR = DRAW.integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
BOTH = pytest.mark.parametrize("images", [GREY, COLOUR], ids=["grey", "colour"])


@pytest.mark.parametrize(
    ("array", "are"),
    [
        (GREY, True),
        (COLOUR, True),
        (GREY[:0], True),
        (GREY[0], False),
        (GREY[:, :, :7], False),
        (COLOUR[..., :2], False),
        (COLOUR[:, :, :7], False),
        (np.zeros((5, 8, 8, 3), np.float32), False),
        (np.zeros(3, np.uint8), False),
    ],
)
def test_images_are_square_bytes_with_no_or_three_colours(array, are):
    assert pixels.are_images(array) == are


def test_luma_is_pillows_and_leaves_grey_as_it_is():
    extremes = np.array([[[[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 0], [0, 0, 255], [1, 0, 0]]]], np.uint8)
    for images in (COLOUR, extremes):
        expected = [np.asarray(Image.fromarray(image).convert("L")) for image in images]
        np.testing.assert_array_equal(pixels.luma(images), expected)
    assert pixels.luma(GREY) is GREY


@BOTH
def test_planes_are_channels_first_and_come_back(images):
    planes = pixels.to_planes(images)
    for i, image in enumerate(images):
        bands = Image.fromarray(image).split()
        assert planes.shape[1] == len(bands)
        for k, band in enumerate(bands):
            np.testing.assert_array_equal(planes[i, k], np.asarray(band))
    np.testing.assert_array_equal(pixels.from_planes(planes), images)
    planes += 1
    assert (pixels.from_planes(planes) != images).all(), "a copy: the caller's images do not change"


@BOTH
def test_a_vae_that_loses_nothing_gives_the_images_back(images):
    given = pixels.to_vae(images)
    assert given.shape == (5, 3, 8, 8)
    assert (given.min(), given.max()) == (images.min() / 127.5 - 1, images.max() / 127.5 - 1)
    np.testing.assert_array_equal(pixels.from_vae(given, pixels.has_colour(images)), images)


def test_grey_is_the_mean_of_what_a_vae_decodes():
    decoded = torch.from_numpy(DRAW.uniform(-1.5, 1.5, (4, 3, 8, 8)).astype(np.float32))
    in_levels = (decoded.double().mean(1).numpy() + 1) * 127.5
    assert np.abs(pixels.from_vae(decoded, False) - in_levels.clip(0, 255)).max() <= 0.501
    in_levels = (decoded.double().permute(0, 2, 3, 1).numpy() + 1) * 127.5
    assert np.abs(pixels.from_vae(decoded, True) - in_levels.clip(0, 255)).max() <= 0.501


@BOTH
@pytest.mark.parametrize("shape", [(5,), (5, 8, 8)])
def test_values_multiply_each_image_or_pixel_by_its_own(images, shape):
    values = DRAW.random(shape).astype(np.float32)
    found = pixels.over_images(values, images) * images
    for i in range(5):
        for y, x in np.ndindex(8, 8):
            np.testing.assert_array_equal(
                found[i, y, x], (values[i] if len(shape) == 1 else values[i, y, x]) * images[i, y, x]
            )


@BOTH
def test_a_mosaic_holds_each_image_at_its_place_and_black_elsewhere(images):
    found = pixels.mosaic([images[:2], images[2:5]], 3)
    assert found.shape[:2] == (16, 24)
    for (r, c), image in zip([(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)], images, strict=True):
        np.testing.assert_array_equal(found[8 * r : 8 * r + 8, 8 * c : 8 * c + 8], image)
    assert not found[:8, 16:].any()
