"""Where hair grows: points on the mean head, and a style's own hairline."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from p2m_synth.hair.style import HairStyle
from p2m_synth.head.head_mesh import HeadMesh, azimuth_deg, load_head_mesh
from p2m_synth.scene.elements import float32
from p2m_synth.scene.primitives import smooth_step, unit

LOCKS = (90, 300, 1100)  # locks on the scalp, coarse to fine


@dataclass(frozen=True, eq=False)
class Roots:
    """Points on the mean head: corners (N, 3) of their triangles, bary (N, 3), position (N, 3) dm, lock (N, 3)."""

    corners: np.ndarray
    bary: np.ndarray
    position: np.ndarray
    lock: np.ndarray

    def __getitem__(self, index: np.ndarray) -> Roots:
        return Roots(self.corners[index], self.bary[index], self.position[index], self.lock[index])

    def on(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Roots (N, 3) and unit normals (N, 3) on a head of points (m, 3)."""
        a, b, c = (points[self.corners[:, k]] for k in range(3))
        normal = unit(np.cross(b - a, c - a))
        return a * self.bary[:, :1] + b * self.bary[:, 1:2] + c * self.bary[:, 2:], normal

    def value(self, values: np.ndarray) -> np.ndarray:
        """Values of vertices (m,) at the roots (N,)."""
        return (values[self.corners] * self.bary).sum(1)


def scatter(head_mesh: HeadMesh, triangles: np.ndarray, count: int, seed: int) -> Roots:
    """`count` roots spread evenly over triangles (T, 3) of the mean head."""
    rng = np.random.default_rng(seed)
    a, b, c = (head_mesh.canonical[triangles[:, k]].astype(np.float64) for k in range(3))
    area = np.cumsum(np.linalg.norm(np.cross(b - a, c - a), axis=1))
    chosen = np.searchsorted(area, (np.arange(count) + rng.random(count)) / count * area[-1]).clip(0, len(area) - 1)
    u, v = np.sqrt(rng.random(count)), rng.random(count)
    bary = np.stack([1 - u, u * (1 - v), u * v], 1)
    corners = triangles[chosen]
    position = (head_mesh.canonical[corners] * bary[..., None]).sum(1)
    lock = [cKDTree(position[rng.choice(count, locks, replace=False)]).query(position)[1] for locks in LOCKS]
    return Roots(corners, bary.astype(np.float32), position.astype(np.float32), np.stack(lock, 1))


@cache
def scalp_roots() -> Roots:
    """Candidates for the roots of hair."""
    head_mesh = load_head_mesh()
    return scatter(head_mesh, head_mesh.scalp, 14000, 1)


def beside_lobes(points: np.ndarray) -> np.ndarray:
    """1 at the lobes of the ears, below which nothing grows, 0 away from them (n,); points (n, 3) canonical."""
    return np.exp(-(((abs(points) - float32([0.72, 6.9, 0.5])) / 0.16) ** 2).sum(1))


@dataclass(frozen=True, eq=False)
class Scalp:
    """Canonical points (n, 3) of a head: their head_mesh.hairline, azimuth (deg) and nearness to the lobes (n,)."""

    points: np.ndarray
    hairline: np.ndarray
    azimuth: np.ndarray
    lobes: np.ndarray

    @classmethod
    def of(cls, points: np.ndarray, hairline: np.ndarray) -> Scalp:
        """The rest of it."""
        return cls(points, hairline, azimuth_deg(points), beside_lobes(points))


@cache
def scalp_of_roots(head_mesh: HeadMesh) -> Scalp:
    """At `scalp_roots`."""
    roots = scalp_roots()
    return Scalp.of(roots.position, roots.value(head_mesh.hairline))


@cache
def scalp_of_vertices(head_mesh: HeadMesh) -> tuple[np.ndarray, Scalp]:
    """Vertices near the hairline or above it (n,), and what is there."""
    near = np.flatnonzero(head_mesh.hairline > -1)
    return near, Scalp.of(head_mesh.canonical[near], head_mesh.hairline[near])


def hair_height(style: HairStyle, scalp: Scalp, fine: bool = True) -> np.ndarray:
    """Signed height above a style's own hairline (n,), dm.

    fine: with irregularities too small for the mesh's vertices.
    """
    points, height, angle, rng = scalp.points, scalp.hairline, scalp.azimuth, np.random.default_rng(style.edge)
    side = abs(angle)
    height = height - style.shift * smooth_step(100, 60, side)
    height = height - style.temples * np.exp(-(((side - 38) / 17) ** 2)) + style.peak * np.exp(-((angle / 9) ** 2))
    height = height + style.sideburn * np.exp(-(((side - 71) / 6) ** 2))
    height = height - scalp.lobes
    for frequency, size in ((9, 0.022), (30, 0.018))[: 1 + fine]:
        waves, phase = np.float32(rng.normal(0, frequency, (3, 3))), np.float32(rng.uniform(0, 6.28, 3))
        height = height + size * np.sin(points @ waves + phase).sum(1)
    if style.crown:
        height = np.minimum(height, np.linalg.norm(points - float32([0, 8.27, -0.1]), axis=1) - style.crown)
    if style.ring:
        height = np.minimum(height, style.ring - points[:, 1] - 0.1 * (points[:, 2] - 0.2))
    return height


def scalp_cover(head_mesh: HeadMesh, style: HairStyle) -> np.ndarray:
    """Opacity of hair-coloured paint below the strands, by vertex (m,) in [0, 1]."""
    full = style.stubble if style.name in ("bald", "buzz") else max(style.stubble, 0.96)
    cover = np.zeros(len(head_mesh.canonical), np.float32)
    near, scalp = scalp_of_vertices(head_mesh)
    cover[near] = full * smooth_step(-0.05, 0.14, hair_height(style, scalp, fine=False))
    return cover
