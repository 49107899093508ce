"""A template whose edges follow lids and lips, laid on a face model.

The mean face, its holes closed, is flattened onto a disc. There level 1 is a Delaunay triangulation of landmarks, rim
and points between them, whose left half mirrors the right. Finer levels are midpoint subdivisions, but a midpoint on a
feature curve (lid margin, inner lip line, rim) stays on that curve, and all others are relaxed until the edges around a
vertex are equally long on the face.

    model space --flatten--> disc, |uv| <= 1 --triangulate, subdivide, relax--> places on the disc
                                                     each: three weights of the model's vertices, one sparse map

Triangles are in groups: the skin, each eye between its lids, and the mouth, a membrane behind the lips.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.interpolate import CubicSpline
from scipy.ndimage import gaussian_filter1d
from scipy.sparse.linalg import spsolve
from scipy.spatial import Delaunay, cKDTree
from trimesh.triangles import cross

from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.geometry.mesh import adjacency_matrix, boundary_loops, mesh_edges, subdivide
from p2m_core.geometry.rays import cast_rays
from p2m_core.geometry.template import Template
from p2m_core.morphable.model import FaceModel
from p2m_core.morphable.semi_sphere import capped, facing_outwards, inner_point, rim_angle

RIGHT_LIDS, INNER_LIPS = (36, 37, 38, 39, 40, 41), (60, 61, 62, 63, 64, 65, 66, 67)
MIDLINE = (27, 28, 29, 30, 33, 51, 62, 66, 57, 8)
# Further nodes beside the landmarks: the eye's centre, and points of the inner lips beside the mouth's corner.
EYE, UPPER_LIP, LOWER_LIP = 68, 69, 70
HALF_MOUTH = (60, UPPER_LIP, 61, 62, 66, 67, LOWER_LIP)
MOUTH_DEPTH = 0.12  # of the membrane's middle, on the way from the lips to between the corners of the jaw
RIM_POINTS = 10  # of one half, both ends on the midline
# The rim is smoothed by the first, and swells over the second where a landmark lies nearer than the third;
# landmarks nearer than the fourth are no vertices of level 1.
RIM_SMOOTH_DEG, RIM_SWELL_RAD, RIM_MARGIN, RIM_NEAR = 8.0, 0.12, 0.004, 0.05
EYE_RING = 1.6  # size of a ring of vertices around the lids, in theirs
# Wanted spacing of level 1: at eyes and mouth, and its growth with the distance from there.
SPACING_UM, SPACING_GROWTH, LARGEST_SPACING_UM = 6500.0, 0.5, 22_000.0
CANDIDATES, SEED = 8000, 1  # points to choose from; with other seeds some triangles at the lids turn over
ROUNDS, UNTANGLING_ROUNDS = 60, 40  # of relaxation, a level; at the end
# Edges are to be as long as this says: short at eyes and mouth, where the surface bends.
DENSITY_UM, DENSITY_GROWTH, DENSITY_POWER = 10_000.0, 0.35, 1.5
SYMMETRIC = 1e-9


@dataclass(frozen=True)
class Disc:
    """A face flattened.

    uv        (N, 2) places of its vertices on the unit disc     triangles (F, 3), counter-clockwise on it
    on_face   (N, 3) their places on the mean face               to_model  (N, V) each as a mean of the model's vertices
    """

    uv: np.ndarray
    triangles: np.ndarray
    on_face: np.ndarray
    to_model: sp.csr_matrix

    @cached_property
    def _centres(self) -> cKDTree:
        return cKDTree(self.uv[self.triangles].mean(1))

    def weights(self, points: np.ndarray, near: int = 16) -> sp.csr_matrix:
        """Points (P, 2) of the disc as weighted means of three of its vertices each, (P, N)."""
        candidates = np.asarray(self._centres.query(points, min(near, len(self.triangles)))[1])
        a, b, c = np.moveaxis(self.uv[self.triangles[candidates]], 2, 0)
        area, offset = _cross(b - a, c - a), points[:, None] - a
        second, third = _cross(offset, c - a) / area, _cross(b - a, offset) / area
        bary = np.stack([1 - second - third, second, third], -1)
        rows = np.arange(len(points))
        best = bary.min(-1).argmax(1)
        bary = bary[rows, best].clip(0, 1)
        columns = self.triangles[candidates[rows, best]]
        values = bary / bary.sum(1, keepdims=True)
        return sp.csr_matrix((values.ravel(), (rows.repeat(3), columns.ravel())), (len(points), len(self.uv)))

    def surface(self, points: np.ndarray) -> np.ndarray:
        """Places (P, 3) on the mean face of points (P, 2) of the disc."""
        return self.weights(points) @ self.on_face

    def divide(self, line: np.ndarray, parts: int) -> list[np.ndarray]:
        """A polyline (K, 2) of the disc in pieces that are equally long on the face."""
        along = np.concatenate([[0], np.linalg.norm(np.diff(self.surface(line), axis=0), axis=1).cumsum()])
        at = np.linspace(0, along[-1], parts + 1)
        ends = np.stack([np.interp(at, along, line[:, k]) for k in (0, 1)], 1)
        ends[0], ends[-1] = line[0], line[-1]
        between = [line[(along > a) & (along < b)] for a, b in pairwise(at)]
        return [np.vstack([ends[k], between[k], ends[k + 1]]) for k in range(parts)]


def _cross(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]


def _mirrored(points: np.ndarray) -> np.ndarray:
    return points * [-1, 1]


def _signed_areas(uv: np.ndarray, faces: np.ndarray) -> np.ndarray:
    a, b, c = np.moveaxis(uv[faces], 1, 0)
    return _cross(b - a, c - a) / 2


def _inside(polygon: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Which points (P, 2) lie in a polygon (K, 2): an odd number of its edges is crossed on the way to the right."""
    a, b, y = polygon, np.roll(polygon, -1, 0), points[:, 1, None]
    with np.errstate(divide="ignore", invalid="ignore"):
        x = a[:, 0] + (y - a[:, 1]) / (b[:, 1] - a[:, 1]) * (b[:, 0] - a[:, 0])
    return (((a[:, 1] > y) != (b[:, 1] > y)) & (points[:, 0, None] < x)).sum(1) % 2 == 1


# --- the face on a disc ---------------------------------------------------------------------------


def close_holes(model: FaceModel) -> tuple[sp.csr_matrix, np.ndarray]:
    """The face with each hole closed by a fan: map (V + holes, V) and triangles; the mouth's fan reaches back."""
    closed, triangles = capped(model.triangles, len(model.mean))
    lips = model.mean[model.landmark_idx[48:]]
    middles = closed[len(model.mean) :]
    mouth = np.linalg.norm(middles @ model.mean - lips.mean(0), axis=1) < np.ptp(lips[:, 0]) / 2
    share, jaw = sp.diags(MOUTH_DEPTH * mouth), np.zeros((1, len(model.mean)))
    jaw[0, model.landmark_idx[[4, 12]]] = 0.5
    middles = middles - share @ middles + share @ sp.csr_matrix(np.ones((len(mouth), 1)) @ jaw)
    return sp.csr_matrix(sp.vstack([sp.identity(len(model.mean)), middles])), triangles


def flatten(model: FaceModel) -> Disc:
    """The mean face on the unit disc, one to one, its midline on x = 0.

    Source: Tutte, How to draw a graph, 1963, with the weights of Floater, Mean value coordinates, 2003.
    """
    to_model, triangles = close_holes(model)
    on_face = to_model @ model.mean.astype(np.float64)
    count, rows, columns, values = len(on_face), [], [], []
    for k in range(3):
        i, j, h = np.roll(triangles, -k, 1).T
        a, b = on_face[j] - on_face[i], on_face[h] - on_face[i]
        length_a, length_b = np.linalg.norm(a, axis=1), np.linalg.norm(b, axis=1)
        cosine = (a * b).sum(1) / (length_a * length_b)
        half_tangent = np.sqrt(((1 - cosine) / (1 + cosine + 1e-9)).clip(1e-8, 1e6))
        rows += [i, i]
        columns += [j, h]
        values += [half_tangent / length_a, half_tangent / length_b]
    weights = sp.csr_matrix((np.concatenate(values), (np.concatenate(rows), np.concatenate(columns))), (count, count))
    weights = sp.diags(1 / np.asarray(weights.sum(1)).ravel()) @ weights

    loop = boundary_loops(triangles)[0]
    loop = np.roll(loop, -int((on_face[loop, 1] + abs(on_face[loop, 0])).argmin()))  # from below the chin
    length = np.linalg.norm(np.roll(on_face[loop], -1, 0) - on_face[loop], axis=1)
    share = (length.cumsum() - length) / length.sum() * np.sign(on_face[loop[len(loop) // 4], 0])
    uv, free = np.zeros((count, 2)), np.setdiff1d(np.arange(count), loop)
    uv[loop] = np.stack([np.sin(2 * np.pi * share), -np.cos(2 * np.pi * share)], 1)
    system = (sp.identity(count) - weights).tocsr()[free]
    uv[free] = spsolve(system[:, free].tocsc(), -(system[:, loop] @ uv[loop]))
    even = (uv + _mirrored(uv[cKDTree(on_face).query(on_face * [-1, 1, 1])[1]])) / 2
    even[loop] /= np.linalg.norm(even[loop], axis=1, keepdims=True)  # also where the halves have other edges
    if (_signed_areas(even, triangles) > 0).all():  # else the model is too uneven for it
        uv = even
    return Disc(uv, triangles, on_face, to_model)


# --- level 1 --------------------------------------------------------------------------------------


def feature_curves(disc: Disc, model: FaceModel, marks: np.ndarray) -> dict[tuple[int, int], np.ndarray]:
    """The curves of the right half between neighbouring landmarks of lids and inner lips, as polylines of the disc.

    Where the model has a hole they are its edge, and marks (68, 2), the landmarks' places, are moved onto it; else they
    are splines through the landmarks.
    """
    curves: dict[tuple[int, int], np.ndarray] = {}
    loops = boundary_loops(model.triangles)[1:]
    for ring in (RIGHT_LIDS, INNER_LIPS):
        around, centre = [*ring, ring[0]], marks[list(ring)].mean(0)
        reach = np.linalg.norm(marks[list(ring)] - centre, axis=1).max() / 2
        hole = [disc.uv[loop] for loop in loops if np.linalg.norm(disc.uv[loop].mean(0) - centre) < reach]
        if hole:
            line = hole[0]
            at = np.asarray(cKDTree(line).query(marks[around])[1])
            if (np.diff(at[:-1]) < 0).sum() > len(ring) / 2:
                line, at = line[::-1], len(line) - 1 - at
            marks[list(ring)] = line[at[:-1]]
            pieces = [line[(a + np.arange((b - a) % len(line) + 1)) % len(line)] for a, b in pairwise(at)]
        else:
            pieces = []
            for part in (around[: len(ring) // 2 + 1], around[len(ring) // 2 :]):  # lids and lips have two corners
                spline = CubicSpline(np.arange(len(part)), marks[part])
                pieces += [spline(np.linspace(k, k + 1, 17)) for k in range(len(part) - 1)]
        curves |= dict(zip(pairwise(around), pieces, strict=True))
    return {ends: line for ends, line in curves.items() if marks[list(ends), 0].sum() < SYMMETRIC}


def rim_curve(disc: Disc, model: FaceModel, marks: np.ndarray) -> np.ndarray:
    """The template's rim on the right half of the disc (K, 2), from below the chin up to the forehead.

    Smooth as seen from inside the head and a little within the face's edge, but outside all landmarks.
    """
    mean, centre = model.mean.astype(np.float64), inner_point(model)
    outside = facing_outwards(mean, model.triangles, centre)
    around = np.linspace(-np.pi, np.pi, 720, endpoint=False)
    limit = rim_angle(mean[boundary_loops(outside)[0]] - centre, around)
    limit = gaussian_filter1d(limit, RIM_SMOOTH_DEG * 2, mode="wrap")
    azimuth = np.linspace(-np.pi / 2, -3 * np.pi / 2, 181)
    polar = np.interp(azimuth, around, limit, period=2 * np.pi)
    rays = np.stack([np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)], 1)
    hit, weights = cast_rays(centre, rays, disc.on_face, disc.triangles, last=True)
    line = (disc.uv[disc.triangles[hit]] * weights[..., None]).sum(1)
    angle, radius = clockwise(line), np.linalg.norm(line, axis=1)
    for mark in marks[marks[:, 0] < -SYMMETRIC]:  # the jaw's upper landmarks may lie outside: there the rim swells
        short = np.linalg.norm(mark) + RIM_MARGIN - np.interp(clockwise(mark), angle, radius)
        radius += max(short, 0) * np.exp(-0.5 * ((angle - clockwise(mark)) / RIM_SWELL_RAD) ** 2)
    line = np.stack([-np.sin(angle), -np.cos(angle)], 1) * radius.clip(max=1 - RIM_MARGIN)[:, None]
    line[[0, -1], 0] = 0
    return line


def clockwise(points: np.ndarray) -> Any:
    """Angle of points (..., 2) of the disc's right half, from below the centre (0) by the left to above it (pi)."""
    return np.arctan2(-points[..., 0], -points[..., 1])


@dataclass(frozen=True)
class Mesh:
    """A level on the disc.

    uv     (n, 2)         faces (F, 3)        groups (F,) index into GROUPS
    curves {(a, b): polyline (K, 2) from vertex a to b}, a < b: the edges that lie on feature curves
    """

    uv: np.ndarray
    faces: np.ndarray
    groups: np.ndarray
    curves: dict[tuple[int, int], np.ndarray]


def coarse_mesh(disc: Disc, model: FaceModel, marks: np.ndarray) -> tuple[Mesh, np.ndarray]:
    """Level 1, and the places (P, 3) on the face around which it is finest.   marks: (68, 2) landmarks on the disc."""
    marks = (marks + _mirrored(marks[MIRROR_68])) / 2
    marks[list(MIDLINE), 0] = 0
    curves = feature_curves(disc, model, marks)
    marks[list(MIDLINE), 0] = 0
    eye = marks[list(RIGHT_LIDS)].mean(0)
    focus = disc.surface(np.vstack([marks[[*RIGHT_LIDS, 48, 51, 57]], eye]))
    focus = np.concatenate([focus, focus * [-1, 1, 1]])
    for a, node, b in ((60, UPPER_LIP, 61), (60, LOWER_LIP, 67)):
        line = curves.pop((a, b)) if (a, b) in curves else curves.pop((b, a))[::-1]
        curves[a, node], curves[node, b] = disc.divide(line, 2)
    nodes = np.vstack([marks, eye, curves[60, UPPER_LIP][-1], curves[60, LOWER_LIP][-1]])

    rim = rim_curve(disc, model, marks)
    pieces = disc.divide(rim, RIM_POINTS - 1)
    rim_points = np.vstack([rim[0], *(piece[-1] for piece in pieces)])
    to_rim = np.interp(clockwise(nodes), clockwise(rim), np.linalg.norm(rim, axis=1)) - np.linalg.norm(nodes, axis=1)
    kept = np.flatnonzero((nodes[:, 0] < SYMMETRIC) & ((to_rim > RIM_NEAR) | (nodes[:, 0] > -SYMMETRIC)))
    have = np.concatenate([nodes[kept], rim_points, eye + EYE_RING * (marks[list(RIGHT_LIDS)] - eye)])
    holes = [nodes[list(RIGHT_LIDS)], nodes[list(HALF_MOUTH)]]
    points = np.concatenate([have, fill_points(disc, have, _half(rim_points), holes, focus)])
    row = {int(node): k for k, node in enumerate(kept)}
    curves = {(row[a], row[b]): line for (a, b), line in curves.items()}
    curves |= {(k, k + 1): piece for k, piece in enumerate(pieces, len(kept))}

    midline = abs(points[:, 0]) < SYMMETRIC
    bulged = points + np.stack([1e-7 * midline * (1 - points[:, 1] ** 2), np.zeros(len(points))], 1)
    faces = Delaunay(bulged).simplices
    area = _signed_areas(points, faces)
    faces = np.where(area[:, None] < 0, faces[:, ::-1], faces)[abs(area) > 1e-8]
    for a, b in curves:
        faces = enforce_edge(faces, points, a, b)
    faces = faces[_inside(_half(rim_points), points[faces].mean(1))]
    partner = np.where(midline, np.arange(len(points)), len(points) + (~midline).cumsum() - 1)
    uv = np.concatenate([points, _mirrored(points[~midline])])
    curves |= {(int(partner[a]), int(partner[b])): _mirrored(line) for (a, b), line in curves.items()}
    centres, groups = points[faces].mean(1), np.zeros(len(faces), np.int64)
    right, mouth = (_inside(polygon, centres) for polygon in holes)
    groups[right], groups[mouth] = 1, 3
    mesh = Mesh(
        uv,
        np.concatenate([faces, partner[faces][:, ::-1]]),
        np.concatenate([groups, np.where(groups == 1, 2, groups)]),
        {(min(ends), max(ends)): line if ends[0] < ends[1] else line[::-1] for ends, line in curves.items()},
    )
    return mesh, focus


def _half(rim_points: np.ndarray) -> np.ndarray:
    """The right half of the disc within the rim, as a polygon; its straight side lies just beyond the midline."""
    return np.concatenate([rim_points, [[1e-3, rim_points[-1, 1]], [1e-3, rim_points[0, 1]]]])


def fill_points(
    disc: Disc, have: np.ndarray, outline: np.ndarray, holes: list[np.ndarray], focus: np.ndarray
) -> np.ndarray:
    """Points between those that are there, the farthest first, until none is farther than the spacing wanted there."""
    low, high = outline.min(0), [0, outline[:, 1].max()]
    pool = np.random.default_rng(SEED).uniform(low, high, (CANDIDATES, 2))
    pool = np.concatenate([np.linspace([0, low[1]], high, CANDIDATES // 20), pool])  # the midline first
    pool = pool[_inside(0.97 * outline, pool) & ~np.any([_inside(hole, pool) for hole in holes], 0)]
    places, taken = disc.surface(pool), disc.surface(have)
    spacing = np.minimum(SPACING_UM + SPACING_GROWTH * cKDTree(focus).query(places)[0], LARGEST_SPACING_UM)
    distance = np.asarray(cKDTree(np.concatenate([taken, taken * [-1, 1, 1]])).query(places)[0])
    distance[(pool[:, 0] < 0) & (abs(places[:, 0]) < spacing / 2)] = 0  # too near to its own mirror image
    chosen: list[int] = []
    while (distance / spacing).max() > 1:
        chosen.append(int((distance / spacing).argmax()))
        both = places[chosen[-1]] * [[1, 1, 1], [-1, 1, 1]]
        distance = np.minimum(distance, cKDTree(both).query(places)[0])
    return pool[chosen]


def enforce_edge(faces: np.ndarray, uv: np.ndarray, a: int, b: int) -> np.ndarray:
    """Triangles (F, 3) with the edges that cross a-b flipped until a-b is an edge; ValueError if it cannot be made.

    Source: Sloan, A fast algorithm for generating constrained Delaunay triangulations, 1993.
    """

    def side(o: int, p: int, q: int) -> float:
        return float(_cross(uv[p] - uv[o], uv[q] - uv[o]))

    def parted(p: int, q: int, i: int, j: int) -> bool:
        return side(p, q, i) * side(p, q, j) < 0 and side(i, j, p) * side(i, j, q) < 0

    faces = faces.copy()
    for _ in range(len(faces)):
        owners: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for t, corners in enumerate(faces.tolist()):
            for k in range(3):
                i, j = sorted((corners[k], corners[k - 2]))
                owners.setdefault((i, j), []).append((t, corners[k - 1]))
        if (min(a, b), max(a, b)) in owners:
            return faces
        for (i, j), owned in owners.items():
            if len(owned) < 2 or {i, j} & {a, b} or not parted(a, b, i, j):
                continue
            (t, p), (u, q) = owned
            if parted(p, q, i, j):
                faces[t], faces[u] = ((p, q, c) if side(p, q, c) > 0 else (q, p, c) for c in (i, j))
                break
        else:
            break
    raise ValueError(f"no edge between {uv[a]} and {uv[b]} can be made")


# --- finer levels ---------------------------------------------------------------------------------


def refine(
    disc: Disc, mesh: Mesh, levels: int, focus: np.ndarray
) -> tuple[np.ndarray, list, list, np.ndarray, np.ndarray]:
    """Places (V, 2) of the finest level, faces of all levels, pairs between which new vertices lie, which vertices (V,)
    lie on feature curves, and the partner (V,) of each: of a new vertex the one between its ends' partners."""
    uv, curves, faces, unpool = mesh.uv, mesh.curves, [mesh.faces], []
    held, partner = np.isin(np.arange(len(uv)), list(curves)), np.asarray(cKDTree(uv).query(_mirrored(uv))[1])
    for _ in range(levels - 1):
        pairs, count = mesh_edges(faces[-1]), len(uv)
        new, finer = uv[pairs].mean(1), {}
        for row, (a, b) in enumerate(pairs.tolist()):
            if (a, b) in curves:
                from_a, to_b = disc.divide(curves[a, b], 2)
                new[row] = from_a[-1]
                finer[a, count + row], finer[b, count + row] = from_a, to_b[::-1]
        faces.append(subdivide(faces[-1], pairs, count))
        unpool.append(pairs)
        uv, curves = np.concatenate([uv, new]), finer
        held = np.concatenate([held, np.isin(np.arange(count, len(uv)), list(curves))])
        between = {pair: count + row for row, pair in enumerate(map(tuple, pairs.tolist()))}
        partner = np.append(partner, [between[tuple(ends)] for ends in np.sort(partner[pairs], 1).tolist()])
        uv = relax(disc, uv, faces[-1], held, focus, partner)
    return uv, faces, unpool, held, partner


def relax(
    disc: Disc, uv: np.ndarray, faces: np.ndarray, held: np.ndarray, focus: np.ndarray, partner: np.ndarray
) -> np.ndarray:
    """Places moved until edges are equally long on the face around each vertex, and shorter near the focus; held
    vertices stay, those of the midline stay on it, and both halves stay mirror images."""
    edges, midline = mesh_edges(faces), abs(uv[:, 0]) < SYMMETRIC
    both, tree = np.concatenate([edges, edges[:, ::-1]]), cKDTree(focus)
    for _ in range(ROUNDS):
        places = disc.surface(uv)[edges]
        length = np.linalg.norm(places[:, 0] - places[:, 1], axis=1) + 1
        length /= (DENSITY_UM + DENSITY_GROWTH * tree.query(places.mean(1))[0]) ** DENSITY_POWER
        weights = sp.csr_matrix((np.tile(length, 2), both.T), (len(uv), len(uv)))
        moved = (uv + weights @ uv / np.asarray(weights.sum(1))) / 2
        moved = (moved + _mirrored(moved[partner])) / 2
        moved[midline, 0] = 0
        uv = np.where(held[:, None], uv, moved)
    return uv


def snap_landmarks(
    uv: np.ndarray, faces: np.ndarray, free: np.ndarray, marks: np.ndarray, partner: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Places with the nearest free vertex moved onto each landmark, its partner onto the mirrored one, unless a
    triangle would turn over; and which vertices (V,) were.   marks: (68, 2)."""
    left = free.copy()
    for k, other in enumerate(MIRROR_68):
        if other < k:
            continue
        for v in np.asarray(cKDTree(uv).query((marks[k] + _mirrored(marks[other])) / 2, 6)[1]):
            w, moved = partner[v], uv.copy()
            moved[w], moved[v] = marks[other], marks[k]
            near = faces[np.isin(faces, (v, w)).any(1)]
            if left[v] and (v == w) == (k == other) and (_signed_areas(moved, near) > SYMMETRIC).all():
                uv, left[[v, w]] = moved, False
                break
    return uv, free & ~left


def against_surface(
    vertices: np.ndarray, faces: np.ndarray, operator: sp.csr_matrix, surface: np.ndarray, triangles: np.ndarray
) -> np.ndarray:
    """Which triangles (F,) of a template are turned over: against the model's normals at their corners.

    Args: vertices: (V, 3), operator @ surface.   surface, triangles: the model's vertices (N, 3) and triangles.
    """
    of_surface = np.zeros_like(surface)
    np.add.at(of_surface, triangles, cross(surface[triangles])[:, None])
    return (cross(vertices[faces]) * (operator @ of_surface)[faces].mean(1)).sum(1) <= 0


def untangle(disc: Disc, model: FaceModel, uv: np.ndarray, faces: np.ndarray, free: np.ndarray) -> np.ndarray:
    """Places with the free vertices of triangles that are turned over moved towards their neighbours' mean."""
    graph = adjacency_matrix(mesh_edges(faces), len(uv))
    mean, degree = model.mean.astype(np.float64), np.maximum(np.asarray(graph.sum(1)), 1)
    for _ in range(UNTANGLING_ROUNDS):
        operator = disc.weights(uv) @ disc.to_model
        turned = against_surface(operator @ mean, faces, operator, mean, model.triangles)
        at = np.unique(faces[turned])
        at = at[free[at]]
        if not len(at):
            break
        moved = (uv[at] + (graph @ uv / degree)[at]) / 2
        uv = uv.copy()
        uv[at] = np.where(abs(uv[at, :1]) < SYMMETRIC, [0, 1], 1) * moved
    return uv


def nudge(
    disc: Disc, model: FaceModel, uv: np.ndarray, faces: np.ndarray, free: np.ndarray, partner: np.ndarray
) -> np.ndarray:
    """Places with a free vertex of each triangle that is still turned over, and its partner, moved a little to where
    fewest are: at the corners of the mouth the face itself turns within a triangle."""
    mean, steps = model.mean.astype(np.float64), np.exp(1j * np.arange(16) * np.pi / 8)

    def turned(uv: np.ndarray, near: np.ndarray) -> np.ndarray:
        used, idx = np.unique(near, return_inverse=True)
        rows = (disc.weights(uv[used]) @ disc.to_model).tocsr()
        return against_surface(rows @ mean, idx.reshape(-1, 3), rows, mean, model.triangles)

    for triangle in faces[turned(uv, faces)]:
        for v in triangle[free[triangle]]:
            near, tried = faces[np.isin(faces, (v, partner[v])).any(1)], [uv]
            for step in np.append(steps, 2 * steps) * np.linalg.norm(uv[triangle] - uv[v], axis=1).max() / 4:
                tried.append(uv.copy())
                tried[-1][v] += step.real, step.imag
                tried[-1][partner[v]] = _mirrored(tried[-1][v])
            uv = min(tried, key=lambda places: (turned(places, near) | (_signed_areas(places, near) <= 0)).sum())
    return uv


def feature_template(model: FaceModel, levels: int) -> tuple[Template, sp.csr_matrix]:
    """The template on the mean face, and the map (V, model's vertices) to its place in any other face."""
    disc = flatten(model)
    marks = disc.uv[model.landmark_idx]
    coarse, focus = coarse_mesh(disc, model, marks.copy())
    uv, faces, unpool, held, mirror = refine(disc, coarse, levels, focus)
    skin = faces[-1][np.tile(coarse.groups, 4 ** (levels - 1)) == 0]
    inside = ~np.isin(np.arange(len(uv)), skin)  # a patch, whose vertices are no landmark's
    uv, exact = snap_landmarks(uv, faces[-1], ~(held | inside), marks, mirror)
    free = ~(held | exact)
    uv = nudge(disc, model, untangle(disc, model, uv, skin, free), skin, free & free[mirror], mirror)
    operator = (disc.weights(uv) @ disc.to_model).tocsr()
    carriers = Disc(uv, skin, uv, disc.to_model).weights(marks)
    template = Template(
        vertices=(operator @ model.mean.astype(np.float64)).astype(np.float32),
        faces=tuple(faces),
        unpool=tuple(unpool),
        landmark_faces=carriers.indices.reshape(68, 3).astype(np.int64),
        landmark_bary=carriers.data.reshape(68, 3),
        mirror=mirror,
        coarse_groups=coarse.groups,
    )
    return template, operator
