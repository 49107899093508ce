"""Cloth: its colours and patterns, the torso that it lies on, and how it falls from a ring round the neck."""

from __future__ import annotations

import numpy as np

from p2m_synth.head.head_maps import NECK_LEVELS_DM, POLAR_STEP, neck_grid, sample_grid, torso_grid
from p2m_synth.head.head_mesh import HeadMesh
from p2m_synth.scene.elements import Surface, float32
from p2m_synth.scene.primitives import MM, orient, sheet, sheet_normals, unit


class Torso:
    """The torso and the neck of a posed head, on which cloth lies: grids of points on the skin."""

    def __init__(self, head_mesh: HeadMesh, head: np.ndarray):
        self.skin = torso_grid().on(head)
        normal = sheet_normals(self.skin)
        normal[:, [0, -1]] = unit(normal[:, [0]] + normal[:, [-1]])  # the seam
        self.normal = float32(normal)
        self.neck = neck_grid().on(head)
        self.centre = head[head_mesh.neck < 0.02].mean(0)

    def at(self, polar_deg: np.ndarray, azimuth: np.ndarray, lift_um: np.ndarray | float) -> np.ndarray:
        """Points (R, C, 3), `lift_um` outside the torso's skin."""
        polar, azimuth, lift = np.broadcast_arrays(polar_deg, azimuth, lift_um)
        row = polar / POLAR_STEP
        return sample_grid(self.skin, row, azimuth) + unit(sample_grid(self.normal, row, azimuth)) * lift[..., None]

    def round_neck(self, level_dm: np.ndarray, azimuth: np.ndarray, lift_um: np.ndarray | float) -> np.ndarray:
        """Points (R, C, 3), `lift_um` outside the neck's skin, as high as canonical y `level_dm`."""
        level, azimuth, lift = np.broadcast_arrays(level_dm, azimuth, lift_um)
        row = (level - NECK_LEVELS_DM[0]) / (NECK_LEVELS_DM[1] - NECK_LEVELS_DM[0])
        at = sample_grid(self.neck, row, azimuth)
        middle = sample_grid(np.repeat(self.neck[:, :-1].mean(1, keepdims=True), 2, 1), row, 0 * azimuth)
        return at + unit(at - middle) * lift[..., None]

    def sheet(self, points: np.ndarray, color: np.ndarray, closed: bool = True, gloss: float = 0.03) -> Surface:
        return orient(sheet(points, color, closed, gloss=gloss, soft=0.12), self.centre)


def draw_cloth_color(rng: np.random.Generator) -> np.ndarray:
    """A color (3,) of cloth: mostly dark, white, grey and blue, now and then bright."""
    kind = rng.choice(5, p=(0.3, 0.15, 0.15, 0.2, 0.2))
    if kind == 0:
        color = rng.uniform(0.012, 0.04) * rng.uniform(0.8, 1.2, 3)
    elif kind == 1:
        color = rng.uniform(0.6, 0.78) * rng.uniform(0.94, 1.0, 3)
    elif kind == 2:
        color = rng.uniform(0.06, 0.4) * rng.uniform(0.9, 1.1, 3)
    elif kind == 3:
        color = np.array([0.03, 0.07, 0.19]) * rng.uniform(0.4, 1.8) * rng.uniform(0.8, 1.2, 3)
    else:
        hue, pale = rng.uniform(0, 2 * np.pi), rng.uniform(0, 0.35)
        wheel = 0.5 + 0.5 * np.cos(hue + np.array([0, 2.1, 4.2]))
        color = rng.uniform(0.15, 0.6) * (pale + (1 - pale) * wheel**2)
    return float32(np.clip(color, 0.008, 0.8))


def pattern_color(kind: str, u: np.ndarray, v: np.ndarray, color: np.ndarray, accent: np.ndarray) -> np.ndarray:
    """Colors (..., 3) of a pattern at cloth coordinates, one period a unit."""
    u, v = np.broadcast_arrays(u, v)
    p, q = 2 * np.pi * u, 2 * np.pi * v
    # Soft edges: the colors stand on vertices, and hard ones would alias.
    if kind in ("stripes", "rings"):
        share = np.clip(0.5 + 2.2 * np.sin(q), 0, 1)
    elif kind == "checks":
        share = 0.5 * np.clip(0.5 + 1.5 * np.sin(p), 0, 1) + 0.5 * np.clip(0.5 + 1.5 * np.sin(q), 0, 1)
    elif kind == "flowers":
        share = np.clip(2.5 * (np.sin(p + 1.3 * np.sin(q)) * np.sin(q + 1.1 * np.sin(0.7 * p)) - 0.2), 0, 1)
    elif kind == "dots":
        share = np.clip(2.5 * (np.cos(p) * np.cos(q) - 0.35), 0, 1)
    else:
        share = np.zeros(u.shape)
    return float32(color + (accent - color) * share[..., None])


def drape(
    head_mesh: HeadMesh,
    head: np.ndarray,
    ring: np.ndarray,
    color: np.ndarray,
    accent: np.ndarray,
    pattern: str,
    rng: np.random.Generator,
    reach_deg: float,
) -> Surface:
    """Cloth that falls from a ring (C, 3) round the neck over the shoulders; head (m, 3), all um, camera frame."""
    columns = len(ring)
    azimuth = np.arange(columns) * (360 / columns)
    a = np.radians(azimuth)
    reach = reach_deg + 5 * np.cos(a * 2 + rng.uniform(0, 6)) + 3 * np.cos(3 * a + rng.uniform(0, 6))
    torso = Torso(head_mesh, head)
    t = np.linspace(0, 1, 14)[:, None]
    polar = 31 + (reach - 31) * t
    crease = np.sin(a * 9 + 2.2 * np.sin(2 * a + rng.uniform(0, 6)) + 1.5 * t + rng.uniform(0, 6))
    crease = crease + 0.7 * np.sin(a * 5 - 3 * t + rng.uniform(0, 6))
    lower = torso.at(polar, azimuth, (9 + 2.5 * crease) * MM)
    s = np.linspace(0, 1, 9)[:-1, None, None]
    # Close to the neck, then out over the shoulders.
    bend = ring + unit(ring - ring.mean(0)) * 8 * MM + (lower[0] - ring) * [0.2, 0.7, 0.2]
    upper = (1 - s) ** 2 * ring + 2 * s * (1 - s) * bend + s**2 * lower[0]
    grid = np.concatenate([upper, lower])
    out = unit(grid - grid.mean(1, keepdims=True))
    fold = np.sin(np.linspace(0, 14, len(grid))[:, None] + 1.5 * np.cos(a + rng.uniform(-0.5, 0.5)))
    fold = fold * np.clip(1 - np.linspace(0, 1.4, len(grid))[:, None], 0, 1)
    grid = grid + out * (2.5 * MM * fold)[..., None]
    grid = np.concatenate([grid, grid[-1:] - out[-1:] * 2 * MM, grid[-3:-2] - out[-3:-2] * 3 * MM])  # the hem
    height = np.arange(len(grid))[:, None]
    shade = np.concatenate([fold, fold[-1:], fold[-1:]])
    paint = pattern_color(pattern, 5 * a, height / 4, color, accent) * (1 + 0.1 * shade)[..., None]
    return torso.sheet(grid, paint)
