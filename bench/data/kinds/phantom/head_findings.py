"""The five head findings, and the type of all findings.

A finding is a function `(scene, rng, amount) -> delta`. It returns a signed image that is added to the healthy chest.
`amount` is the contrast of the finding, from about 0 (invisible) to 1 (textbook). It scales the brightness, or the size
if the finding is a change of size.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bench.data.kinds.phantom.anatomy import Field, Scene, bell, curve, step, stroke
from bench.data.kinds.phantom.chest import heart_mask

Finding = Callable[[Scene, np.random.Generator, float], Field]


def pick_side(rng: np.random.Generator) -> int:
    """Return -1 or +1 at random, with equal probability."""
    return -1 if rng.random() < 0.5 else 1


def support_devices(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Draw a tube in the windpipe, a central line, or a pacemaker with its lead."""
    kind, side = rng.integers(3), pick_side(rng)
    a, b, c = rng.uniform(-1, 1, 3)
    if kind == 0:
        path = curve([(0.02 * a, -1.0), (0.03 * b, -0.7), (0.01 + 0.02 * c, -0.26 + 0.08 * a)])
        return 0.34 * amount * stroke(scene.x, scene.y, path, 0.020)
    if kind == 1:
        start = (side * (0.52 + 0.12 * a), -0.70 + 0.08 * b)
        path = curve([start, (side * 0.2, -0.66), (-0.10, -0.55), (-0.11, 0.02 + 0.12 * c)])
        return 0.34 * amount * stroke(scene.x, scene.y, path, 0.017)
    cx, cy = side * (0.50 + 0.06 * a), -0.46 + 0.06 * b
    box = np.maximum(np.abs(scene.x - cx) / 0.10, np.abs(scene.y - cy) / 0.085)
    path = curve([(cx, cy), (side * 0.2, -0.72), (-0.1, -0.5), (0.02, 0.3), (0.22, 0.36 + 0.04 * c)])
    lead = stroke(scene.x, scene.y, path, 0.016)
    return 0.36 * amount * np.maximum(step(1 - box, 0.35), 0.8 * lead)


def lung_opacity(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Draw one to three patchy consolidations."""
    out = np.zeros_like(scene.x)
    for _ in range(rng.integers(1, 4)):
        side = pick_side(rng)
        u, v = rng.uniform(0.24, 0.58), rng.uniform(-0.45, 0.40)
        wide, tall = rng.uniform(0.09, 0.17, 2)
        spot = np.exp(-np.square((side * scene.x - u) / wide) - np.square((scene.y - v) / tall))
        out = np.maximum(out, spot * scene.air(side))
    patchy = np.clip(1 + 0.55 * scene.texture, 0.2, 2)
    return 0.44 * amount * out * patchy


def cardiomegaly(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Draw the heart up to 55 % wider: return the large heart minus the normal one."""
    growth = 1 + (0.50 + 0.05 * rng.uniform(-1, 1)) * amount
    gain = heart_mask(scene.body, scene.x, scene.y, growth) - scene.heart
    lungs = np.maximum(scene.lungs[0], scene.lungs[1]) * (1 - scene.middle)
    return 0.92 * scene.lucency * np.clip(gain, 0, 1) * lungs


def pleural_effusion(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Fill the base of one lung, or of both, up to a meniscus that rises towards the chest wall."""
    out = np.zeros_like(scene.x)
    first = pick_side(rng)
    for side in (first, -first) if rng.random() < 0.3 else (first,):
        depth = (0.10 + 0.24 * amount) * rng.uniform(0.85, 1.15)
        away = np.clip(side * scene.x - 0.15, 0, 0.7)
        level = scene.body.dome[scene.side(side)] + 0.04 - depth * (0.45 + 2.2 * away**2)
        fluid = step(scene.y - level, 0.10) * scene.air(side)
        out = np.maximum(out, fluid)
    return scene.lucency * min(1.0, 0.45 + 0.6 * amount) * out


def atelectasis(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Draw one or two plate-like bands in the mid and lower lung."""
    out = np.zeros_like(scene.x)
    side = pick_side(rng)
    for _ in range(rng.integers(1, 3)):
        u, v = rng.uniform(0.30, 0.45), rng.uniform(0.08, 0.40)
        tilt, half = rng.uniform(-0.45, 0.25), rng.uniform(0.15, 0.22)
        ends = [(u - half, v - tilt * half), (u, v + 0.02), (u + half, v + tilt * half)]
        path = curve([(side * a, b) for a, b in ends], n=6)
        band = stroke(scene.x, scene.y, path, rng.uniform(0.024, 0.036))
        out = np.maximum(out, band * scene.air(side))
    base = bell(scene.domes[scene.side(side)], 0.10) * scene.air(side)
    return 0.44 * amount * np.maximum(out, 0.30 * base)
