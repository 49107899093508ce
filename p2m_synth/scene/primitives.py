"""Simple surfaces: sheets, tubes, solids of revolution, balls; and how surfaces are joined, moved and oriented.

A sheet is a grid of points (R, C, 3), um. Its normals point to a viewer who sees the rows run down and the columns
run to the right.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import cv2
import numpy as np
from numpy.typing import ArrayLike

from p2m_synth.scene.elements import Surface, float32

MM = 1e3  # um


@cache
def sheet_triangles(rows: int, columns: int, closed: bool = False) -> np.ndarray:
    """Triangles (T, 3) over a grid of rows x columns vertices; `closed` joins the last column to the first."""
    index = np.arange(rows * columns).reshape(rows, columns)
    if closed:
        index = np.concatenate([index, index[:, :1]], 1)
    quads = np.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(-1, 4)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    triangles.flags.writeable = False
    return triangles


def sheet(grid: np.ndarray, color: ArrayLike, closed: bool = False, **looks: float) -> Surface:
    """A grid (R, C, 3) of one color (3,), or of a color for each point (R, C, 3)."""
    color = np.broadcast_to(float32(color), grid.shape).reshape(-1, 3)
    triangles = sheet_triangles(*grid.shape[:2], closed)
    return Surface(float32(grid.reshape(-1, 3)), triangles, np.ascontiguousarray(color), **looks)


def joined(surfaces: list[Surface]) -> Surface:
    """Surfaces of the same material as one."""
    offsets = np.cumsum([0, *(len(surface.vertices) for surface in surfaces[:-1])])
    vertices, color = (np.concatenate(arrays) for arrays in zip(*((s.vertices, s.color) for s in surfaces)))
    triangles = np.concatenate([surface.triangles + offset for surface, offset in zip(surfaces, offsets)])
    return replace(surfaces[0], vertices=vertices, triangles=triangles, color=color)


def moved(surface: Surface, rotation: np.ndarray, shift: ArrayLike = 0.0) -> Surface:
    """A surface turned and shifted: vertices @ rotation.T + shift."""
    return replace(surface, vertices=float32(surface.vertices @ float32(rotation).T + float32(shift)))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors (..., 3) scaled to length 1."""
    # numpy's norm is slow along a short axis.
    return vectors / np.maximum(np.sqrt(np.einsum("...k,...k->...", vectors, vectors)), 1e-12)[..., None]


def sheet_normals(grid: np.ndarray, closed: bool = False) -> np.ndarray:
    """Outward unit normals (R, C, 3) of a sheet."""
    if closed:
        along = np.roll(grid, -1, 1) - np.roll(grid, 1, 1)
    else:
        along = np.gradient(grid, axis=1)
    return unit(np.cross(np.gradient(grid, axis=0), along))


def tube(
    path: np.ndarray,
    radius: float | np.ndarray,
    color: ArrayLike,
    sides: int = 7,
    closed: bool = False,
    up: np.ndarray | None = None,
    flatness: float = 1.0,
    **looks: float,
) -> Surface:
    """A round bar along a path (N, 3).

    radius: um, a number or (N,).   up: direction in which the cross-section is `flatness` times as wide; it must not
    run along the path.   Open ends are closed by a small cone, so that no hole shows.
    """
    along = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    along = unit(along)
    if up is None:
        up = np.eye(3)[abs(along).mean(0).argmin()]
    across = unit(np.cross(along, up))
    upward = np.cross(across, along)
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    ring = np.cos(turn)[:, None] * across[:, None] + flatness * np.sin(turn)[:, None] * upward[:, None]
    radius = np.broadcast_to(np.float32(radius), len(path))
    grid = path[:, None] + ring * radius[:, None, None]
    if closed:
        grid = np.concatenate([grid, grid[:1]])
    else:
        tips = [path[:1] - along[:1] * radius[0] * 0.6, path[-1:] + along[-1:] * radius[-1] * 0.6]
        ends = [np.broadcast_to(tip[:, None], (1, sides, 3)) + 0.02 * (grid[k] - path[k]) for tip, k in
                zip(tips, (0, -1))]  # fmt: skip
        grid = np.concatenate([ends[0], grid, ends[1]])
    return sheet(grid, color, closed=True, **looks)


def lathe(profile: np.ndarray, color: ArrayLike, sides: int = 24, **looks: float) -> Surface:
    """A solid of revolution about y: profile (N, 2) of radius and height, um, from top to bottom."""
    turn = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    radius, height = np.maximum(profile[:, :1], 10), np.broadcast_to(profile[:, 1:], (len(profile), sides))
    grid = np.stack([radius * np.sin(turn), height, radius * np.cos(turn)], -1)
    color = float32(color)
    if color.ndim == 2:
        color = np.broadcast_to(color[:, None], grid.shape)
    return sheet(grid, color, closed=True, **looks)


def ball(centre: np.ndarray, radius: float, color: ArrayLike, sides: int = 12, **looks: float) -> Surface:
    """A sphere, radius um."""
    turn = np.linspace(0.02, np.pi - 0.02, sides // 2 + 2)
    surface = lathe(radius * np.stack([np.sin(turn), np.cos(turn)], 1), color, sides, **looks)
    return moved(surface, np.eye(3), centre)


def smooth_path(points: np.ndarray, count: int) -> np.ndarray:
    """A Catmull-Rom curve (count, 3) through points (N, 3)."""
    points = np.asarray(points, np.float64)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    t = np.linspace(0, len(points) - 1, count)
    k = np.minimum(t.astype(int), len(points) - 2)
    t = (t - k)[:, None]
    a, b, c, d = (padded[k + n] for n in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def orient(surface: Surface, centre: np.ndarray | None) -> Surface:
    """A surface whose normals look away from `centre` (3,), or, without one, that encloses a positive volume."""
    origin = surface.vertices.mean(0) if centre is None else centre
    at = np.ascontiguousarray((surface.vertices - origin).T, np.float64)
    a, b, c = (at[:, surface.triangles[:, k]] for k in range(3))
    if (
        a[0] * (b[1] * c[2] - b[2] * c[1]) + a[1] * (b[2] * c[0] - b[0] * c[2]) + a[2] * (b[0] * c[1] - b[1] * c[0])
    ).sum() >= 0:
        return surface
    return replace(surface, triangles=np.ascontiguousarray(surface.triangles[:, ::-1]))


def clearance(face: np.ndarray, things: np.ndarray, frame: np.ndarray, nose: float = -1.0) -> float:
    """How far things (N, 3) must move forward to clear a face (V, 3), um.

    frame: rows across, up, forward.   nose: half width in the middle that is left out.
    """
    cell, size = 2.5e3, 96
    face, things = face @ frame.T, things @ frame.T
    face = face[(abs(face[:, :2]) < (size // 2 - 1) * cell).all(1) & (abs(face[:, 0]) > nose)]
    depth = np.full((size, size), -1e9, np.float32)
    column, row = (face[:, :2] / cell + size // 2).astype(int).T
    np.maximum.at(depth, (row, column), float32(face[:, 2]))
    depth = cv2.dilate(depth, np.ones((3, 3), np.uint8))
    column, row = np.clip(things[:, :2] / cell + size // 2, 0, size - 1).astype(int).T
    return float((depth[row, column] - things[:, 2]).max())


def smooth_step(low: float, high: float, x: ArrayLike) -> np.ndarray:
    """0 below `low`, 1 above `high`, smooth between."""
    t = np.clip((np.asarray(x) - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)
