"""The CC0 head: base mesh, shape targets and expression units of MakeHuman, refined to what is drawn.

Units: dm (MakeHuman's), x to the subject's left, y up, z to the viewer. See assets/NOTICE.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from scipy.sparse.csgraph import connected_components

from p2m_core.errors import InputError
from p2m_core.geometry.mesh import adjacency_matrix

ASSET_PATH = Path(__file__).parent / "assets" / "head.npz"
PARTS = (
    "skin", "left_eye", "right_eye", "upper_teeth", "lower_teeth", "tongue", "mouth_cavity", "eye_cavity", "lashes",
)  # fmt: skip
QUANTUM_DM = 1e-4  # displacements are stored as int16 multiples of 0.01 mm


@cache
def load_asset() -> dict[str, np.ndarray]:
    """The arrays of assets/head.npz, displacements in dm."""
    if not ASSET_PATH.exists():
        raise InputError(ASSET_PATH, "", "is missing", "reinstall the package, or run p2m_synth.head.build_asset")
    with np.load(ASSET_PATH) as file:
        asset = {name: file[name] for name in file.files}
    for name in ("ancestry", "build", "local", "unit"):
        asset[name] = asset[name].astype(np.float32) * np.float32(QUANTUM_DM)
    asset["quads"] = asset["quads"].astype(np.int64)
    asset["masks"] = asset["masks"].astype(np.float32) / 255
    return asset


def catmull_clark(quads: np.ndarray, count: int) -> tuple[sp.csr_matrix, np.ndarray]:
    """One step of Catmull-Clark subdivision as a sparse linear map.

    Args:    quads: (Q, 4).   count: number of vertices n.
    Returns: map (n + E + Q, n): moved old vertices, then edge points, then face points; quads (4 Q, 4).
    Source:  Catmull and Clark 1978; boundaries as cubic B-splines.
    """
    n_quads = len(quads)
    half_edges = np.sort(np.stack([quads, np.roll(quads, -1, 1)], 2).reshape(-1, 2), 1)
    edges, edge_of, uses = np.unique(half_edges, axis=0, return_inverse=True, return_counts=True)
    edge_of, n_edges = edge_of.reshape(n_quads, 4), len(edges)
    corner_face = np.repeat(np.arange(n_quads), 4)

    def incidence(rows, columns, shape):
        return sp.csr_matrix((np.ones(len(rows)), (rows, columns)), shape=shape)

    face_point = incidence(corner_face, quads.ravel(), (n_quads, count)) / 4
    midpoint = incidence(np.repeat(np.arange(n_edges), 2), edges.ravel(), (n_edges, count)) / 2
    edge_faces = incidence(edge_of.ravel(), corner_face, (n_edges, n_quads))
    inner = uses == 2
    edge_point = sp.diags(np.where(inner, 0.5, 1)) @ midpoint
    edge_point = edge_point + sp.diags(np.where(inner, 0.25, 0)) @ edge_faces @ face_point

    vertex_faces = incidence(quads.ravel(), corner_face, (count, n_quads))
    vertex_edges = incidence(edges.ravel(), np.repeat(np.arange(n_edges), 2), (count, n_edges))
    valence = np.maximum(np.asarray(vertex_edges.sum(1)).ravel(), 1)
    face_count = np.maximum(np.asarray(vertex_faces.sum(1)).ravel(), 1)
    on_rim = np.zeros(count, bool)
    on_rim[edges[~inner]] = True
    inside = (
        sp.diags(1 / (valence * face_count)) @ vertex_faces @ face_point
        + sp.diags(2 / valence**2) @ vertex_edges @ midpoint
        + sp.diags((valence - 3) / valence)
    )
    rim_edges = vertex_edges @ sp.diags((~inner).astype(float))
    rim_count = np.maximum(np.asarray(rim_edges.sum(1)).ravel(), 1)
    rim = sp.diags(np.full(count, 0.5)) + sp.diags(0.5 / rim_count) @ rim_edges @ midpoint
    old = sp.diags((~on_rim).astype(float)) @ inside + sp.diags(on_rim.astype(float)) @ rim

    edge_idx, face_idx = count + edge_of, count + n_edges + np.arange(n_quads)
    refined = [np.stack([quads[:, k], edge_idx[:, k], face_idx, edge_idx[:, k - 1]], 1) for k in range(4)]
    return sp.vstack([old, edge_point, face_point]).tocsr(), np.concatenate(refined)


def quad_components(quads: np.ndarray, count: int) -> np.ndarray:
    """Label of the connected component of each quad (Q,); count: number of vertices."""
    edges = np.concatenate([quads[:, [0, 1]], quads[:, [1, 2]], quads[:, [2, 3]]])
    return connected_components(adjacency_matrix(edges, count), directed=False)[1][quads[:, 0]]


def quads_to_triangles(quads: np.ndarray) -> np.ndarray:
    """(Q, 4) -> (2 Q, 3)."""
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
