"""Whether a mesh is sound: triangles that were turned over, or that run through each other."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from p2m_core.geometry.mesh import mesh_edges
from p2m_core.geometry.rays import meet_planes


def turned_over(vertices: np.ndarray, truth: np.ndarray, faces: np.ndarray) -> float:
    """Share of triangles whose normal is more than 90 degrees from that of the same triangle in the truth.

    Args: vertices, truth: (V, 3) in one frame.   faces: (F, 3).
    """
    a, b = (np.cross(x[faces[:, 1]] - x[faces[:, 0]], x[faces[:, 2]] - x[faces[:, 0]]) for x in (vertices, truth))
    return float(((a * b).sum(1) < 0).mean())


def intersecting(vertices: np.ndarray, faces: np.ndarray) -> float:
    """Share of triangles that an edge of another triangle, without a common vertex, runs through.

    Args: vertices: (V, 3).   faces: (F, 3).
    """
    vertices = np.asarray(vertices, np.float64)
    edges, corners = mesh_edges(faces), vertices[faces]
    centre, middle = corners.mean(1), vertices[edges].mean(1)
    radius = np.linalg.norm(corners - centre[:, None], axis=2).max(1)
    half = np.linalg.norm(vertices[edges[:, 1]] - vertices[edges[:, 0]], axis=1) / 2
    # An edge can only meet a triangle whose ball meets its own; radii by triangle, so one query serves all edges.
    near = cKDTree(middle).query_ball_point(centre, radius + half.max(), return_sorted=False)
    face_idx = np.repeat(np.arange(len(faces)), [len(found) for found in near])
    edge_idx = np.concatenate([np.asarray(found, np.int64) for found in near])
    apart = (faces[face_idx][:, :, None] != edges[edge_idx][:, None]).all((1, 2))
    close = np.linalg.norm(centre[face_idx] - middle[edge_idx], axis=1) <= radius[face_idx] + half[edge_idx]
    face_idx, edge_idx = face_idx[apart & close], edge_idx[apart & close]
    start, along = vertices[edges[edge_idx, 0]], vertices[edges[edge_idx, 1]] - vertices[edges[edge_idx, 0]]
    distance, weights = meet_planes(start, along, corners[face_idx])
    hit = (weights >= 0).all(1) & (distance >= 0) & (distance <= 1)
    return len(np.unique(face_idx[hit])) / len(faces)
