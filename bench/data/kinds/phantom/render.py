"""Draw one phantom radiograph: a healthy chest, its findings, distractors, and the exposure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.kinds.phantom.anatomy import Field, Scene, bell, curve, draw_body, jitter_body, pixel_grid, stroke
from bench.data.kinds.phantom.chest import build_scene, healthy
from bench.data.kinds.phantom.labels import facts, generator, strengths
from bench.data.kinds.phantom.settings import CLASS_NAMES, PhantomSettings
from bench.data.kinds.phantom.tail_findings import FINDINGS

GRAIN_PX = 64  # noise is drawn on this grid and then resized, so that an image is alike at every resolution
MASK_LEVEL = 0.35  # a pixel is in a finding's mask if it changes by more than this share of the largest change


@dataclass(frozen=True)
class Rendered:
    """An image with everything that is known about it.

    Attributes:
        image: `uint8 [R, R]`.
        true_labels: `bool [C]`, the findings that were drawn.
        observed_labels: `bool [C]`, the findings that a reader who makes mistakes wrote down.
        masks: `bool [C, R, R]`, |delta| > 0.35 max |delta|; None if masks were not asked for.
        patient: the patient number.
    """

    image: NDArray[np.uint8]
    true_labels: NDArray[np.bool_]
    observed_labels: NDArray[np.bool_]
    masks: NDArray[np.bool_] | None
    patient: int


def smooth_noise(rng: np.random.Generator, sigma: float, image_px: int) -> Field:
    """Return noise of unit variance, smoothed over `sigma` grains, and resized from the common grid of grains."""
    from scipy import ndimage  # imported here because a matrix is read far more often than a phantom is drawn

    grain = rng.standard_normal((GRAIN_PX, GRAIN_PX), dtype=np.float32)
    if sigma > 0:
        grain = ndimage.gaussian_filter(grain, sigma, mode="wrap")
        grain = grain / grain.std()
    if image_px == GRAIN_PX:
        return grain
    at = (np.arange(image_px) + 0.5) * GRAIN_PX / image_px - 0.5
    return ndimage.map_coordinates(grain, np.meshgrid(at, at, indexing="ij"), order=1, mode="wrap")


def pose(rng: np.random.Generator, image_px: int) -> tuple[Field, Field]:
    """Return the body coordinates x and y of the pixels under a small random rotation, shift and zoom."""
    x, y = pixel_grid(image_px)
    angle, zoom = rng.normal(0, 0.04), np.exp(rng.normal(0, 0.03))
    dx, dy = rng.normal(0, 0.03, 2)
    cos, sin = np.float32(np.cos(angle) / zoom), np.float32(np.sin(angle) / zoom)
    return cos * x + sin * y + np.float32(dx), cos * y - sin * x + np.float32(dy)


def distractors(scene: Scene, rng: np.random.Generator, clutter: float) -> Field:
    """Return the image of things that mean nothing: skin folds, nipples, haze and wires."""
    out = np.zeros_like(scene.x)
    for kind in rng.integers(0, 4, rng.poisson(1.5 * clutter)):
        side, u, v = rng.choice((-1, 1)), rng.uniform(0.25, 0.60), rng.uniform(-0.4, 0.4)
        size, sign = rng.uniform(0.05, 0.13), rng.choice((-1, 1))
        if kind == 0:  # a skin fold: a long oblique edge, like a pleural line
            path = curve([(side * (u + 0.2), v - 0.5), (side * (u + 0.1), v), (side * u, v + 0.5)])
            out += sign * size * stroke(scene.x, scene.y, path, 0.025)
        elif kind == 1:  # a nipple or a button
            out += size * bell(np.hypot(side * scene.x - u, scene.y - abs(v)), 0.04)
        elif kind == 2:  # haze of soft tissue
            spread = np.hypot(side * scene.x - u, 0.7 * (scene.y - v))
            out += sign * size * bell(spread, 0.22)
        else:  # a wire on the skin, like a support device
            path = curve([(side * 0.9, v), (side * u, v + 0.2), (side * 0.5, v + size * 4)])
            out += 0.9 * size * stroke(scene.x, scene.y, path, 0.014)
    return out


def expose(rng: np.random.Generator, image: Field, noise: float) -> NDArray[np.uint8]:
    """Return the film `uint8 [R, R]`: the image with blur, quantum noise, gain and gamma, quantised to 8 bits."""
    from scipy import ndimage

    image_px = image.shape[0]
    gain, shift = 1 + rng.normal(0, 0.07), rng.normal(0, 0.025)
    gamma = np.exp(rng.normal(0, 0.12))
    blur = rng.uniform(0.35, 0.65) * image_px / GRAIN_PX
    image = ndimage.gaussian_filter(image, blur, mode="nearest", truncate=3)
    white = smooth_noise(rng, 0.0, image_px)
    patchy = smooth_noise(rng, 2.0, image_px)
    image = image * gain + shift + noise * (0.8 * white + 0.6 * patchy)
    return (np.clip(image, 0, 1) ** gamma * 255 + 0.5).astype(np.uint8)


def render(
    settings: PhantomSettings,
    index: int,
    labels: Sequence[bool] | NDArray[np.bool_] | None = None,
    masks: bool = False,
) -> Rendered:
    """Draw image `index`, and return it with everything that is known about it.

    Args:
        settings: the identity of the data set.
        index: which image to draw. It does not depend on the size of the data set.
        labels: `bool [C]`, draw exactly these findings instead of the image's own. The observed labels are then these
            labels too.
        masks: whether to return the true mask of every finding.

    Raises:
        ValueError: if `labels` has another shape.
    """
    # Every part of an image has a generator of its own, named after it. Another set of findings leaves the body, the
    # pose and the noise as they are, so two images can differ in a single finding.
    known = facts(settings, index)
    drawn = known.true_labels if labels is None else np.asarray(labels, dtype=bool)
    if drawn.shape != (len(CLASS_NAMES),):
        raise ValueError(f"labels must have shape ({len(CLASS_NAMES)},), got {drawn.shape}")
    at = index + settings.offset
    rng = generator(settings, "draw", at)
    body = jitter_body(draw_body(generator(settings, "body", known.patient)), rng)
    x, y = pose(rng, settings.image_px)
    scene = build_scene(body, x, y, smooth_noise(rng, 2.0, settings.image_px))
    image = healthy(scene) + distractors(scene, rng, settings.clutter)
    strength = strengths(settings, index, known.severities)
    shapes = np.zeros((len(drawn), *image.shape), dtype=bool) if masks else None
    for c in np.flatnonzero(drawn):
        amount = settings.contrast * (0.35 + 0.65 * float(strength[c]))
        finding = FINDINGS[CLASS_NAMES[c]]
        delta = finding(scene, generator(settings, "finding", at, int(c)), amount)
        image = image + delta
        if shapes is not None:
            size = np.abs(delta)
            shapes[c] = size > MASK_LEVEL * size.max()
    observed = known.observed_labels if labels is None else drawn
    return Rendered(expose(rng, image, settings.noise), drawn, observed, shapes, known.patient)
