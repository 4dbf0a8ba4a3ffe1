"""The anatomy of a chest: the parameters of a body, and the fields that findings are drawn on.

Coordinates are normalised: x and y are in [-1, 1], y points downwards, and the patient's left is on the right of the
image. A "side" is -1 (left in the image) or +1. Lengths are in these units, so a body looks the same at any resolution.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Body:
    """The proportions of one patient. `jitter_body` varies them from image to image."""

    lung_x: float
    lung_rx: float
    lung_top: float
    dome: tuple[float, float]
    dome_height: float
    heart: tuple[float, float, float, float]  # x, y, half width, half height
    heart_tilt: float
    mediastinum: float
    knob: float
    rib_gap: float
    rib_slope: float
    rib_phase: float
    rib_gain: float
    spine_gain: float
    tissue: float
    aeration: float
    width: float
    shoulder: float
    clavicle: tuple[float, float]
    bubble: float


def draw_body(rng: np.random.Generator) -> Body:
    """Draw a patient's proportions."""
    u = rng.uniform
    dome = u(0.50, 0.64)
    return Body(
        lung_x=u(0.40, 0.44), lung_rx=u(0.29, 0.34), lung_top=u(-0.80, -0.70),
        dome=(dome, dome + u(0.0, 0.08)), dome_height=u(0.08, 0.17),
        heart=(u(0.07, 0.15), u(0.24, 0.32), u(0.26, 0.34), u(0.25, 0.31)),
        heart_tilt=u(0.3, 0.7), mediastinum=u(0.10, 0.15), knob=u(0.05, 0.085),
        rib_gap=u(0.16, 0.20), rib_slope=u(0.10, 0.30), rib_phase=u(0, 1),
        rib_gain=u(0.07, 0.13), spine_gain=u(0.05, 0.10), tissue=u(0.60, 0.70),
        aeration=u(0.60, 0.74), width=u(0.84, 0.96), shoulder=u(-0.84, -0.70),
        clavicle=(u(-0.66, -0.56), u(0.06, 0.18)), bubble=u(-0.6, 1.0),
    )  # fmt: skip


def jitter_body(body: Body, rng: np.random.Generator) -> Body:
    """Return the body of the same patient in another breath: diaphragm, heart and ribs move a little."""
    breath, beat = rng.normal(0, 0.02), rng.normal(0, 0.015)
    x, y, rx, ry = body.heart
    return Body(
        **{
            **body.__dict__,
            "dome": (body.dome[0] + breath, body.dome[1] + breath),
            "heart": (x + rng.normal(0, 0.01), y + breath / 2, rx + beat - breath / 4, ry),
            "mediastinum": body.mediastinum * float(np.exp(rng.normal(0, 0.06))),
            "rib_phase": body.rib_phase + rng.normal(0, 0.05),
            "aeration": body.aeration + rng.normal(0, 0.02),
        }
    )


@dataclass(frozen=True)
class Scene:
    """The fields of one image on its pixel grid. The healthy chest and all findings are drawn from them.

    Attributes:
        body: the proportions of the patient.
        x, y: body coordinates of the pixels.
        lungs: soft masks of both lungs, without regard to heart and mediastinum.
        walls: distance from the chest wall, positive inside and negative outside.
        domes: height above the diaphragm, negative below it.
        heart, middle: soft masks of the heart and of the mediastinum.
        texture: smooth noise of unit variance, for vessels and patchy findings.
    """

    body: Body
    x: Field
    y: Field
    lungs: tuple[Field, Field]
    walls: tuple[Field, Field]
    domes: tuple[Field, Field]
    heart: Field
    middle: Field
    texture: Field

    def side(self, side: int) -> int:
        """Return the index of a side (-1 or +1) in the pairs of fields, 0 or 1."""
        return (side + 1) // 2

    def air(self, side: int) -> Field:
        """Return the soft mask of the visible part of a lung, which is not behind heart or mediastinum."""
        lung = self.lungs[self.side(side)]
        return lung * (1 - self.heart) * (1 - self.middle)

    @property
    def lucency(self) -> float:
        """How much darker a lung is than soft tissue."""
        return self.body.tissue * self.body.aeration


@lru_cache(maxsize=8)
def pixel_grid(image_px: int) -> tuple[Field, Field]:
    """Return x and y of the pixel centres, `float32 [image_px, image_px]` each."""
    line = ((np.arange(image_px, dtype=np.float32) + 0.5) / image_px) * 2 - 1
    x, y = np.meshgrid(line, line)
    x.setflags(write=False)
    y.setflags(write=False)
    return x, y


def step(t: Field, width: float) -> Field:
    """Return a soft step: 0 below -width/2, 1 above width/2."""
    return np.clip(t / width + 0.5, 0, 1)


def bell(t: Field, width: float) -> Field:
    """Return a Gaussian bump of the given standard deviation."""
    return np.exp(-0.5 * np.square(t / width))


def stroke(x: Field, y: Field, points: NDArray[np.float64], width: float) -> Field:
    """Return a line with a Gaussian profile along a polyline `[k, 2]`. It is never thinner than a pixel."""
    # Only pixels within four widths of the line are computed. Elsewhere the profile is below 0.0004, and most of the
    # time of an image would go into computing zeros.
    width = max(width, 1.1 / x.shape[0])
    rows = (points[:, 1].min() - 4 * width, points[:, 1].max() + 4 * width)
    near = (y >= rows[0]) & (y <= rows[1])
    near &= (x >= points[:, 0].min() - 4 * width) & (x <= points[:, 0].max() + 4 * width)
    out = np.zeros_like(x)
    if not near.any():
        return out
    px, py = x[near][:, None], y[near][:, None]
    a, d = points[:-1].astype(np.float32), np.diff(points, axis=0).astype(np.float32)
    along = (px - a[:, 0]) * d[:, 0] + (py - a[:, 1]) * d[:, 1]
    along = np.clip(along / np.maximum((d**2).sum(1), 1e-12), 0, 1)
    squared = (px - a[:, 0] - along * d[:, 0]) ** 2 + (py - a[:, 1] - along * d[:, 1]) ** 2
    out[near] = np.exp(-0.5 * squared.min(1) / width**2)
    return out


def curve(points: list[tuple[float, float]], n: int = 14) -> NDArray[np.float64]:
    """Return the Bézier curve of the control points as a polyline `[n, 2]` (de Casteljau's algorithm)."""
    t = np.linspace(0, 1, n)[:, None, None]
    level = np.broadcast_to(np.asarray(points, dtype=np.float64), (n, len(points), 2))
    while level.shape[1] > 1:
        level = level[:, :-1] * (1 - t) + level[:, 1:] * t
    return level[:, 0]
