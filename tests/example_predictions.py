"""A made-up face with four levels over a checkered photo, which viewers and exports are tested with; and a made-up face
model, written in each format that such models come in."""

from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import scipy.io
import scipy.sparse as sp

from p2m_core.face_mesh import FaceMesh
from p2m_core.geometry.mesh import mesh_edges
from p2m_core.morphable.model import FaceModel
from p2m_synth.mat_files import save_face_model
from p2m_workbench.face_prediction import FacePrediction


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
) -> FacePrediction:
    """A prediction whose first level has 3 rings (rings + 1) + 1 vertices, with ground truth beside it."""
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
    return FacePrediction(name, mesh, photo(height, width), place(relief(discs[-1], 1.25), 0.30) if truth else None)


# --- face models, in the formats that users have them in -------------------------------------------


def face_sheet(shape_count: int = 5, expression_count: int = 3, rings: int = 24) -> FaceModel:
    """A face of 1801 vertices to lay a template on, seen from outside at +z; micrometres. Its directions are smooth."""
    disc, faces = hexagonal_disc(rings)
    mean = relief(disc) * 9e4
    rng = np.random.default_rng(0)
    waves = np.stack(
        [np.sin(mean @ rng.normal(size=3) * 3e-5 + k) for k in range(3 * (shape_count + expression_count))]
    )
    directions = waves.reshape(-1, 3, len(mean)).transpose(2, 1, 0).astype(np.float32)
    places = np.stack([np.cos(np.arange(68.0)), np.sin(np.arange(68.0))], 1) * np.linspace(0.1, 0.7, 68)[:, None]
    places[[0, 16]] = [[-0.8, 0], [0.8, 0]]  # the jaw's ends
    places[27:36] = [0, 1] * np.linspace(0.3, -0.1, 9)[:, None]  # the nose
    return FaceModel(
        mean=mean.astype(np.float32),
        shape_basis=np.ascontiguousarray(directions[..., :shape_count]),
        expression_basis=np.ascontiguousarray(directions[..., shape_count:]),
        shape_sigma=np.linspace(900, 100, shape_count),
        expression_sigma=np.linspace(300, 100, expression_count),
        triangles=faces,
        landmark_idx=np.linalg.norm(disc[:, None] - places, axis=2).argmin(0),
        name="sheet",
    )


def write_basel(folder: Path, model: FaceModel) -> Path:
    """Model_Shape.mat and Model_Exp.mat."""
    save_face_model(folder, model)
    return folder / "Model_Shape.mat"


def write_face3d(folder: Path, model: FaceModel) -> Path:
    """BFM.mat as face3d's script makes it: a struct, doubles, indices from 1, wound the other way, texture beside."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = model.mean.size, -1
    struct = {
        "shapeMU": model.mean.reshape(-1, 1).astype(np.float64) - 5,
        "shapePC": model.shape_basis.reshape(flat).astype(np.float64),
        "shapeEV": model.shape_sigma.reshape(-1, 1),
        "expMU": np.full((model.mean.size, 1), 5.0),
        "expPC": model.expression_basis.reshape(flat).astype(np.float64),
        "expEV": model.expression_sigma.reshape(-1, 1),
        "texMU": np.zeros((model.mean.size, 1)),
        "tri": (model.triangles[:, ::-1].T + 1).astype(np.float64),
        "tri_mouth": np.ones((3, 4)),
        "kpt_ind": (model.landmark_idx[None] + 1).astype(np.uint16),
    }
    scipy.io.savemat(folder / "BFM.mat", {"model": struct})
    return folder / "BFM.mat"


def write_3ddfa_v2(folder: Path, model: FaceModel) -> Path:
    """bfm_noneck_v3.pkl, tri.pkl and param_mean_std_62d_120x120.pkl; the deviations are of 40 and 10 directions."""
    folder.mkdir(parents=True, exist_ok=True)
    flat = model.mean.size, -1
    content = {
        "u": model.mean.reshape(-1, 1),
        "w_shp": model.shape_basis.reshape(flat),
        "w_exp": model.expression_basis.reshape(flat),
        "tri": np.zeros((3, 7), np.int64),  # outdated: tri.pkl is the one
        "keypoints": (3 * model.landmark_idx[:, None] + [0, 1, 2]).ravel(),
    }
    deviations = np.concatenate([np.ones(12), model.shape_sigma, model.expression_sigma])
    for name, value in (
        ("bfm_noneck_v3.pkl", content),
        ("tri.pkl", model.triangles.T.astype(np.int32)),
        ("param_mean_std_62d_120x120.pkl", {"mean": 0 * deviations, "std": deviations}),
    ):
        (folder / name).write_bytes(pickle.dumps(value, protocol=4))
    return folder / "bfm_noneck_v3.pkl"


FACE_MODEL_WRITERS = {"basel": write_basel, "face3d": write_face3d, "3ddfa_v2": write_3ddfa_v2}


def shuffled(model: FaceModel, size: int | None = None) -> FaceModel:
    """The same surface with its vertices in another order; with a size, of so many vertices, put into its triangles.

    Our own model becomes one of the Basel model's size, 53215 vertices, whose faces are the same.
    """
    count, faces = len(model.mean), model.triangles
    operator = sp.identity(count, format="csr")
    if size:
        pairs = mesh_edges(faces)
        vertices, faces = subdivide(model.mean, faces)
        split, left = np.split(faces, [size - len(vertices)])
        new = len(vertices) + np.arange(len(split))
        operator = sp.vstack([operator, _means(pairs, count)]).tocsr()
        operator = sp.vstack([operator, _means(split, len(vertices)) @ operator]).tocsr()
        a, b, c = split.T
        faces = np.concatenate([left, *(np.stack([i, j, new], 1) for i, j in ((a, b), (b, c), (c, a)))])
    order = np.random.default_rng(0).permutation(operator.shape[0])
    place = order.argsort()  # where each vertex goes
    points = model.sampled(operator[order])
    return dataclasses.replace(
        model, **vars(points), triangles=place[faces], landmark_idx=place[model.landmark_idx], name="shuffled"
    )


def _means(corners: np.ndarray, count: int) -> sp.csr_matrix:
    """The map (N, count) from vertices to the means of the so many in each row of (N, k)."""
    rows = np.arange(len(corners)).repeat(corners.shape[1])
    return sp.csr_matrix((np.full(corners.size, 1 / corners.shape[1]), (rows, corners.ravel())), (len(corners), count))
