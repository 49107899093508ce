"""A made-up face with four levels over a checkered photo: what viewers and exports are tested with."""

from __future__ import annotations

import numpy as np

from p2m_core.facemesh import FaceMesh, Specimen


def hexagonal_disc(rings: int) -> tuple[np.ndarray, np.ndarray]:
    """Points (V, 2) of a hexagonal disc of radius 1, y up, and its faces (F, 3), counter-clockwise."""
    steps = np.array([(1, 0), (0, 1), (-1, 1), (-1, 0), (0, -1), (1, -1)])
    cells = [(q, r) for q in range(-rings, rings + 1) for r in range(-rings, rings + 1) if abs(q + r) <= rings]
    number = {cell: k for k, cell in enumerate(cells)}
    faces = []
    for q, r in cells:
        for k in (0, 1):
            corner = [(q + steps[k][0], r + steps[k][1]), (q + steps[k + 1][0], r + steps[k + 1][1])]
            if all(c in number for c in corner):
                faces.append([number[q, r], number[corner[0]], number[corner[1]]])
    q, r = np.array(cells, float).T
    points = np.stack([q + r / 2, r * np.sqrt(3) / 2], 1)
    # From the hexagon to the disc, ring by ring.
    ring = np.maximum(np.maximum(abs(q), abs(r)), abs(q + r))
    length = np.maximum(np.linalg.norm(points, axis=1), 1e-9)
    return points * (ring / length / rings)[:, None], np.array(faces, np.int64)


def subdivide(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Midpoint subdivision that keeps the old vertices first."""
    sides = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    edges, inverse = np.unique(sides, axis=0, return_inverse=True)
    ab, bc, ca = len(vertices) + inverse.reshape(3, -1)
    a, b, c = faces.T
    finer = np.stack([a, ab, ca, ab, b, bc, ca, bc, c, ab, bc, ca], 1).reshape(-1, 3)
    return np.concatenate([vertices, vertices[edges].mean(1)]), finer


def relief(disc: np.ndarray, nose: float = 1.0) -> np.ndarray:
    """Disc points (V, 2) to a head-like surface (V, 3), y up: a cap with brow, eyes, nose, mouth and chin."""
    x, y = disc.T

    def bump(height, at_x, at_y, wide, high):
        return height * np.exp(-(((x - at_x) / wide) ** 2) - ((y - at_y) / high) ** 2)

    z = 0.95 * np.sqrt(np.maximum(1.18 - x**2 - 0.75 * y**2, 0))
    z = z + nose * (bump(0.26, 0, -0.08, 0.13, 0.10) + bump(0.15, 0, 0.12, 0.09, 0.22))
    z = z + bump(0.05, 0, 0.42, 0.5, 0.10) + bump(0.08, 0, -0.78, 0.22, 0.14)
    z = z + bump(0.07, 0, -0.38, 0.2, 0.045) + bump(0.07, 0, -0.50, 0.17, 0.045) - bump(0.04, 0, -0.44, 0.2, 0.02)
    for side in (-1, 1):
        z = z - bump(0.13, side * 0.36, 0.24, 0.2, 0.13) + bump(0.07, side * 0.36, 0.23, 0.12, 0.07)
        z = z + bump(0.05, side * 0.48, -0.12, 0.2, 0.18)
    return np.stack([0.78 * x * (1 - 0.12 * np.maximum(-y, 0)), y, z - 0.5], 1)


def photo(height: int, width: int) -> np.ndarray:
    """A checkered picture with a soft gradient, (H, W, 3) uint8."""
    row, column = np.mgrid[:height, :width]
    checker = ((row // 24 + column // 24) % 2)[..., None]
    soft = np.stack([row / height, column / width, 1 - row / height], -1)
    return (70 + 60 * soft + 40 * checker).astype(np.uint8)


def made_up(
    name: str = "made-up", truth: bool = True, rings: int = 6, levels: int = 4, height: int = 450, width: int = 400
) -> Specimen:
    """A specimen whose first level has 3 rings (rings + 1) + 1 vertices, with ground truth beside it."""
    disc, faces = hexagonal_disc(rings)
    discs, all_faces = [disc], [faces]
    for _ in range(levels - 1):
        disc, faces = subdivide(disc, faces)
        discs.append(disc)
        all_faces.append(faces)

    def place(vertices, yaw):
        turn = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        size = 0.36 * height
        at = [0.5 * width, 0.52 * height, 0]
        return (vertices @ turn.T * [size, -size, size] + at).astype(np.float32)

    # A coarser level is a rounder face, as a network's early stages are.
    nose = np.linspace(0.4, 1, levels)
    vertices = tuple(place(relief(d, n), 0.25) for d, n in zip(discs, nose, strict=True))
    rng = np.random.default_rng(0)
    inner = np.flatnonzero((discs[-1] ** 2).sum(1) < 0.6)
    landmarks = vertices[-1][rng.choice(inner, 68, replace=len(inner) < 68)]
    box = np.concatenate([landmarks[:, :2].min(0), landmarks[:, :2].max(0)])
    template = place(relief(discs[0], 0.2), 0.0)
    mesh = FaceMesh(vertices[-1], all_faces[-1], vertices, tuple(all_faces), landmarks, box, template)
    return Specimen(name, mesh, photo(height, width), place(relief(discs[-1], 1.25), 0.30) if truth else None)
