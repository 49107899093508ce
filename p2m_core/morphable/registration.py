"""The semi-sphere laid on a face model: every template vertex gets a true place in every face."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import scipy.sparse as sp
import trimesh
from jaxtyping import Float, Int, Num
from scipy.ndimage import gaussian_filter1d, minimum_filter1d
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from p2m_core.errors import InputError
from p2m_core.geometry.mesh import adjacency_matrix, boundary_loops, mesh_edges
from p2m_core.geometry.rays import cast_rays
from p2m_core.geometry.template import Template, semi_sphere
from p2m_core.morphable.model import FaceModel

VERSION = 2  # raise it when the same model gives another template, so that stores are made anew
RIM_INSET = 0.99  # of the polar angle at which the face ends
LEAST_SLOPE = 0.12  # cosine between a triangle's normal and the ray that meets it
UM_PER_MM = 1000.0
FACE_WIDTH_MM = (90, 220)  # between the outer ends of the jaw; outside, a model is hardly in micrometres
SLIVER = 0.02  # a triangle's height over its longest edge, below which it is degenerate


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


def _capped(triangles: np.ndarray, count: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """A face (F, 3) over `count` vertices with all holes closed: map (V + holes, V), triangles."""
    rows, parts = [sp.csr_matrix(sp.identity(count))], [triangles]
    for k, loop in enumerate(boundary_loops(triangles)[1:]):
        shares = (np.full(len(loop), 1 / len(loop)), (np.zeros(len(loop), int), loop))
        rows.append(sp.csr_matrix(shares, shape=(1, count)))
        parts.append(np.stack([np.roll(loop, -1), loop, np.full(len(loop), count + k)], 1))
    return sp.vstack(rows).tocsr(), np.concatenate(parts)


def _rim_angle(directions: np.ndarray, azimuth: np.ndarray) -> np.ndarray:
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
    polar = np.hypot(x, y) * _rim_angle(mean[boundary_loops(outside)[0]] - centre, around)
    to_capped, triangles = _capped(outside, len(mean))
    directions = np.stack([np.sin(polar) * np.cos(around), np.sin(polar) * np.sin(around), np.cos(polar)], 1)
    hit, weights = cast_rays(centre, directions, to_capped @ mean, triangles, last=True)
    if (hit < 0).any():
        problem = f"{(hit < 0).sum()} of {len(hit)} template vertices miss the mean face"
        raise InputError(model.name, "mean", problem, "check that the mean faces +z, with y up")
    rows = np.repeat(np.arange(len(hit)), 3)
    operator = sp.csr_matrix((weights.ravel(), (rows, triangles[hit].ravel())), shape=(len(hit), to_capped.shape[0]))
    operator = (operator @ to_capped).tocsr()
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


@cache
def face_template(model: FaceModel, rings: int = 6, levels: int = 4) -> tuple[Template, sp.csr_matrix]:
    """The semi-sphere of some rings and levels, registered on a face model: template and map, see `register`.

    >>> template, operator = face_template(face_model, rings=2, levels=2)  # any FaceModel
    >>> template.counts, operator.shape == (61, len(face_model.mean))
    ((19, 61), True)
    >>> face_model.sampled(operator).vertices(np.zeros(0), np.zeros(0)).shape  # the template's place in the mean face
    (61, 3)
    """
    return register(semi_sphere(rings, levels), model)


# --- how good it is -------------------------------------------------------------------------------


def distance_to_surface(
    points: Float[np.ndarray, "p 3"], vertices: Num[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], near: int = 24
) -> Float[np.ndarray, "p"]:
    """Distance of points to a mesh, by the `near` triangles whose centres are nearest to each.

    Never too small; too large only where triangles are so long that none of these is the nearest.
    """
    corners = vertices[faces]
    candidates = cKDTree(corners.mean(1)).query(points, min(near, len(faces)))[1].reshape(len(points), -1)
    repeated = np.repeat(points, candidates.shape[1], axis=0)
    closest = trimesh.triangles.closest_point(corners[candidates.ravel()], repeated)
    return np.linalg.norm(closest - repeated, axis=1).reshape(candidates.shape).min(1)


def registration_report(model: FaceModel, rings: int = 6, levels: int = 4) -> dict[str, Any]:
    """How well the semi-sphere lies on a face model's mean; distances in mm, for models in micrometres.

    Returns: "model": counts and face_width_mm; "levels": `Template.report` and, as seen from inside the head, flipped
             and degenerate triangles; "landmarks_mm": of the 68 to the finest level; "template_to_face_mm": of its
             vertices, which is more than 0 over eyes and mouth alone; "face_to_template_mm": of the face's vertices
             within the rim, what the template leaves out; "mirror_mm": of each vertex to its partner's mirror image at
             x = 0; "mirror_pairs"; "area_ratio" of template and face.
    Raises:  InputError as `register`.
    """
    template, _ = face_template(model, rings, levels)
    mean, places, centre = model.mean.astype(np.float64), template.vertices.astype(np.float64), inner_point(model)
    landmarks, finest = mean[model.landmark_idx], template.faces[-1]
    rows = []
    for faces, row in zip(template.faces, template.report(), strict=True):
        corners = places[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(1)
        flipped = (normals * (corners.mean(1) - centre)).sum(1) <= 0
        sliver = np.linalg.norm(normals, axis=1) < SLIVER * longest**2
        rows.append({**row, "flipped triangles": int(flipped.sum()), "degenerate triangles": int(sliver.sum())})
    outside = facing_outwards(mean, model.triangles, centre)
    rim = boundary_loops(finest)[0]
    skin = np.unique(outside)
    # Within the rim: nearer to a vertex inside the template than to one of its rim.
    skin = skin[~np.isin(cKDTree(places).query(mean[skin])[1], rim)]
    mirrored = places[template.mirror] * [-1, 1, 1]
    return {
        "model": {
            "name": model.name,
            "vertices": len(mean),
            "triangles": len(model.triangles),
            "shape directions": model.shape_basis.shape[2],
            "expression directions": model.expression_basis.shape[2],
            "face_width_mm": round(float(np.linalg.norm(landmarks[0] - landmarks[16])) / UM_PER_MM, 1),
        },
        "levels": rows,
        "landmarks_mm": _summary(np.linalg.norm(template.landmarks(places) - landmarks, axis=1)),
        "template_to_face_mm": _summary(distance_to_surface(places, mean, model.triangles)),
        "face_to_template_mm": _summary(distance_to_surface(mean[skin], places, finest)),
        "mirror_mm": _summary(np.linalg.norm(mirrored - places, axis=1)),
        "mirror_pairs": int((template.mirror > np.arange(len(template.mirror))).sum()),
        "area_ratio": round(float(_area(places, finest) / _area(mean, outside)), 3),
    }


def _summary(distance_um: np.ndarray) -> dict[str, float]:
    values = {"mean": distance_um.mean(), "95%": np.quantile(distance_um, 0.95), "max": distance_um.max()}
    return {name: round(float(value) / UM_PER_MM, 3) for name, value in values.items()}


def _area(vertices: np.ndarray, faces: np.ndarray) -> float:
    return trimesh.triangles.area(vertices[faces]).sum()


def report_lines(report: dict[str, Any]) -> list[str]:
    """`registration_report` to read, and what is amiss in it."""
    model, levels = report["model"], report["levels"]
    sizes = f"{model['vertices']} vertices, {model['triangles']} triangles"
    directions = f"{model['shape directions']} shape and {model['expression directions']} expression directions"
    lines = [f"{model['name']}: {sizes}, {directions}, {model['face_width_mm']} mm from ear to ear"]
    for k, row in enumerate(levels, 1):
        triangles = f"{row['flipped triangles']} flipped and {row['degenerate triangles']} degenerate triangles"
        sound = "sound" if row["manifold"] and row["winding consistent"] and row["components"] == 1 else "NOT a surface"
        stretch = f"longest edge {row['edge length max/median']} times the median"
        lines.append(f"template level {k}: {row['vertices']} vertices, {sound}, {triangles}, {stretch}")
    for name, what in (
        ("landmarks_mm", "the 68 landmarks from the finest level"),
        ("template_to_face_mm", "template vertices from the mean face (over eyes and mouth they float)"),
        ("face_to_template_mm", "the mean face's vertices within the rim from the template"),
        ("mirror_mm", f"vertices from their partners' mirror images, {report['mirror_pairs']} pairs"),
    ):
        values = report[name]
        lines.append(f"{what}: {values['mean']:.2f} mm, 95% within {values['95%']:.2f}, at most {values['max']:.2f}")
    lines.append(f"the template has {100 * report['area_ratio']:.0f}% of the mean face's area")
    if not FACE_WIDTH_MM[0] < model["face_width_mm"] < FACE_WIDTH_MM[1]:
        lines.append("no face is that wide: the model is not in micrometres, so no mm above is one")
    if levels[-1]["flipped triangles"] or levels[-1]["degenerate triangles"]:
        lines.append("flipped or degenerate triangles: look at the template before training on this model")
    return lines
