"""Our own morphable model: principal components of random heads, in the form of the Basel model's files.

The components span the whole head, and the face is a sparse linear map of it, so the drawn head and the
ground truth of its face come from the same coefficients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from filelock import FileLock
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from p2m_core.config.paths import resolve
from p2m_core.files import atomic_path
from p2m_core.geometry.landmarks import MIRROR_68
from p2m_core.geometry.similarity import umeyama
from p2m_core.morphable.model import FaceModel
from p2m_synth.head.asset import PARTS, catmull_clark, load_asset, quad_components, quads_to_triangles
from p2m_synth.head.expression import draw_expression, unit_basis
from p2m_synth.head.human_mean import human_mean_offset_dm
from p2m_synth.head.identity import Identity, draw_identity, target_basis, target_weights
from p2m_synth.mat_files import save_face_model
from p2m_synth.scene.elements import float32

VERSION = 5  # raise it with any change below, so that caches are built anew
N_PEOPLE, N_SHAPE, N_EXPRESSION = 1500, 199, 29
EYE_REACH = 2.0  # how far around an eyeball the face tells where it is, in its radii
UM_PER_DM = 1e5  # the Basel model counts micrometres

# The 68 landmarks on the mean head, dm: midline, and the subject's right half, mirrored for the left.
# Each lies where the mean of AFLW2000-3D's landmarks, under the best similarity, meets our mean head; those of
# eyes and mouth as near to it as the edges of lids and lips come (made by benchmarks/landmarks.py --derive). Where that
# is along the skin, landmarks alone do not tell: by what pictures show there, those of nose and lower lip lie 1.3 mm
# higher, to the nearest vertex (EXPERIMENTS.md, "The mean photo").
RIGHT_LANDMARKS_DM = {
    0: (-0.684, 7.217, 0.674), 1: (-0.669, 7.027, 0.688), 2: (-0.626, 6.839, 0.694), 3: (-0.592, 6.705, 0.749),
    4: (-0.536, 6.538, 0.813), 5: (-0.453, 6.419, 0.972), 6: (-0.348, 6.344, 1.159), 7: (-0.203, 6.274, 1.335),
    8: (0, 6.236, 1.393), 17: (-0.535, 7.428, 1.269), 18: (-0.463, 7.477, 1.377), 19: (-0.356, 7.494, 1.464),
    20: (-0.274, 7.479, 1.504), 21: (-0.193, 7.450, 1.524), 27: (0, 7.287, 1.546), 28: (0, 7.159, 1.637),
    29: (0, 7.064, 1.703), 30: (0, 6.957, 1.738), 31: (-0.111, 6.885, 1.535), 32: (-0.075, 6.867, 1.564),
    33: (0, 6.856, 1.606), 36: (-0.410, 7.273, 1.330), 37: (-0.355, 7.315, 1.408), 38: (-0.267, 7.324, 1.411),
    39: (-0.181, 7.267, 1.385), 40: (-0.256, 7.242, 1.405), 41: (-0.345, 7.243, 1.385), 48: (-0.220, 6.629, 1.413),
    49: (-0.154, 6.693, 1.536), 50: (-0.047, 6.729, 1.587), 51: (0, 6.726, 1.594), 57: (0, 6.558, 1.569),
    58: (-0.084, 6.562, 1.552), 59: (-0.155, 6.581, 1.511), 60: (-0.216, 6.635, 1.427), 61: (-0.074, 6.658, 1.537),
    62: (0, 6.657, 1.548), 66: (0, 6.641, 1.548), 67: (-0.073, 6.639, 1.536),
}  # fmt: skip


@dataclass(frozen=True)
class HeadModel:
    """The linear model of the whole head, at the resolution of the base mesh (n vertices).

    mean (n, 3) um; shape_basis (3 n, K) and expression_basis (3 n, M); shape_sigma (K,), expression_sigma (M,);
    weight (n,) of each vertex in the principal components; face_vertex_idx (V,): the face as vertices of the
    refined mesh; face_triangles (F, 3) and landmark_idx (68,) of these.
    """

    mean: np.ndarray
    shape_basis: np.ndarray
    shape_sigma: np.ndarray
    expression_basis: np.ndarray
    expression_sigma: np.ndarray
    weight: np.ndarray
    face_vertex_idx: np.ndarray
    face_triangles: np.ndarray
    landmark_idx: np.ndarray

    @cached_property
    def face_map(self) -> sp.csr_matrix:
        """The face's vertices as a linear map of the base vertices, (V, n)."""
        return refinement()[0][self.face_vertex_idx]

    def vertices(self, shape: np.ndarray, expression: np.ndarray) -> np.ndarray:
        """Base vertices of a head (n, 3), um."""
        offset = self.shape_basis @ np.float32(shape) + self.expression_basis @ np.float32(expression)
        return self.mean + offset.reshape(-1, 3)

    def shape_of(self, identity: Identity) -> np.ndarray:
        """Shape coefficients (K,) that come nearest to a person's head, size and place aside."""
        weights = target_weights(identity)
        used = np.flatnonzero(weights)  # a quarter of the targets
        vertices = mean_dm() * np.float32(UM_PER_DM) + (target_basis_um()[used].T @ weights[used]).reshape(-1, 3)
        core = self.weight == 1
        scale, rotation, shift = umeyama(vertices[core], self.mean[core])
        offset = (scale * vertices @ rotation.T + shift - self.mean) * self.weight[:, None] ** 2
        return self.shape_basis.T @ float32(offset.ravel())

    def expression_of(self, strength: np.ndarray) -> np.ndarray:
        """Expression coefficients (M,) of expression units' strengths (52,)."""
        offset = (np.float32(strength) @ unit_basis()).reshape(-1, 3) * np.float32(UM_PER_DM)
        return self.expression_basis.T @ float32((offset * self.weight[:, None] ** 2).ravel())

    def face_model(self) -> FaceModel:
        """The face alone, with its landmarks."""

        def on_face(basis: np.ndarray) -> np.ndarray:
            n = self.face_map.shape[1]
            return (self.face_map @ basis.reshape(n, -1)).reshape(-1, 3, basis.shape[1]).astype(np.float32)

        return FaceModel(
            mean=(self.face_map @ self.mean).astype(np.float32),
            shape_basis=on_face(self.shape_basis),
            shape_sigma=self.shape_sigma,
            expression_basis=on_face(self.expression_basis),
            expression_sigma=self.expression_sigma,
            triangles=self.face_triangles,
            landmark_idx=self.landmark_idx,
            name="synthetic",
            eyeball_map=self.eyeball_map(),
        )

    @threadpool_limits.wrap(limits=1)  # the same sums, so the same stores, however many threads the process has
    def eyeball_map(self) -> sp.csr_matrix:
        """Centre and front of the right and of the left eyeball as sums of the face's vertices around it, (4, V).

        They are fitted to what the eyeballs of the head do in all directions of the model: a sphere is laid through an
        eyeball of the mean head, and its centre and front move as the eyeball does.
        """
        asset, rows = load_asset(), []
        scaled = np.concatenate([self.shape_basis * self.shape_sigma, self.expression_basis * self.expression_sigma], 1)
        motion = np.concatenate([self.mean[..., None], scaled.reshape(len(self.mean), 3, -1)], 2).astype(np.float64)
        on_face = (self.face_map @ motion.reshape(len(motion), -1)).reshape(-1, *motion.shape[1:])
        for part in ("right_eye", "left_eye"):
            idx = np.unique(asset["quads"][asset["part"] == PARTS.index(part)])
            eyeball = self.mean[idx].astype(np.float64)
            x = np.linalg.lstsq(np.c_[2 * eyeball, np.ones(len(idx))], (eyeball**2).sum(1))[0]
            centre, radius = x[:3], np.sqrt(x[3] + x[:3] @ x[:3])
            near = cKDTree(on_face[..., 0]).query_ball_point(centre, EYE_REACH * radius, return_sorted=True)
            for point in (centre, centre + [0, 0, radius]):
                weights = affine_weights(eyeball, point)
                goal = np.einsum("n,nck->ck", weights, motion[idx])
                row = np.zeros(len(on_face))
                row[near] = affine_weights(on_face[near].reshape(len(near), -1), goal.ravel())
                rows.append(row)
        return sp.csr_matrix(np.stack(rows))


def affine_weights(points: np.ndarray, goal: np.ndarray) -> np.ndarray:
    """The weights (N,) of sum 1 with which points (N, D) come nearest to a goal (D,), the smallest ones of these."""
    ones = np.full((1, len(points)), abs(points).max())
    return np.linalg.lstsq(np.concatenate([points.T, ones]), np.append(goal, ones[0, 0]), rcond=1e-6)[0]


@cache
def mean_dm() -> np.ndarray:
    """MakeHuman's neutral vertices, without any target, moved to the human mean (n, 3)."""
    return float32(load_asset()["vertices_dm"] + human_mean_offset_dm())


@cache
def target_basis_um() -> sp.csr_matrix:
    """Shape targets in um, (T, 3 n): most move a small part of the head."""
    return sp.csr_matrix(target_basis() * np.float32(UM_PER_DM))


@cache
def refinement() -> tuple[sp.csr_matrix, np.ndarray, np.ndarray]:
    """The refined head mesh: map (m, n) from base vertices, quads (Q, 4), part of each quad (Q,)."""
    asset = load_asset()
    refined, quads = catmull_clark(asset["quads"], len(asset["vertices_dm"]))
    return refined.astype(np.float32), quads, np.tile(asset["part"], 4)


def principal_components(offsets: np.ndarray, weight: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Components of offsets (N, n, 3) about zero: basis (3 n, count), orthonormal under the weights; sigma (count,)."""
    weighted = (offsets * weight[:, None]).reshape(len(offsets), -1)
    variance, combination = np.linalg.eigh((weighted @ weighted.T).astype(np.float64))
    variance, combination = variance[::-1][:count], combination[:, ::-1][:, :count]
    basis = weighted.T @ (combination / np.sqrt(variance)).astype(np.float32)
    # eigh leaves the sign open: the largest entry is made positive, so that coefficients mean the same everywhere.
    basis *= np.sign(basis[abs(basis).argmax(0), np.arange(count)])
    return basis / np.repeat(weight, 3)[:, None], np.sqrt(variance / len(offsets)).astype(np.float32)


def face_region(points_dm: np.ndarray, ears: np.ndarray) -> np.ndarray:
    """Which points of the refined mean head belong to the face: hairline to below the jaw, without the ears."""
    x, y, z = points_dm.T
    return (z > 0.5) & (y > 6.98 - 0.686 * z) & (y < 8.0 - 0.5 * x**2) & (ears < 0.95)


def cut_face(mean_points_dm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The face as a part of the refined mesh: refined vertex indices (V,), triangles (F, 3) over them."""
    refined, quads, part = refinement()
    inside = face_region(mean_points_dm, refined @ load_asset()["masks"][:, 2])
    quads = quads[(part == PARTS.index("skin")) & inside[quads].all(1)]
    component = quad_components(quads, len(inside))
    quads = quads[component == np.bincount(component).argmax()]
    used, renumbered = np.unique(quads, return_inverse=True)
    return used, quads_to_triangles(renumbered.reshape(quads.shape))


def landmark_vertices(face_points_dm: np.ndarray) -> np.ndarray:
    """The face vertex (68,) nearest to each landmark's place on the mean head."""
    places = np.zeros((68, 3))
    for k, place in RIGHT_LANDMARKS_DM.items():
        places[k] = place
        places[MIRROR_68[k]] = np.array(place) * [-1, 1, 1]
    return cKDTree(face_points_dm).query(places)[1]


def build_head_model(seed: int = 0) -> HeadModel:
    """The head model from random people and expressions; some 10 s."""
    asset, rng = load_asset(), np.random.default_rng(seed)
    n = len(asset["vertices_dm"])
    skin = np.isin(np.arange(n), asset["quads"][asset["part"] == PARTS.index("skin")])
    weights = np.stack([target_weights(draw_identity(rng)) for _ in range(N_PEOPLE)])
    heads = (weights @ target_basis()).reshape(N_PEOPLE, n, 3) + mean_dm()
    mean = heads.mean(0)
    core = skin & (mean[:, 1] > 6.2) & (mean[:, 2] > 0.6) & (asset["masks"][:, 2] < 0.5)
    for _ in range(3):  # generalised Procrustes analysis on the face
        target = np.broadcast_to(mean[core], heads[:, core].shape)
        scale, rotation, shift = umeyama(heads[:, core], target)
        heads = float32(scale[:, None, None] * (heads @ np.swapaxes(rotation, 1, 2)) + shift[:, None])
        mean = heads.mean(0)
    # The face decides the components; the rest of the head follows, the shoulders least.
    weight = np.where(core, 1, np.where(mean[:, 1] < 6.0, 0.1, 0.35)).astype(np.float32)
    shape_basis, shape_sigma = principal_components(heads - mean, weight, N_SHAPE)
    strengths = np.stack([draw_expression(rng)[1] for _ in range(N_PEOPLE)]).astype(np.float32)
    expressions = (strengths @ unit_basis()).reshape(N_PEOPLE, n, 3)
    expression_basis, expression_sigma = principal_components(expressions, weight, N_EXPRESSION)

    refined = refinement()[0]
    face_idx, triangles = cut_face(refined @ mean)
    return HeadModel(
        mean=float32(mean * UM_PER_DM),
        shape_basis=shape_basis,
        shape_sigma=float32(shape_sigma * UM_PER_DM),
        expression_basis=expression_basis,
        expression_sigma=float32(expression_sigma * UM_PER_DM),
        weight=weight,
        face_vertex_idx=face_idx,
        face_triangles=triangles,
        landmark_idx=landmark_vertices(refined[face_idx] @ mean),
    )


def default_folder() -> Path:
    """Where the built model is kept."""
    return resolve("data/processed/face_model")


def keep_head_model(path: Path) -> None:
    """Build the head model and write it to `path`, after its face in the Basel model's form beside it."""
    with threadpool_limits(1):  # the same sums, so the same faces, however many threads the process has
        model = build_head_model()
    save_face_model(path.parent, model.face_model())
    with atomic_path(path) as temporary:
        np.savez(temporary, **{field.name: getattr(model, field.name) for field in fields(model)})


def read_built(path: Path, build: Callable[[Path], None]) -> dict[str, np.ndarray]:
    """The arrays of an .npz that `build` writes to `path` on first use.

    Of processes that start together one builds it and the others wait: every one of them reads the same bits.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_suffix(".lock")):
            if not path.exists():
                build(path)
    with np.load(path) as file:
        return {name: file[name] for name in file.files}


@cache
def load_head_model(folder: Path | None = None) -> HeadModel:
    """The head model, built on first use and kept in `folder` beside Model_Shape.mat and Model_Exp.mat."""
    return HeadModel(**read_built((folder or default_folder()) / f"head-v{VERSION}.npz", keep_head_model))


@cache
def own_face_model() -> FaceModel:
    """The face of `load_head_model`: the project's own face model, for preprocessing."""
    return load_head_model().face_model()
