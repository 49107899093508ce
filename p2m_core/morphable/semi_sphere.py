"""The semi-sphere laid on a face model by rays from inside the head."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
import trimesh
from jaxtyping import Float, Int
from scipy.ndimage import gaussian_filter1d, minimum_filter1d
from scipy.sparse.csgraph import connected_components

from p2m_core.errors import InputError
from p2m_core.geometry.mesh import adjacency_matrix, boundary_loops, mesh_edges
from p2m_core.geometry.rays import cast_rays
from p2m_core.geometry.template import Template
from p2m_core.morphable.model import FaceModel

RIM_INSET = 0.99  # of the polar angle at which the face ends
LEAST_SLOPE = 0.12  # cosine between a triangle's normal and the ray that meets it


def hexagonal_disc(rings: int) -> tuple[Float[np.ndarray, "v 2"], Int[np.ndarray, "f 3"]]:
    """A triangulated disc of radius 1: 1 + 3 r (r + 1) points in r rings, 6 r^2 faces counter-clockwise."""
    cells = [(q, r) for q in range(-rings, rings + 1) for r in range(-rings, rings + 1) if abs(q + r) <= rings]
    number = {cell: k for k, cell in enumerate(cells)}
    q, r = np.array(cells).T
    ring = np.max([abs(q), abs(r), abs(q + r)], 0)
    angle = np.arctan2(r * np.sqrt(0.75), q + r / 2)
    faces = []
    for (i, j), a in number.items():
        for b, c in (((i + 1, j), (i, j + 1)), ((i + 1, j - 1), (i + 1, j))):
            if b in number and c in number:
                faces.append((a, number[b], number[c]))
    return np.stack([np.cos(angle), np.sin(angle)], 1) * (ring / rings)[:, None], np.array(faces)


def semi_sphere(rings: int, levels: int) -> Template:
    """The left-right symmetric template as a disc in the unit circle, z = 0, before it is registered."""
    points, faces = hexagonal_disc(rings)
    return Template.from_mesh(np.concatenate([points, np.zeros((len(points), 1))], 1), faces, levels)


def inner_point(model: FaceModel) -> Float[np.ndarray, "3"]:
    """A point inside the mean head, at the nose's height and between the ears."""
    landmarks = model.mean[model.landmark_idx].astype(np.float64)
    return np.array([0, landmarks[27:36, 1].mean(), landmarks[[0, 16], 2].mean()])


def facing_outwards(
    vertices: Float[np.ndarray, "v 3"], triangles: Int[np.ndarray, "f 3"], centre: Float[np.ndarray, "3"]
) -> Int[np.ndarray, "kept 3"]:
    """The triangles of the largest part of a mesh that faces away from a centre inside it.

    Left out are the insides of lids, lips and nostrils, which a ray from the centre meets besides the skin.
    """
    corners = vertices[triangles]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    outwards = corners.mean(1) - centre
    slope = (normals * outwards).sum(1) / (np.linalg.norm(normals, axis=1) * np.linalg.norm(outwards, axis=1) + 1e-12)
    triangles = triangles[slope > LEAST_SLOPE]
    part = connected_components(adjacency_matrix(mesh_edges(triangles), len(vertices)), directed=False)[1][
        triangles[:, 0]
    ]
    return triangles[part == np.bincount(part).argmax()]


def capped(triangles: np.ndarray, count: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """A face (F, 3) over `count` vertices with all holes closed: map (V + holes, V), triangles."""
    rows, parts = [sp.csr_matrix(sp.identity(count))], [triangles]
    for k, loop in enumerate(boundary_loops(triangles)[1:]):
        shares = (np.full(len(loop), 1 / len(loop)), (np.zeros(len(loop), int), loop))
        rows.append(sp.csr_matrix(shares, shape=(1, count)))
        parts.append(np.stack([np.roll(loop, -1), loop, np.full(len(loop), count + k)], 1))
    return sp.vstack(rows).tocsr(), np.concatenate(parts)


def rim_angle(directions: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
    """Polar angle at which the face ends at each azimuth (N,), from directions (B, 3) to its outer boundary."""
    around = np.arctan2(directions[:, 1], directions[:, 0])
    polar = np.arccos(directions[:, 2] / np.linalg.norm(directions, axis=1))
    grid = np.linspace(-np.pi, np.pi, 720, endpoint=False)
    apart = abs((grid[:, None] - around + np.pi) % (2 * np.pi) - np.pi)
    limit = np.where(apart < 0.06, polar, np.inf).min(1)
    known = np.isfinite(limit)
    limit = np.interp(grid, grid[known], limit[known], period=2 * np.pi)
    mirrored = np.interp((np.pi - grid + np.pi) % (2 * np.pi) - np.pi, grid, limit, period=2 * np.pi)
    # Eroded before it is smoothed, so that the smooth rim stays inside the jagged one.
    limit = minimum_filter1d(np.minimum(limit, mirrored), 13, mode="wrap")
    limit = gaussian_filter1d(limit, 5, mode="wrap") * RIM_INSET
    return np.interp(azimuth, grid, limit, period=2 * np.pi)


def register(disc: Template, model: FaceModel) -> tuple[Template, sp.csr_matrix]:
    """Lay a semi-sphere on a face model's mean.

    From a centre inside the head, the ray through each vertex of the cap meets the mean face, with eyes, nostrils and
    mouth closed; the cap is scaled at each azimuth so that its rim lies just inside the face's.

    Args:    disc: of `semi_sphere`.
    Returns: the template, its vertices on the mean face; and the map (V, model's vertices) to each
             vertex's true place in any face of the model.
    Raises:  InputError if a ray misses the face.
    """
    mean, centre = model.mean.astype(np.float64), inner_point(model)
    x, y, _ = disc.vertices.astype(np.float64).T
    around = np.arctan2(y, x)
    outside = facing_outwards(mean, model.triangles, centre)
    polar = np.hypot(x, y) * rim_angle(mean[boundary_loops(outside)[0]] - centre, around)
    tocapped, triangles = capped(outside, len(mean))
    directions = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], 1)
    hit, weights = cast_rays(centre, directions, tocapped @ mean, triangles, last=True)
    if (hit < 0).any():
        problem = f"{(hit < 0).sum()} of {len(hit)} template vertices miss the mean face"
        raise InputError(model.name, "mean", problem, "check that the mean faces +z, with y up")
    rows = np.repeat(np.arange(len(hit)), 3)
    operator = sp.csr_matrix((weights.ravel(), (rows, triangles[hit].ravel())), shape=(len(hit), tocapped.shape[0]))
    operator = (operator @ tocapped).tocsr()
    vertices = operator @ mean
    carrier, bary = nearest_points(vertices, disc.faces[-1], mean[model.landmark_idx])
    template = Template(
        vertices.astype(np.float32), disc.faces, disc.unpool, disc.faces[-1][carrier], bary, disc.mirror
    )
    return template, operator


def nearest_points(
    vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], points: Float[np.ndarray, "p 3"]
) -> tuple[Int[np.ndarray, "p"], Float[np.ndarray, "p 3"]]:
    """The nearest point of a mesh to each of `points`: its triangle, and its barycentric weights there."""
    corners = vertices[faces]
    triangle, weights = [], []
    for point in points:
        closest = trimesh.triangles.closest_point(corners, np.broadcast_to(point, (len(faces), 3)))
        best = int(((closest - point) ** 2).sum(1).argmin())
        triangle.append(best)
        weights.append(trimesh.triangles.points_to_barycentric(corners[[best]], closest[[best]])[0])
    return np.array(triangle), np.array(weights)
