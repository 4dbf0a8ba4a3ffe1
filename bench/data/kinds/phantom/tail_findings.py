"""The five tail findings, and `FINDINGS`, which maps all ten class names to their functions."""

from __future__ import annotations

import numpy as np

from bench.data.kinds.phantom.anatomy import Field, Scene, bell, curve, step, stroke
from bench.data.kinds.phantom.chest import middle_mask, rib_field
from bench.data.kinds.phantom.head_findings import (
    Finding,
    atelectasis,
    cardiomegaly,
    lung_opacity,
    pick_side,
    pleural_effusion,
    support_devices,
)
from bench.data.kinds.phantom.settings import CLASS_NAMES


def pneumothorax(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Draw a dark strip between lung and chest wall, widest at the apex, with a white line at the lung's edge."""
    side = pick_side(rng)
    wall = scene.walls[scene.side(side)]
    depth = (0.07 + 0.11 * amount) * rng.uniform(0.85, 1.15)
    reach = rng.uniform(-0.1, 0.35)
    depth_here = depth * step(reach - scene.y, 0.5)
    line = bell(wall - depth_here, 0.020) * step(reach - scene.y, 0.3)
    strip = step(depth_here - wall, 0.04) * step(reach - scene.y, 0.3)
    rim = scene.lungs[scene.side(side)] * (1 - scene.middle) * step(side * scene.x - 0.27, 0.15)
    return amount * (0.26 * line - 0.24 * strip * (1 - line)) * rim


def fracture(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Break one rib: draw two bright ends with a step and a dark gap between them, and shift the rib itself."""
    side = pick_side(rng)
    u, v = rng.uniform(0.40, 0.58), rng.uniform(-0.40, 0.30)
    near = bell(scene.y - v, 0.085) * bell(side * scene.x - u, 0.085)
    down = 0.055 * np.sign(side * scene.x - u) * step(near - 0.25, 0.3)
    moved = (rib_field(scene, down.astype(np.float32)) - rib_field(scene)) * step(near - 0.15, 0.3)
    slope, drop = scene.body.rib_slope + 1.1 * (u - 0.3), rng.uniform(0.065, 0.095)
    inner = [(u - 0.15, v - 0.15 * slope), (u - 0.02, v)]
    outer = [(u + 0.02, v + drop), (u + 0.15, v + drop + 0.15 * (slope + 0.5))]
    ends = sum(stroke(scene.x, scene.y, np.array([(side * a, b) for a, b in part]), 0.026) for part in (inner, outer))
    gap = bell(np.hypot(side * scene.x - u, scene.y - v - drop / 2), 0.028)
    return amount * (0.09 / scene.body.rib_gain * moved + 0.42 * ends - 0.25 * gap * (1 - np.minimum(ends, 1)))


def enlarged_cardiomediastinum(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Widen the upper mediastinum: return the wide one minus the normal one."""
    growth = 1 + (0.62 + 0.1 * rng.uniform(-1, 1)) * amount
    gain = middle_mask(scene.body, scene.x, scene.y, growth) - scene.middle
    lungs = np.maximum(scene.lungs[0], scene.lungs[1]) * (1 - scene.heart)
    return 0.92 * scene.lucency * np.clip(gain, 0, 1) * lungs


def tortuous_aorta(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Draw a descending aorta that swings out of the mediastinum, with a large knob."""
    out = scene.body.mediastinum + (0.04 + 0.10 * amount) * rng.uniform(0.85, 1.15)
    bend = rng.uniform(-0.10, 0.02)
    path = curve([(0.02, -0.50), (out + 0.08, -0.52), (out + 0.03, -0.22),
                  (0.04, -0.12 + bend), (out + 0.12, 0.10 + bend), (0.08, 0.42)])  # fmt: skip
    vessel = stroke(scene.x, scene.y, path, 0.045)
    knob = bell(np.hypot(scene.x - out, scene.y + 0.38), 0.07)
    return 0.34 * amount * np.maximum(vessel, knob) * (1 - 0.4 * scene.heart)


def pneumomediastinum(scene: Scene, rng: np.random.Generator, amount: float) -> Field:
    """Draw dark streaks of air along the border of the mediastinum, up into the neck."""
    out = np.zeros_like(scene.x)
    half = scene.body.mediastinum
    for side in (-1, 1):
        a, b = rng.uniform(-0.02, 0.02, 2)
        inner = [(0.5 * half, -0.95), (0.7 * half + a, -0.5), (half + b, -0.1), (half + 0.06, 0.25)]
        path = curve([(side * u, v) for u, v in inner])
        dark = stroke(scene.x, scene.y, path, 0.024)
        rim = stroke(scene.x, scene.y, path + np.array([side * 0.055, 0.0]), 0.014)
        out = out - 0.36 * dark + 0.16 * rim * step(scene.y + 0.7, 0.2)
    return amount * out


FINDINGS: dict[str, Finding] = dict(
    zip(
        CLASS_NAMES,
        (
            support_devices, lung_opacity, cardiomegaly, pleural_effusion, atelectasis,
            pneumothorax, fracture, enlarged_cardiomediastinum, tortuous_aorta, pneumomediastinum,
        ),
        strict=True,
    )
)  # fmt: skip
