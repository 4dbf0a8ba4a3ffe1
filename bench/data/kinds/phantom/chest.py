"""Draw the image of a healthy chest from a scene: lungs, heart, vessels, bones and skin."""

from __future__ import annotations

import numpy as np

from bench.data.kinds.phantom.anatomy import Body, Field, Scene, bell, curve, step, stroke

EDGE = 0.05  # width of the soft edge of masks, in body coordinates


def heart_mask(body: Body, x: Field, y: Field, growth: float = 1.0) -> Field:
    """Return the soft mask of a heart that is `growth` times as wide. It grows mostly to the patient's left."""
    cx, cy, rx, ry = body.heart
    cx, rx, ry = cx + 0.35 * (growth - 1) * rx, rx * growth, ry * (1 + 0.4 * (growth - 1))
    dx, dy = x - cx, y - cy
    along, across = dx + body.heart_tilt * dy * 0.5, dy - body.heart_tilt * dx * 0.35
    radius = np.sqrt(np.square(along / rx) + np.square(across / ry))
    return step((1 - radius) * ry, EDGE)


def middle_mask(body: Body, x: Field, y: Field, growth: float = 1.0) -> Field:
    """Return the soft mask of a mediastinum that is `growth` times as wide above the heart."""
    upper = body.mediastinum * (1 + (growth - 1) * bell(y + 0.32, 0.30))
    half = upper + 0.10 * np.clip(y + 0.1, 0, 1)
    knob = body.knob * bell(y + 0.34, 0.09)
    return step(half + np.where(x > 0, knob, 0) - np.abs(x - 0.01), EDGE)


def build_scene(body: Body, x: Field, y: Field, texture: Field) -> Scene:
    """Return the scene of one image, on a pixel grid that may be rotated, shifted and zoomed."""
    lungs, walls, domes = [], [], []
    for side in (-1, 1):
        u = side * x - body.lung_x
        rise = np.maximum(-0.02 - y, 0) / (-0.02 - body.lung_top)
        radius = np.sqrt(np.square(u / (body.lung_rx * (1 + 0.10 * y))) + rise**2)
        wall = (1 - radius) * body.lung_rx
        arch = 1 - np.square((u + 0.04) / body.lung_rx)
        dome = body.dome[(side + 1) // 2] - body.dome_height * arch - y
        walls.append(wall)
        domes.append(dome)
        lungs.append(step(wall, EDGE) * step(dome, EDGE))
    return Scene(
        body, x, y, (lungs[0], lungs[1]), (walls[0], walls[1]), (domes[0], domes[1]),
        heart_mask(body, x, y), middle_mask(body, x, y), texture,
    )  # fmt: skip


def rib_field(scene: Scene, shift: Field | float = 0.0) -> Field:
    """Return the brightness of the ribs. `shift` moves them down, which makes the step of a fracture."""
    body = scene.body
    away = np.abs(scene.x)
    arc = body.rib_slope * away + 0.55 * np.square(away - 0.30) - 0.02
    phase = (scene.y - shift - arc) / body.rib_gap + body.rib_phase
    posterior = np.square(np.square(np.cos(np.pi * phase)))
    front = (scene.y - shift + 0.75 * away - 0.2) / (body.rib_gap * 1.25) + body.rib_phase
    anterior = np.square(np.square(np.cos(np.pi * front))) * step(away - 0.35, 0.2)
    cage = step(np.maximum(scene.walls[0], scene.walls[1]) + 0.10, 0.12) * step(away - 0.12, 0.1)
    return body.rib_gain * (posterior + 0.45 * anterior) * cage


def bones(scene: Scene) -> Field:
    """Return the brightness of spine, clavicles and ribs."""
    body, x, y = scene.body, scene.x, scene.y
    discs = 0.75 + 0.25 * np.cos(2 * np.pi * (y / 0.17 + body.rib_phase))
    out = rib_field(scene) + body.spine_gain * bell(x, 0.085) * discs
    height, tilt = body.clavicle
    for side in (-1, 1):
        arc = [(0.07, height + 0.05), (0.28, height - 0.10), (0.42, height + 0.03)]
        path = curve([(side * u, v) for u, v in [*arc, (0.72, height - tilt)]])
        out = out + 0.15 * stroke(x, y, path, 0.026)
    return out


def skin(scene: Scene) -> Field:
    """Return the soft mask of the torso with neck and shoulders."""
    body, away = scene.body, np.abs(scene.x)
    slope = body.shoulder + 0.9 * np.square(np.maximum(away - 0.22, 0))
    slope = slope - 0.6 * step(0.22 - away, 0.12)
    sides = body.width - away - 0.10 * bell(scene.y - 0.1, 0.4)
    return step(scene.y - slope, 0.10) * step(sides, 0.08)


def vessels(scene: Scene) -> Field:
    """Return the brightness of hila and vessels: a texture that fades with the distance from the hilum."""
    out = np.zeros_like(scene.x)
    for side in (-1, 1):
        reach = np.hypot(side * scene.x - 0.17, (scene.y + 0.02) * 0.8)
        hilum = 0.16 * bell(reach, 0.09) + 0.07 * (1 + 0.8 * scene.texture) * bell(reach, 0.28)
        out = out + hilum * scene.air(side)
    return out


def healthy(scene: Scene) -> Field:
    """Return the image of a healthy chest, in about [0, 1], before blur, noise and exposure."""
    body = scene.body
    air = scene.air(-1) + scene.air(1)
    belly = step(-np.minimum(scene.domes[0], scene.domes[1]), 0.08) * step(scene.y - 0.2, 0.2)
    thickness = body.tissue * (0.90 + 0.10 * scene.y) + 0.06 * scene.middle + 0.10 * scene.heart
    image = thickness + 0.08 * belly - scene.lucency * air + vessels(scene) + bones(scene)
    windpipe = bell(scene.x + 0.005, 0.035) * step(-0.15 - scene.y, 0.2)
    image = image - 0.12 * windpipe
    if body.bubble > 0:
        gas = np.hypot((scene.x - 0.42) / 0.16, (scene.y - body.dome[1] - 0.06) / 0.08)
        image = image - 0.35 * body.bubble * step(1 - gas, 0.6)
    return np.asarray(image * (0.03 + 0.97 * skin(scene)), dtype=np.float32)
